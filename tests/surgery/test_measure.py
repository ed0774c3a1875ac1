"""Deciding by measurement: what is faster stays, what is not does not, and the report says both times."""

import json
import time

import pytest
import torch
from timm.layers import Attention, Mlp
from torch import nn

from budget import assert_within_budget
from regard.dense import PackedLinear
from regard.surgery import Times, adapter, calibration, fuse, measure, rules, timing
from regard.surgery.inference.plans import PLANS
from regard.surgery.timing import race  # before it is replaced for the tests
from tests.surgery.models import Pair, X, build, image, logits, truth_of_build

FASTER, SLOWER = Times(0.003, 0.002, 1.5, 1.4), Times(0.002, 0.003, 0.67, 0.6)


@pytest.fixture
def races(monkeypatch):
    """Answers of the races to come, in turn, and the calls of those that were run."""
    answers, run = [], []

    def race(calls, seconds):
        del seconds
        run.append([call() for call in calls])
        return answers.pop(0)

    monkeypatch.setattr(timing, "race", race)
    return answers, run


def rows(report):
    """The lines of a printed report, without its columns."""
    return [" ".join(line.split()) for line in str(report).splitlines()]


def blocks(depth=3):
    """Equal attention modules, then as many equal MLPs."""
    attention = [Attention(16, num_heads=2) for _ in range(depth)]
    return nn.Sequential(*attention, *(Mlp(16, 24) for _ in range(depth))).eval()


def test_equal_modules_are_measured_once(races):
    answers, run = races
    answers += [[SLOWER], [FASTER], [FASTER]]  # the MLPs, the attention, the whole model
    report = fuse(blocks(), example=X).fuse_report
    assert len(run) == 3
    assert [one.times for one in report.replaced] == [FASTER] * 3
    assert [(one.module, one.reason, one.times) for one in report.left] == [("Mlp", "it is not faster", SLOWER)] * 3
    assert report.times == FASTER
    lines = rows(report)
    assert "replaced * Attention by softmax attention (3 times): 6.00 ms, before 9.00 ms" in lines
    assert "left * Mlp (3 times): it is not faster; 6.00 ms, regard 9.00 ms" in lines
    assert "speed 2.00 ms, before 3.00 ms 1.50 times as fast" in lines


def test_a_slower_model_stays_as_it_was(races):
    answers, _ = races
    answers += [[FASTER], [FASTER], [SLOWER]]
    model = blocks()
    fused = fuse(model, example=X)
    assert [type(one) for one in fused] == [type(one) for one in model]
    report = fused.fuse_report
    assert not report.replaced
    assert {one.reason for one in report.left} == {"the model as a whole is not faster"}
    assert report.notes == ("all replacements were undone: the model as a whole is not faster",)
    assert report.times == Times(0.002, 0.002, 1.0, 1.0)
    assert report.trials == {"fused": SLOWER}
    assert torch.equal(fused(X), model(X))


def test_nothing_faster_is_not_raced_as_a_whole(races):
    answers, run = races
    answers += [[SLOWER], [SLOWER]]
    report = fuse(blocks(), example=X).fuse_report
    assert len(run) == 2
    assert report.times is None
    assert rows(report)[0] == "nothing was replaced"


@pytest.mark.one_parameter
@pytest.mark.parametrize("winner", ["original", "original layout", "channels-last", "panels"])
def test_the_fastest_form_for_inference(monkeypatch, winner):
    name = "swiftformer_xs"
    model = build(name)[0]
    forms = {"original layout": SLOWER, "channels-last": SLOWER, "panels": SLOWER}
    forms |= {} if winner == "original" else {winner: FASTER}

    def race(calls, seconds):
        del seconds
        return [FASTER] if len(calls) == 2 else list(forms.values())

    monkeypatch.setattr(timing, "race", race)
    fused = fuse(model, inference=True)
    report, x = fused.fuse_report, image(name)
    assert report.trials == forms
    assert report.times.is_faster == (winner != "original")
    channels_last = fused.stem[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert channels_last == (winner in ("channels-last", "panels"))
    assert bool(report.folded) == bool(report.replaced) == (winner != "original")
    assert ("nothing was changed" in str(report)) == (winner == "original")
    assert not fused.training
    with torch.inference_mode():
        assert_within_budget(logits(fused, x), truth_of_build(name))


def test_layers_are_packed_if_that_is_faster(races):
    answers, _ = races
    model = nn.Sequential(nn.Linear(16, 24), nn.Linear(24, 16), nn.Linear(16, 24)).eval()
    answers += [[FASTER], [SLOWER]] * 2 + [[FASTER, FASTER, SLOWER]]  # two groups in two forms, then the model
    fused = fuse(model, inference=True, example=X)
    assert [type(one) for one in fused] == [PackedLinear, nn.Linear, PackedLinear]
    report = fused.fuse_report
    assert [(one.is_packed, one.times) for one in report.packings] == [(True, FASTER), (False, SLOWER), (True, FASTER)]
    assert rows(report)[0] == "packed * Linear (2 times): 4.00 ms, before 6.00 ms"
    assert rows(report)[1] == "unpacked 1 Linear: 2.00 ms, regard 3.00 ms"
    assert "2 layers keep a second copy" in str(report)


def test_training_is_measured_with_gradients():
    for is_training in (True, False):
        pair, grads = Pair().train(is_training), []
        pair.second.qkv.weight.register_hook(grads.append)
        fuse(pair, example=X, check=False)
        assert bool(grads) == is_training
        assert all(parameter.grad is None for parameter in pair.parameters())
        assert pair.training == is_training


def test_measuring_leaves_no_trace():
    model = nn.Sequential(nn.Conv2d(3, 16, 1), nn.BatchNorm2d(16), nn.Dropout(0.5), nn.Flatten(2)).append(Turned())
    model.append(Attention(16, num_heads=2))
    state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    x = torch.randn(2, 3, 4, 4)
    given = x.clone()
    torch.manual_seed(3)
    expected = torch.rand(1)
    for options in ({}, {"inference": True}):
        torch.manual_seed(3)
        report = fuse(model, example=x, **options).fuse_report
        assert report.times is not None
        assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(tensor, state[key]) for key, tensor in model.state_dict().items())
    assert torch.equal(x, given)
    assert model.training
    assert not any(one._forward_hooks or one._forward_pre_hooks for one in model.modules())


class Turned(nn.Module):
    def forward(self, x):
        return x.mT


def test_unmeasured_is_said(races):
    _, run = races
    for options, reason in (
        ({"measure": False, "example": X}, "measure=False"),
        ({}, "its image size is not known; pass a batch as example="),
        ({"example": torch.zeros(1, 2, 3, 4)}, "the model raises "),
    ):
        for inference in (False, True):
            report = fuse(Pair(), inference=inference, **options).fuse_report
            assert report.unmeasured.startswith(reason)
            assert f"not measured: {reason}" in str(report)
            assert len(report.replaced) == 2
    assert not run


@pytest.mark.parametrize("inference", [False, True])
def test_the_calibration_decides_without_a_measurement(monkeypatch, inference):
    stored = {"for_timm.mlp.Mlp": 0.9, "PackedLinear": 0.9, "plan original layout": 1.2, "plan channels-last": 1.1}
    monkeypatch.setattr(calibration, "speedups", lambda: stored)
    fused = fuse(blocks(1), example=X, measure=False, inference=inference)
    report = fused.fuse_report
    assert [one.module for one in report.replaced] == ["Attention"]
    assert [one.reason for one in report.left] == ["it is not faster in the stored calibration"]
    assert not any(isinstance(one, PackedLinear) for one in fused.modules())
    assert not any(one.is_packed for one in report.packings)


def test_unreached_modules_are_left_to_the_calibration(monkeypatch):
    pair = Pair().eval()
    pair.third = Attention(16, num_heads=2)
    assert [one.times is None for one in fuse(pair, example=X).fuse_report.replaced] == [False, False, True]
    monkeypatch.setattr(calibration, "speedups", lambda: {"for_timm.vit.Attention": 0.9})
    report = fuse(pair, example=X).fuse_report
    assert [one.path for one in report.replaced] == ["first", "second"]
    assert [one.path for one in report.left] == ["third"]


def test_drawn_images_are_measured_one_by_one(races):
    answers, run = races
    model, shapes = build("deit_tiny_patch16_224")[0], []
    model.register_forward_pre_hook(lambda _, args: shapes.append(len(args[0])))
    answers += [[FASTER]] * 3
    fuse(model)
    assert run
    assert shapes[0] == 2
    assert shapes[-3:] == [1, 1, 2]  # the race, then the check of what is left


def test_modules_that_differ_are_not_alike():
    modules = [Attention(16, num_heads=2), Attention(16, num_heads=4), Attention(16, num_heads=2, qkv_bias=True)]
    keys = {measure._configuration(one) for one in modules}
    assert len(keys) == 3
    assert measure._configuration(Attention(16, num_heads=2, proj_drop=0.5)) in keys
    assert measure._describe((X, {"x": [X, None]})) == measure._describe((X.clone(), {"x": [X, None]}))
    assert measure._describe(X) != measure._describe(X.mT.contiguous().mT)


def test_races_are_fair():
    """A wait takes at least its time, however busy the machine is."""
    order = []

    def pause(name, seconds):
        def call():
            order.append(name)
            end = time.thread_time() + seconds
            while time.thread_time() < end:
                pass

        return call

    slower, faster = race((pause("a", 0.002), pause("b", 0.008), pause("c", 0.0)), 0.0)
    turns = [order[place : place + 3] for place in range(6, len(order), 3)]
    assert turns == ([["a", "b", "c"], ["c", "b", "a"]] * 4)[: timing.MIN_ROUNDS]
    assert slower.before == faster.before >= 0.002
    assert slower.after >= 0.008
    assert not slower.is_faster
    assert faster.is_faster


def test_a_gain_within_the_noise_is_none():
    assert Times(1.0, 0.9, 1.1, 1.0).is_faster
    assert not Times(1.0, 0.9, 1.1, 0.99).is_faster
    assert not Times(1.0, 0.98, 1.02, 1.01).is_faster


def test_stored_calibrations_name_what_exists():
    kinds = {adapter.adapter_name(one) for one in rules.ADAPTERS} | {f"plan {one.name}" for one in PLANS}
    kinds |= {"PackedLinear", "PackedConv2d", "PackedConv2d, 1x1", "PackedConv2d, groups"}
    stored = json.loads(calibration.FILE.read_text())
    assert stored
    for instruction_set, entry in stored.items():
        assert instruction_set in ("portable", "x86_64_v3", "x86_64_v4")
        assert entry["processor"] and entry["torch"]
        assert set(entry["speedups"]) <= kinds
        assert all(speedup > 0 for speedup in entry["speedups"].values())

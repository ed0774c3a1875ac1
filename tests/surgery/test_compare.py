"""The check of `fuse`, and what the report says about it."""

import itertools
import math

import pytest
import timm
import torch
from timm.layers import Attention
from torch import nn

from budget import assert_within_budget
from regard.surgery import compare, fuse
from tests.surgery.models import Pair, X, build, truth_of


class Merging(nn.Linear):
    """A low-rank layer that adds itself to its weight when training ends, as loralib's does."""

    def __init__(self):
        super().__init__(16, 16)
        self.update, self.merged = nn.Parameter(torch.randn(16, 16)), False

    def train(self, mode=True):
        if not mode and not self.merged:
            self.weight.data += self.update.data
        self.merged = self.merged or not mode
        return super().train(mode)

    def forward(self, x):
        return super().forward(x) if self.merged else super().forward(x) + x @ self.update.mT


@pytest.mark.parametrize("inference", [False, True])
def test_the_check_merges_nothing(inference):
    model = nn.Sequential(Attention(16, num_heads=2), Merging())
    expected, weight = truth_of(model, X), model[1].weight.clone()
    fused = fuse(model, example=X, inference=inference)
    assert torch.equal(model[1].weight, weight)
    assert not model[1].merged
    assert len(fused.fuse_report.replaced) == 1
    assert_within_budget(fused(X), expected)


class Counting(Pair):
    """A model that changes its buffers and its input."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("last", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        self.last = self.calls + 1
        return super().forward(x.add_(self.calls))


def test_buffers_and_examples_stay():
    model, x = Counting(), X.clone()
    last = model.last
    report = fuse(model, example={"x": x}).fuse_report
    assert len(report.replaced) == 2
    assert report.difference <= report.tolerance
    assert torch.equal(x, X)
    assert model.calls == 0
    assert model.last is last
    handed = (x,)
    fuse(model, example=handed, inplace=True)
    assert torch.equal(x, X)
    assert model.calls == 0
    assert model.last is last


def test_originals_that_do_not_repeat_themselves():
    class Noisy(Pair):
        def __init__(self):
            super().__init__()
            self.noise = itertools.count()

        def forward(self, x):
            return super().forward(x) + next(self.noise)

    report = fuse(Noisy(), example=X).fuse_report
    assert report.unchecked == "the original does not repeat its own outputs"
    assert report.difference is None
    assert [one.difference <= one.tolerance for one in report.replaced] == [True, True]


def test_models_whose_modules_alone_can_be_compared():
    class Listing(Pair):
        def forward(self, x):
            return super().forward(x).argmax(-1).tolist()

    class Headed(Pair):
        def forward(self, x):
            return 0 * super().forward(x)

    class Divided(Pair):
        def forward(self, x):
            return super().forward(x) / 0

    for model, reason in (
        (Listing(), "the original returns no floating-point tensors"),
        (Headed(), "the original's outputs are all zero"),
        (Divided(), "the original's outputs are not finite"),
    ):
        report = fuse(model, example=X).fuse_report
        assert report.unchecked == reason
        assert report.difference is None
        assert all(0 <= one.difference <= one.tolerance for one in report.replaced)
        assert "modules" in str(report)


def test_how_to_compare_is_said_to_those_who_gave_no_batch():
    model = timm.create_model("vit_tiny_patch16_224", depth=1, img_size=64, num_classes=3)
    nn.init.zeros_(model.head.weight)
    assert fuse(model).fuse_report.unchecked == "the original's outputs are all zero; pass a batch as example="
    x = torch.randn(1, 3, 64, 64)
    assert fuse(model, example=x).fuse_report.unchecked == "the original's outputs are all zero"


def test_errors_are_told_in_one_line():
    class Failing(Pair):
        def forward(self, x):
            raise ValueError("\n  The first line\nsays nothing." + " More follows." * 99)

    reason = fuse(Failing(), example=X).fuse_report.unchecked
    assert reason.startswith("the original raises ValueError: The first line says nothing. More")
    assert reason.endswith(" ...")
    assert len(reason) < 250


def test_half_precision_inside_counts():
    class Cast(Pair):
        def forward(self, x):
            return super().forward(x.bfloat16()).float()

    report = fuse(Cast().bfloat16(), example=X).fuse_report
    assert len(report.replaced) == 2
    assert report.tolerance == 0.05
    assert [one.tolerance for one in report.replaced] == [0.05] * 2
    mixed = nn.ModuleList([Pair().bfloat16(), Pair()])
    assert compare.rounding_tolerance([], mixed[1]) == pytest.approx(1e-5)
    assert compare.rounding_tolerance([], mixed) == 0.05


def test_modules_that_the_check_did_not_reach():
    pair = Pair()
    pair.third = Attention(16, num_heads=2)
    report = fuse(pair, example=X).fuse_report
    assert [one.note for one in report.replaced] == ["", "", "not reached by the check"]
    assert all(not one.note for one in fuse(pair, check=False).fuse_report.replaced)


def test_nothing_was_replaced():
    report = fuse(Pair().requires_grad_(False).first.qkv, example=X[..., :16]).fuse_report
    assert str(report).startswith("nothing  to replace")
    pair = Pair(Attention(16, num_heads=2, gated=True))
    pair.second = nn.Identity()
    assert str(fuse(pair, example=X).fuse_report).startswith("nothing  was replaced")


def test_comparing():
    one = torch.ones(3)
    assert compare.relative_difference([one], [one * 1.5]) == 0.5
    assert compare.relative_difference([one], [torch.ones(2)]) == math.inf
    assert compare.relative_difference([one], [one, one]) == math.inf
    assert compare.relative_difference([one * math.nan], [one * math.nan]) == math.inf
    assert compare.relative_difference([torch.ones(0)], [torch.ones(0)]) == 0


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("vit_relpos_small_patch16_224", {"depth": 1, "img_size": 64}),
        ("nest_tiny", {}),
    ],
)
def test_attention_next_to_an_mlp_that_is_known(name, options):
    report = fuse(timm.create_model(name, num_classes=3, **options), check=False).fuse_report
    assert {one.module for one in report.replaced} == {"Mlp"}
    assert all("regard does not know this class" in one.reason for one in report.left)
    assert {one.path.rpartition(".")[2] for one in report.left} == {"attn"}


def test_whatever_calls_itself_attention():
    inner = type("TinyAttn", (nn.Module,), {})()
    inner.layer = nn.Linear(2, 2)
    outer = type("OuterAttention", (nn.Module,), {})()
    outer.inner = inner
    assert [one.module for one in fuse(outer).fuse_report.left] == ["TinyAttn"]


def test_folded_models_of_transformers_are_not_for_saving():
    for name, said in (("swiftformer", True), ("vit", False)):
        notes = fuse(build(name)[0], inference=True).fuse_report.notes
        assert any("save_pretrained" in note for note in notes) == said

"""`fuse` on whole models of timm and transformers: same outputs, same names, same parameters."""

import copy
import io

import pytest
import torch

from budget import assert_within_budget, error, rounding, truth
from regard.dense import Packed
from regard.surgery import FuseReport, fuse
from tests.surgery.models import DRAWS, MODELS, build, image, logits, truth_of_build


def gradients(model):
    """Return a function of an image: the gradients of all parameters; zero for those that get none."""

    def compute(x):
        parameters = list(model.parameters())
        grads = torch.autograd.grad(logits(model, x).square().sum(), parameters, allow_unused=True)
        return [torch.zeros_like(one) if grad is None else grad for one, grad in zip(parameters, grads, strict=True)]

    return compute


@pytest.fixture(scope="module", params=MODELS)
def case(request):
    model, kind, times = build(request.param)
    return request.param, model, fuse(model), kind, times


@pytest.mark.one_parameter
def test_outputs_are_the_same(case):
    name, _, fused, _, _ = case
    with torch.inference_mode():
        assert_within_budget(logits(fused, image(name)), truth_of_build(name))


def test_every_replacement_is_reported(case):
    _, model, fused, kind, times = case
    report = fused.fuse_report
    assert len(report.replaced) == times
    assert kind in {one.module for one in report.replaced}
    assert not report.left
    assert 0 <= report.difference <= report.tolerance
    assert all(one.difference <= report.tolerance for one in report.replaced)
    for one in report.replaced:
        assert type(fused.get_submodule(one.path)).__name__ == f"Fused{one.module}"
        assert type(model.get_submodule(one.path)).__name__ == one.module
    assert f"{kind} by " in str(report)


def test_parameters_are_shared_and_named_alike(case):
    _, model, fused, _, _ = case
    assert type(fused) is type(model)
    assert list(fused.state_dict()) == list(model.state_dict())
    parameters = dict(model.named_parameters())
    assert all(parameter is parameters[name] for name, parameter in fused.named_parameters())
    buffers = dict(model.named_buffers())
    assert all(buffer is buffers[name] for name, buffer in fused.named_buffers())


@pytest.mark.one_parameter
def test_gradients_are_the_same(case):
    name, model, fused, _, _ = case
    x = image(name, batch=1)
    expected = truth(gradients(copy.deepcopy(model).double()), x, draws=DRAWS)
    assert_within_budget(gradients(fused)(x), expected)


def test_a_training_step_trains_the_original(case):
    name, model, fused, _, _ = case
    model, fused = copy.deepcopy((model, fused))
    fused.train()
    before = {key: one.detach().clone() for key, one in model.named_parameters()}
    optimizer = torch.optim.SGD(fused.parameters(), lr=0.1)
    logits(fused, image(name)).square().sum().backward()
    optimizer.step()
    steps = {key: one.grad for key, one in fused.named_parameters() if one.grad is not None}
    assert {key for key, one in steps.items() if one.any()} >= {key for key in before if key.endswith("proj.weight")}
    for key, one in model.named_parameters():
        stepped = before[key] - 0.1 * steps[key] if key in steps else before[key]
        assert error(one, stepped) <= rounding(stepped, one.dtype)


def test_copies_and_pickles(case):
    name, _model, fused, _, _ = case
    file = io.BytesIO()
    torch.save(fused, file)
    file.seek(0)
    x = image(name)
    with torch.inference_mode():
        for again in (copy.deepcopy(fused), torch.load(file, weights_only=False)):
            assert_within_budget(logits(again, x), truth_of_build(name))
            assert isinstance(again.fuse_report, FuseReport)


@pytest.mark.one_parameter
def test_inference_folds_and_agrees(case):
    name, model, _, _, _ = case
    state = copy.deepcopy(model.state_dict())
    folded = fuse(model, inference=True)
    packed = sum(isinstance(module, Packed) for module in folded.modules())
    notes = [str(packed)] * bool(packed)
    notes += ["save_pretrained"] * (bool(folded.fuse_report.folded) and hasattr(model, "save_pretrained"))
    assert [note.split(" ")[0] for note in folded.fuse_report.notes] == notes
    for one in folded.fuse_report.replaced:
        folded.get_submodule(one.path)
    x = image(name)
    with torch.inference_mode():
        expected = truth_of_build(name)
        assert_within_budget(logits(folded, x), expected)
        assert error(logits(folded.double(), x.double()), expected.exact[0]) <= expected.allowed[0]
    mine = {id(parameter) for parameter in model.parameters()}
    assert not mine & {id(parameter) for parameter in folded.parameters()}
    assert all(torch.equal(tensor, state[key]) for key, tensor in model.state_dict().items())
    if "swiftformer" in name or "mobilevit" in name:
        assert folded.fuse_report.folded
        norms = [one for one in folded.modules() if isinstance(one, torch.nn.BatchNorm2d)]
        assert len(norms) <= 1  # the one before SwiftFormer's classifiers


@pytest.mark.parametrize("inference", [False, True])
def test_inplace_changes_the_model_itself(inference):
    model, _, times = build("swiftformer_xs")
    x = image("swiftformer_xs")
    assert fuse(model, inplace=True, inference=inference) is model
    assert len(model.fuse_report.replaced) == times
    with torch.inference_mode():
        assert_within_budget(model(x), truth_of_build("swiftformer_xs"))


def test_folded_models_still_have_gradients():
    model, _, _ = build("swiftformer_xs")
    folded = fuse(model, inference=True)
    x = image("swiftformer_xs").requires_grad_()
    folded(x).sum().backward()
    exact = copy.deepcopy(model).double()
    expected = truth(lambda x: torch.autograd.grad(exact(x.requires_grad_()).sum(), x), x, draws=DRAWS)
    assert_within_budget(x.grad, expected)
    assert all(parameter.grad is not None for key, parameter in folded.named_parameters() if not key.endswith("w_g"))


def test_one_replacement_per_model_of_several():
    pair = torch.nn.ModuleDict({"a": build("deit")[0], "b": build("deit_tiny_patch16_224")[0]})
    report = fuse(pair).fuse_report
    assert [one.path.split(".")[0] for one in report.replaced] == ["a"] * 4 + ["b"] * 4
    assert "pass a batch as example=" in report.unchecked

"""One contract for all models: what they compute, save and refuse is the same whatever the family."""

import pytest
import torch
from torch import nn

from budget import assert_within_budget
from regard.errors import CheckpointError, OptionError, ShapeError
from regard.models import MODELS, create_model, list_models, load_weights, save_weights

from .networks import SMALL, images, sizes, small, truth_of


@pytest.mark.parametrize("name", SMALL)
def test_small_models_are_small(name):
    assert sum(parameter.numel() for parameter in small(name).parameters()) < 1_000_000


@pytest.mark.parametrize(("name", "size"), sizes(), ids=str)
def test_forward_and_backward(name, size):
    model = small(name)
    logits = model(images(*size))
    assert logits.shape == (2, 10)
    logits.square().sum().backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key


@pytest.mark.one_parameter
@pytest.mark.parametrize(("name", "size"), sizes(), ids=str)
def test_images_do_not_see_each_other(name, size):
    model = small(name).eval()
    x = images(*size)
    expected = truth_of(model, x)
    with torch.no_grad():
        assert_within_budget(model(x), expected)
        assert_within_budget(torch.cat([model(x[:1]), model(x[1:])]), expected)
        assert model(x[:0]).shape == (0, 10)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", SMALL)
def test_dtypes(name, dtype):
    logits = small(name).to(dtype).eval()(images(16, 16).to(dtype))
    assert logits.dtype == dtype and logits.isfinite().all()


@pytest.mark.one_parameter
@pytest.mark.parametrize("name", SMALL)
def test_memory_layout_does_not_matter(name):
    """Other layouts run other instructions, so the results may differ by rounding."""
    model = small(name).eval()
    x = images(16, 16)
    with torch.no_grad():
        assert_within_budget(model(x.contiguous(memory_format=torch.channels_last)), truth_of(model, x))


@pytest.mark.parametrize("wrap", [lambda m: torch.compile(m, backend="eager"), nn.DataParallel], ids=["compiled", "dp"])
@pytest.mark.parametrize("name", SMALL)
def test_wrapped_models_are_saved_and_loaded(name, wrap, tmp_path):
    model, other = small(name), small(name)
    nn.init.constant_(model.head.bias, 3.0)
    save_weights(wrap(model), tmp_path / "model.safetensors", naming="official")
    load_weights(wrap(other), tmp_path / "model.safetensors")
    assert all(torch.equal(tensor, other.state_dict()[key]) for key, tensor in model.state_dict().items())


def trained(model, x, **compiling):
    """Return the gradients and the state after a training step; keyword arguments are those of `torch.compile`."""
    call = torch.compile(model, **compiling) if compiling else model
    call(x).square().sum().backward()
    return {key: parameter.grad for key, parameter in model.named_parameters()} | model.state_dict()


@pytest.mark.parametrize("name", SMALL)
def test_grad_checkpointing(name):
    steps = []
    for enable in (False, True):
        model = small(name, drop_path_rate=0.5).train()
        model.set_grad_checkpointing(enable)
        torch.manual_seed(2)
        steps.append(trained(model, images(16, 16)))
    plain, recomputed = steps
    for key, tensor in plain.items():
        assert torch.equal(tensor, recomputed[key]), key


@pytest.mark.one_parameter
@pytest.mark.parametrize("name", SMALL)
def test_compile(name):
    torch.compiler.reset()
    model = small(name).eval()
    x = images(16, 16)
    with torch.no_grad():
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager", dynamic=False)(x)
    assert_within_budget(compiled, truth_of(model, x))


@pytest.mark.one_parameter
@pytest.mark.parametrize("name", SMALL)
def test_grad_checkpointing_compiled(name):
    torch.compiler.reset()
    x, model, plain = images(16, 16).double(), small(name).double().train(), small(name).double().train()
    model.set_grad_checkpointing(True)
    recomputed = trained(model, x, fullgraph=True, backend="aot_eager", dynamic=False)
    for key, tensor in trained(plain, x).items():
        torch.testing.assert_close(recomputed[key], tensor, msg=key)


@pytest.mark.parametrize("name", SMALL)
def test_round_trip(name, tmp_path):
    model = small(name).eval()
    model(images(16, 16))
    save_weights(model, tmp_path / "model.safetensors")
    again = small(name, weights=tmp_path / "model.safetensors").eval()
    assert torch.equal(model(images(16, 16)), again(images(16, 16)))


@pytest.mark.parametrize("name", SMALL)
def test_another_class_count_does_not_load(name):
    model = small(name)
    with pytest.raises(CheckpointError, match=r"head\.weight \(expected \[10, \d+\], got \[5, \d+\]\)"):
        load_weights(model, small(name, num_classes=5).state_dict())


@pytest.mark.parametrize("name", SMALL)
def test_channels(name):
    assert small(name, in_chans=1).eval()(images(16, 16)[:, :1]).shape == (2, 10)
    with pytest.raises(ShapeError, match="in_chans must be at least 1"):
        small(name, in_chans=0)


@pytest.mark.parametrize(
    "x",
    [torch.zeros(3, 16, 16), torch.zeros(1, 16, 16, 3), torch.zeros(1, 1, 16, 16), torch.zeros(1, 3, 0, 16)],
    ids=["no_batch", "channels_last", "gray", "empty"],
)
@pytest.mark.parametrize("name", SMALL)
def test_bad_images(name, x):
    model = small(name)
    for call in (model, model.forward_features, model.forward_intermediates):
        with pytest.raises(ShapeError, match=r"images must be \[B, 3, H, W\] and not empty, got \["):
            call(x)


@pytest.mark.parametrize("name", SMALL)
def test_integer_images(name):
    with pytest.raises(TypeError, match=r"images must be floating-point, got torch\.uint8"):
        small(name)(torch.zeros(1, 3, 16, 16, dtype=torch.uint8))


@pytest.mark.parametrize("name", SMALL)
def test_images_unlike_the_weights(name):
    model = small(name)
    x = images(16, 16)
    with pytest.raises(TypeError, match=r"images must be a tensor, got list"):
        model(x.tolist())
    with pytest.raises(TypeError, match=r"model's dtype torch\.float32, got torch\.float64; convert one with"):
        model(x.double())
    with pytest.raises(TypeError, match=r"model's device cpu, got meta; move one with"):
        model(x.to("meta"))
    with torch.autocast("cpu", torch.bfloat16):
        assert model(x.bfloat16()).isfinite().all()


def test_unknown_model():
    with pytest.raises(OptionError, match="unknown model 'swiftformer_xl'; did you mean 'swiftformer_"):
        create_model("swiftformer_xl")


def test_list_models():
    assert list_models() == list(MODELS)
    assert list_models("nat_?????") == ["nat_small"]
    assert list_models("nat_????") == ["nat_nano", "nat_mini", "nat_tiny", "nat_base"]
    assert list_models("resnet*") == []

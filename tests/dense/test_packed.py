"""Layers on oneDNN: the same values, and PyTorch's own path for every call that has gradients, hooks or a mode."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from budget import assert_within_budget, truth
from regard.dense import EvenLinear, PackedConv2d, PackedLinear, dense

RESIDUAL = torch.randn(2, 9, 33, generator=torch.Generator().manual_seed(0))
CALLS = {
    "alone": {},
    "gelu": {"activation": F.gelu},
    "gelu module": {"activation": nn.GELU()},
    "tanh gelu": {"activation": nn.GELU("tanh")},
    "silu": {"activation": nn.SiLU()},
    "residual": {"residual": RESIDUAL},
    "both": {"activation": F.gelu, "residual": RESIDUAL},
}


@pytest.fixture
def served(monkeypatch):
    """Whether each packed layer that was asked ran on oneDNN."""
    answers, supports = [], PackedLinear.supports

    def record(*args):
        answers.append(supports(*args))
        return answers[-1]

    monkeypatch.setattr(PackedLinear, "supports", record)
    return answers


def followed(x, weight, bias, activation=None, residual=None):
    """The definition of `dense`."""
    out = F.linear(x, weight, bias)
    out = out if activation is None else activation(out)
    return out if residual is None else out + residual


def assert_dense(out, layer, x, **options):
    assert_within_budget(out, truth(followed, x, layer.weight, layer.bias, **options))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", [nn.Linear, EvenLinear, PackedLinear])
@pytest.mark.parametrize("call", CALLS)
def test_is_the_layer_and_what_follows(call, kind, bias, served):
    layer, x = kind(20, 33, bias=bias), torch.randn(2, 20, 9).mT
    options = CALLS[call]
    expected = truth(followed, x, layer.weight, layer.bias, **options)
    for context in (torch.no_grad, torch.inference_mode, torch.enable_grad):
        served.clear()
        with context():
            out = dense(layer, x, **options)
        assert served == ([context is not torch.enable_grad] * len(served) if kind is PackedLinear else [])
        assert kind is not PackedLinear or served
        assert_within_budget(out, expected)
        assert out.requires_grad == (context is torch.enable_grad)


def spectral(layer):
    return parametrizations.spectral_norm(layer)


def hooked(layer):
    layer.register_forward_hook(lambda module, args, output: output + 1)
    return layer


def replaced(layer):
    layer.forward = lambda x: F.linear(x, layer.weight) * 2
    return layer


def derived(layer):
    class Twice(PackedLinear):
        def forward(self, x):
            return 2 * super().forward(x)

    layer.__class__ = Twice
    return layer


@pytest.mark.parametrize("change", [spectral, hooked, replaced, derived, lambda layer: nn.Sequential(layer, nn.ReLU())])
def test_changed_layers_are_called(change, served):
    layer, x = PackedLinear(20, 33), torch.randn(2, 9, 20)
    with torch.no_grad():
        dense(layer, x)
        layer = change(layer).eval()
        assert torch.equal(dense(layer, x), layer(x))
    assert served[0] and (change not in (spectral, hooked, replaced) or not any(served[1:]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_dtypes_run_on_pytorch(dtype, served):
    layer, x = PackedLinear(20, 33, dtype=dtype), torch.randn(2, 9, 20, dtype=dtype)
    with torch.no_grad():
        assert torch.equal(dense(layer, x, activation=F.gelu), F.gelu(layer(x)))
    assert served and not any(served)


@pytest.mark.parametrize("shape", [(20,), (0, 20), (2, 0, 20)])
def test_few_tokens(shape):
    layer, x = PackedLinear(20, 33), torch.randn(shape)
    with torch.no_grad():
        assert_dense(dense(layer, x), layer, x)


def test_wrong_shapes_fail_as_the_layer_does():
    layer = PackedLinear(20, 33)
    with torch.no_grad():
        for x in (torch.randn(2, 19), torch.randn(2, 40)):
            with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
                dense(layer, x)


@pytest.mark.filterwarnings("ignore:TF32", "ignore:.*torch.jit")  # flags() sets all of them
@torch.no_grad()
def test_transforms_see_the_layer(served):
    layer, x = PackedLinear(20, 33).requires_grad_(False), torch.randn(5, 9, 20)
    assert_dense(torch.func.vmap(lambda one: dense(layer, one))(x), layer, x)
    with torch.autocast("cpu", torch.bfloat16):
        assert dense(layer, x).dtype == torch.bfloat16
    with FlopCounterMode(display=False) as counter:
        dense(layer, x)
    assert counter.get_total_flops() == 2 * 45 * 20 * 33
    with torch.backends.mkldnn.flags(enabled=False):
        assert_dense(dense(layer, x), layer, x)
    with forward_ad.dual_level():
        out = dense(layer, forward_ad.make_dual(x, torch.ones_like(x)))
        tangent = forward_ad.unpack_dual(out).tangent
    assert_within_budget(tangent, truth(F.linear, torch.ones_like(x), layer.weight))
    traced = torch.jit.trace(lambda one: dense(layer, one), x, check_trace=False)
    assert "mkldnn" not in str(traced.graph)
    assert served and not any(served)


def test_trained_parts_keep_their_gradients():
    layer, x = PackedLinear(20, 33).requires_grad_(False), torch.randn(2, 9, 20)
    for part in (layer.weight, layer.bias, x):
        part.requires_grad_()
        dense(layer, x, activation=F.gelu).sum().backward()
        assert part.grad is not None
        part.requires_grad_(False)
    residual = torch.randn(2, 9, 33, requires_grad=True)
    dense(layer, x, residual=residual).sum().backward()
    assert torch.equal(residual.grad, torch.ones_like(residual))


@torch.no_grad()
def test_residuals_of_other_shapes_and_types():
    layer, x = PackedLinear(20, 33), torch.randn(2, 9, 20)
    for residual in (torch.randn(33), torch.randn(2, 9, 33, dtype=torch.float64), torch.randn(4, 1, 9, 33)):
        out, expected = dense(layer, x, residual=residual), truth(followed, x, layer.weight, layer.bias, None, residual)
        assert out.dtype == residual.dtype
        assert_within_budget(out.float(), expected)


@pytest.mark.parametrize("bias", [torch.randn(1).expand(33), torch.randn(66)[::2], torch.randn(1), torch.randn(1, 33)])
@torch.no_grad()
def test_biases_of_other_strides_and_shapes(bias, served):
    x = torch.randn(2, 9, 20)
    for kind in (nn.Linear, PackedLinear):
        layer = kind(20, 33)
        layer.bias = nn.Parameter(bias)
        assert torch.equal(dense(layer, x), F.linear(x, layer.weight, bias))
        assert torch.equal(layer(x), F.linear(x, layer.weight, bias))
    assert not any(served)
    layer, image = PackedConv2d(8, 33, 1), torch.randn(1, 8, 4, 4).to(memory_format=torch.channels_last)
    assert layer.supports(image)
    layer.bias = nn.Parameter(bias)
    assert not layer.supports(image)


@torch.no_grad()
def test_weights_of_other_strides_and_shapes():
    x = torch.randn(2, 9, 20)
    for weight in (torch.randn(20, 33).T, torch.randn(33, 40)[:, ::2], torch.randn(20).expand(33, 20)):
        for kind in (nn.Linear, PackedLinear):
            layer = kind(20, 33)
            layer.weight = nn.Parameter(weight)
            assert_dense(dense(layer, x), layer, x)
    layer.weight = nn.Parameter(torch.randn(7, 20))  # fewer channels than the layer says
    layer.bias = nn.Parameter(torch.randn(7))
    assert dense(layer, x).shape == (2, 9, 7)


@torch.no_grad()
def test_hooks_of_activations_are_called():
    layer, x = PackedLinear(20, 33), torch.randn(2, 9, 20)
    hooked, patched, tripled = nn.GELU(), nn.GELU(), lambda y: 3 * y
    hooked.register_forward_hook(lambda module, args, output: 3 * output)
    patched.forward = tripled
    assert_dense(dense(layer, x, activation=hooked), layer, x, activation=lambda y: 3 * F.gelu(y))
    assert_dense(dense(layer, x, activation=patched), layer, x, activation=tripled)


@torch.no_grad()
def test_hooks_on_all_modules_are_called(served):
    layer, x, calls = PackedLinear(20, 33), torch.randn(2, 9, 20), []
    for register in (
        nn.modules.module.register_module_forward_hook,
        nn.modules.module.register_module_forward_pre_hook,
    ):
        handle = register(lambda module, *_: calls.append(module))
        dense(layer, x)
        handle.remove()
    assert calls == [layer, layer]
    assert served and not any(served)


@torch.no_grad()
def test_compiled_layers_run_compiled(served):
    layer, x, calls = PackedLinear(20, 33), torch.randn(2, 9, 20), []
    layer.compile(backend=lambda graph, _: calls.append(graph) or graph.forward)
    dense(layer, x)
    assert calls
    assert served and not any(served)


class Recording(TorchFunctionMode):
    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.names.append(getattr(func, "__name__", ""))
        return func(*args, **(kwargs or {}))


class Tagged(torch.Tensor):
    pass


@pytest.mark.filterwarnings("ignore:.*nested")
@torch.no_grad()
def test_unusual_tensors_and_modes_run_on_pytorch(served):
    layer, x, residual = PackedLinear(20, 33), torch.randn(9, 20), torch.randn(9, 33)
    with Recording() as recording:
        dense(layer, x)
    assert "linear" in recording.names
    assert dense(layer, torch.nested.nested_tensor([x, x[:4]])).is_nested
    dense(layer, x.to_mkldnn())
    assert not any(served)
    assert type(dense(layer, x, residual=residual.as_subclass(Tagged))) is Tagged
    assert_dense(dense(layer, x, residual=residual.to_sparse()), layer, x, residual=residual)
    served.clear()
    layer.bias = nn.Parameter(torch.randn(33).as_subclass(Tagged))
    dense(layer, x)
    assert served and not any(served)


@torch.no_grad()
def test_packed_weights_follow_their_weights():
    layer, x = PackedLinear(768, 192), torch.randn(1, 196, 768)
    assert list(layer.state_dict()) == ["weight", "bias"]
    for change in (
        lambda: layer.weight.mul_(2),
        lambda: layer.load_state_dict(nn.Linear(768, 192).state_dict()),
        lambda: setattr(layer, "weight", nn.Parameter(torch.randn(192, 768))),
        layer.requires_grad_,
        layer.share_memory,
    ):
        layer(x)
        change()
        for tokens in (x, x[:, :7], x.expand(3, -1, -1)):
            assert_dense(layer(tokens), layer, tokens)


def test_packed_layers_copy_pickle_and_convert():
    layer, x = PackedLinear(768, 192), torch.randn(1, 196, 768)
    expected = truth(F.linear, x, layer.weight, layer.bias)
    with torch.no_grad():
        layer(x)
        for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
            assert type(other) is PackedLinear and not [name for name in vars(other) if "packed" in name]
            assert_within_budget(other(x), expected)
        assert layer.double()(x.double()).dtype == torch.float64
    with torch.inference_mode():
        assert PackedLinear(20, 33)(torch.ones(2, 20)).shape == (2, 33)


def test_packed_layers_compile_and_learn():
    layer, x = PackedLinear(20, 33), torch.randn(4, 20)
    with torch.no_grad():
        assert_dense(torch.compile(layer, backend="eager", fullgraph=True)(x), layer, x)
    layer(x).sum().backward()
    assert layer.weight.grad is not None


CONVOLUTIONS = {
    "stem": ((3, 24, 3), {"stride": 2, "padding": 1}),
    "depthwise": ((32, 32, 3), {"padding": 1, "groups": 32}),
    "pointwise": ((32, 48, 1), {"bias": False}),
    "dilated groups": ((8, 12, (3, 5)), {"padding": (2, 0), "dilation": 2, "groups": 4}),
    "same": ((8, 8, 3), {"padding": "same"}),
    "reflect": ((8, 8, 3), {"padding": 1, "padding_mode": "reflect"}),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_packed_convolutions_are_convolutions(name):
    sizes, options = CONVOLUTIONS[name]
    layer = PackedConv2d(*sizes, **options)
    served = name not in ("same", "reflect")
    for shape in ((2, 15, 17), (2, 32, 32), (1, 9, 11)):  # one packed weight for all
        for layout in (torch.channels_last, torch.contiguous_format):
            x = torch.randn(shape[0], sizes[0], *shape[1:]).contiguous(memory_format=layout)
            with torch.no_grad():
                assert layer.supports(x) == (served and layout is torch.channels_last)
                out = layer(x)
            assert out.is_contiguous(memory_format=layout)
            assert_within_budget(out, truth(layer._conv_forward, x, layer.weight, layer.bias))
    assert not layer.supports(x.requires_grad_())
    x = torch.randn(1, sizes[0], 15, 17, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad is not None


@torch.no_grad()
def test_convolutions_of_images_that_are_too_small():
    layer, x = PackedConv2d(4, 4, 5), torch.randn(1, 4, 3, 3).to(memory_format=torch.channels_last)
    with pytest.raises(RuntimeError, match="Kernel size can't be greater"):
        layer(x)

"""`set_backend` on fused models."""

import copy

import pytest
import torch
from timm.layers import Attention
from timm.models.cait import ClassAttn, TalkingHeadAttn
from timm.models.mobilevit import LinearSelfAttention
from timm.models.swin_transformer import SwinTransformerBlock
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from budget import assert_within_budget
from regard.attention import BackendModule, set_backend
from regard.errors import UnsupportedError
from regard.surgery import fuse
from tests.surgery.models import MODELS, X, animate, assert_agrees, build, image, logits, truth_of_build


class Operators(TorchDispatchMode):
    """Record the names of all operators."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.name())
        return func(*args, **(kwargs or {}))


def kernels(model, x):
    """The fused kernels of attention that a model runs."""
    with torch.no_grad(), Operators() as operators:
        model(x)
    return {name for name in operators.names if "regard::" in name or "scaled_dot_product" in name}


@pytest.mark.one_parameter
@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_every_attention_has_the_backend(name, inference):
    fused, x = fuse(build(name)[0], inference=inference), image(name)
    modules = [module for module in fused.modules() if isinstance(module, BackendModule)]
    attention = [one for one in fused.fuse_report.replaced if "dense layers" not in one.mechanism]
    assert len(modules) == len(attention)
    for backend in ("fused", "reference"):
        set_backend(fused, backend)
        assert {module.backend for module in modules} == {backend}
        assert bool(kernels(fused, x)) == (backend == "fused"), backend
        with torch.inference_mode():
            assert_within_budget(logits(fused, x), truth_of_build(name))


def test_folding_and_copies_keep_the_backend():
    fused = set_all(fuse(build("swiftformer_xs")[0]), "reference")
    for one in (copy.deepcopy(fused), fuse(fused, inference=True)):
        backends = [module.backend for module in one.modules() if isinstance(module, BackendModule)]
        assert backends == ["reference"] * 4


def set_all(model, backend):
    set_backend(model, backend)
    return model


def hook(module):
    module.register_forward_hook(lambda *_: None)


GRID = torch.randn(2, 14, 14, 16)
UNSUPPORTED = {
    "mask": (lambda: Attention(16, num_heads=2), None, (X, torch.zeros(9, 9)), "the call has an attention mask"),
    "causal": (lambda: Attention(16, num_heads=2), None, (X, None, True), "the call has an attention mask"),
    "hooks": (lambda: Attention(16, num_heads=2), "attn_drop", (X,), "its attn_drop has hooks"),
    "class": (lambda: ClassAttn(16, num_heads=2), "attn_drop", (X,), "its attn_drop has hooks"),
    "mix": (lambda: TalkingHeadAttn(16, num_heads=2), "proj_l", (X,), "its proj_l is not a plain dense layer"),
    "grid": (
        lambda: SwinTransformerBlock(16, (14, 14), num_heads=2, window_size=4),
        None,
        (GRID,),
        "no multiple of the window",
    ),
    "inner": (lambda: SwinTransformerBlock(16, (14, 14), num_heads=2), "attn", (GRID,), "its attn has hooks"),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_fused_never_runs_the_upstream_forward(name):
    make, hooked, args, reason = UNSUPPORTED[name]
    model = animate(make()).eval()
    fused = fuse(model, check=False)
    if hooked:
        hook(fused.get_submodule(hooked))
    set_backend(fused, "fused")
    with torch.no_grad(), pytest.raises(UnsupportedError, match=f"(?s){type(model).__name__}.*{reason}.*set_backend"):
        fused(*args)
    for backend in (None, "reference"):
        set_backend(fused, backend)
        with torch.no_grad():
            assert_agrees(fused(*args), model, *args)


def test_fused_declines_cross_attention():
    """Only the error: timm's cross-attention fails by itself."""
    fused, x = set_all(fuse(LinearSelfAttention(16), check=False), "fused"), torch.randn(2, 16, 4, 9)
    with pytest.raises(UnsupportedError, match="the call is cross-attention"):
        fused(x, x)


@pytest.mark.parametrize("p", [0.0, 0.5])
def test_fused_says_what_dropout_needs(p):
    fused = set_all(fuse(animate(TalkingHeadAttn(16, num_heads=2, attn_drop=p)), check=False), "fused").train()
    if p:
        with pytest.raises(UnsupportedError, match="its attn_drop needs the attention weights"):
            fused(X)
    else:
        assert fused(X).shape == X.shape


@pytest.mark.parametrize("name", ["vit", "swin"])
def test_fused_says_that_transformers_asks_for_weights(name):
    fused = set_all(fuse(build(name)[0]), "fused")
    fused.set_attn_implementation("eager")
    with pytest.raises(UnsupportedError, match="the call must return the attention weights"):
        fused(image(name))


def test_modules_of_regard_and_upstream_modules_alike():
    from regard.attention import EfficientAdditiveAttention

    model = fuse(nn.Sequential(Attention(16, num_heads=2), EfficientAdditiveAttention(16)), example=X)
    set_backend(model, "reference")
    assert [one.backend for one in model] == ["reference"] * 2

"""Folding layers into one another, for inference: what the mathematics allows, exactly up to rounding."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from regard._onednn import Packed, PackedConv2d, PackedLinear
from regard.surgery import swiftformer
from regard.surgery.adapters import Adapter, put_on
from regard.surgery.affine import affine_of, after, listened, plain
from regard.surgery.obstacles import Sharing, walk
from regard.surgery.report import Folded


class Pair(NamedTuple):
    """A convolution and the batch norm that follows it, in a class whose forward does nothing between them."""

    module: str
    name: str
    convolution: str
    norm: str


PAIRS = (
    Pair("timm.layers.conv_bn_act", "ConvNormAct", "conv", "bn"),
    Pair("timm.models.swiftformer", "Embedding", "proj", "norm"),
    Pair("transformers.models.swiftformer.modeling_swiftformer", "SwiftFormerEmbeddings", "proj", "norm"),
    Pair(
        "transformers.models.mobilevitv2.modeling_mobilevitv2", "MobileViTV2ConvLayer", "convolution", "normalization"
    ),
)
PACKED: dict[type[nn.Module], type[Packed]] = {nn.Linear: PackedLinear, nn.Conv2d: PackedConv2d}
VIT_SCALES = (("ls1", "attn.proj"), ("ls2", "mlp.fc2"))
"""Layer scales of timm's transformer blocks, and the dense layers whose outputs they scale."""
CAIT_SCALES = (("gamma_1", "attn.proj"), ("gamma_2", "mlp.fc2"))


class LayerScaleBlock(Adapter):
    """A block of timm's CaiT without its layer scales."""

    def forward(self, x: Tensor) -> Tensor:
        """Transform `[B, N, C]`."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class LayerScaleBlockClassAttn(Adapter):
    """A class-attention block of timm's CaiT without its layer scales."""

    def forward(self, x: Tensor, x_cls: Tensor) -> Tensor:
        """Let the class token see all tokens."""
        x_cls = x_cls + self.attn(self.norm1(torch.cat((x_cls, x), dim=1)))
        return x_cls + self.mlp(self.norm2(x_cls))


CAIT_BLOCKS = {"LayerScaleBlock": LayerScaleBlock, "LayerScaleBlockClassAttn": LayerScaleBlockClassAttn}


@torch.no_grad()
def fold(model: nn.Module) -> tuple[Folded, ...]:
    """Fold the layers of a model in evaluation mode in place, and pack what is left; its parameters must be its own."""
    sharing = Sharing(model)
    folded: list[Folded] = []
    for path, module, closed in list(walk(model)):
        if (not closed and not sharing.reason(module)) or (not closed and module is model):
            folded += [Folded(f"{path}.{what}".lstrip("."), into) for what, into in _fold_one(module)]
    if swiftformer.is_ours(model):
        folded += swiftformer.restructure(model, sharing)
        model.to(memory_format=torch.channels_last)
    for _, module, closed in walk(model):
        packed = PACKED.get(type(module))
        if packed and not closed and not listened(module) and _on_cpu(module.weight):
            module.__class__ = packed
    return tuple(folded)


def _on_cpu(weight: object) -> bool:
    return type(weight) is nn.Parameter and weight.dtype == torch.float32 and weight.device.type == "cpu"


def _fold_one(module: nn.Module) -> Iterator[tuple[str, str]]:
    known = (type(module).__module__, type(module).__qualname__)
    if type(module) is nn.Sequential:
        yield from _sequential(module)
    for pair in PAIRS:
        if known == (pair.module, pair.name) and _absorb_norm(module, pair.convolution, pair.norm):
            yield pair.norm, pair.convolution
    if known == ("timm.models.vision_transformer", "Block"):
        yield from _vit_block(module)
    if known[0] == "timm.models.cait" and known[1] in CAIT_BLOCKS:
        yield from _cait_block(module, CAIT_BLOCKS[known[1]])


def _sequential(module: nn.Sequential) -> Iterator[tuple[str, str]]:
    names = [name for name, _ in module.named_children()]
    for first, second in pairwise(names):
        if _absorb_norm(module, first, second):
            yield second, first


def _absorb_norm(module: nn.Module, convolution: str, norm: str) -> bool:
    """Fold a batch norm into the convolution before it; what the norm does besides stays in its place."""
    layer, batch_norm = getattr(module, convolution), getattr(module, norm)
    affine = affine_of(batch_norm)
    if affine is None or not plain(layer, nn.Conv2d):
        return False
    after(layer, *affine)
    rest = [child for child in batch_norm.children() if not isinstance(child, nn.Identity)]  # timm's drop and act
    setattr(module, norm, nn.Sequential(*rest) if len(rest) > 1 else rest[0] if rest else nn.Identity())
    return True


def _vit_block(block: Any) -> Iterator[tuple[str, str]]:  # noqa: ANN401
    for name, target in VIT_SCALES:
        scale, layer = getattr(block, name), block.get_submodule(target)
        if isinstance(getattr(scale, "gamma", None), nn.Parameter) and plain(layer, nn.Linear) and not listened(scale):
            after(layer, scale.gamma)
            setattr(block, name, nn.Identity())
            yield name, target


def _cait_block(block: Any, adapter: type[Adapter]) -> Iterator[tuple[str, str]]:  # noqa: ANN401
    layers = [block.get_submodule(target) for _, target in CAIT_SCALES]
    if not all(plain(layer, nn.Linear) for layer in layers):
        return
    for (name, target), layer in zip(CAIT_SCALES, layers, strict=True):
        after(layer, getattr(block, name))
        delattr(block, name)
        yield name, target
    put_on(block, adapter)

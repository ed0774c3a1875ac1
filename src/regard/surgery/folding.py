"""Folding layers into one another, for inference: what the mathematics allows, exactly up to rounding."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from regard.onednn import Packed, PackedConv2d, PackedLinear, is_heard
from regard.surgery import swiftformer, timm
from regard.surgery.adapters import Adapter, put_on
from regard.surgery.affine import affine_of, after, foldable
from regard.surgery.obstacles import Sharing, obstacle, patched, walk_open
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
VIT_SCALES = (("ls1", "attn"), ("ls2", "mlp"))
"""Layer scales of timm's transformer blocks, and the parts whose outputs they scale."""
CAIT_SCALES = (("gamma_1", "attn"), ("gamma_2", "mlp"))
LAST = {timm.Attention: "proj", timm.ClassAttn: "proj", timm.TalkingHeadAttn: "proj", timm.Mlp: "fc2"}
"""The last layers of the parts that we serve."""


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
def fold(model: nn.Module, closed: Collection[str] = ()) -> tuple[Folded, ...]:
    """Fold the layers of a model in evaluation mode in place, and pack what is left; its parameters must be its own.

    What is at the paths in `closed` stays as it is.
    """
    sharing = Sharing(model)
    folded: list[Folded] = []
    for path, module in walk_open(model, closed):
        if not patched(module):
            folded += [Folded(f"{path}.{what}".lstrip("."), into) for what, into in _fold_one(module, sharing)]
    if swiftformer.is_ours(model):
        folded += swiftformer.restructure(model, sharing, closed)
    model.to(memory_format=torch.channels_last)  # oneDNN's layout of images
    for _, module in walk_open(model, closed):
        packed = PACKED.get(type(module))
        if packed and _on_cpu(module.weight):
            module.__class__ = packed
    return tuple(folded)


def _on_cpu(weight: object) -> bool:
    return type(weight) is nn.Parameter and weight.dtype == torch.float32 and weight.device.type == "cpu"


def _fold_one(module: nn.Module, sharing: Sharing) -> Iterator[tuple[str, str]]:
    known = (type(module).__module__, type(module).__qualname__)
    if type(module) is nn.Sequential:
        for first, second in pairwise(module._modules):
            if _absorb_norm(module, first, second, sharing):
                yield second, first
    for pair in PAIRS:
        if known == (pair.module, pair.name) and _absorb_norm(module, pair.convolution, pair.norm, sharing):
            yield pair.norm, pair.convolution
    if known == ("timm.models.vision_transformer", "Block"):
        yield from _vit_block(module, sharing)
    if known[0] == "timm.models.cait" and known[1] in CAIT_BLOCKS:
        yield from _cait_block(module, CAIT_BLOCKS[known[1]], sharing)


def _absorb_norm(module: nn.Module, convolution: str, norm: str, sharing: Sharing) -> bool:
    """Fold a batch norm into the convolution before it; what the norm does besides stays in its place."""
    layer, batch_norm = getattr(module, convolution), getattr(module, norm)
    affine = affine_of(batch_norm, sharing)
    if affine is None or not foldable(layer, nn.Conv2d, sharing):
        return False
    after(layer, *affine)
    rest = [child for child in batch_norm.children() if not isinstance(child, nn.Identity)]  # timm's drop and act
    setattr(module, norm, nn.Sequential(*rest) if len(rest) > 1 else rest[0] if rest else nn.Identity())
    return True


def _vit_block(block: Any, sharing: Sharing) -> Iterator[tuple[str, str]]:  # noqa: ANN401
    for name, part in VIT_SCALES:
        scale, last = getattr(block, name), _last_layer(block, part, sharing)
        if last and type(scale).__qualname__ == "LayerScale" and not is_heard(scale):
            after(block.get_submodule(last), scale.gamma)
            setattr(block, name, nn.Identity())
            yield name, last


def _cait_block(block: Any, adapter: type[Adapter], sharing: Sharing) -> Iterator[tuple[str, str]]:  # noqa: ANN401
    layers = [_last_layer(block, part, sharing) for _, part in CAIT_SCALES]
    if not all(layers) or is_heard(block.drop_path):
        return
    for (name, _), last in zip(CAIT_SCALES, layers, strict=True):
        after(block.get_submodule(last), getattr(block, name))
        delattr(block, name)
        yield name, last
    put_on(block, adapter)


def _last_layer(block: nn.Module, name: str, sharing: Sharing) -> str:
    """Return the dense layer that ends a part which we serve and nobody listens to, or nothing."""
    part = block.get_submodule(name)
    if not isinstance(part, Adapter) or part.adapter not in LAST or obstacle(part, "timm", sharing):
        return ""
    last = f"{name}.{LAST[part.adapter]}"
    return last if foldable(block.get_submodule(last), nn.Linear, sharing) else ""

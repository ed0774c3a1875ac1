"""SwiftFormer for inference: blocks that keep `[B, H, W, C]` views, with everything linear folded together."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from regard.attention import efficient_additive_attention
from regard.attention._pooling import TokenNorm
from regard.onednn import dense
from regard.surgery.adapters import Adapter, keep_whole, put_on
from regard.surgery.affine import affine_of, after, before, foldable, plain
from regard.surgery.obstacles import Sharing, obstacle, walk_open
from regard.surgery.report import Folded

HOME = "timm.models.swiftformer"
HF_HOME = "transformers.models.swiftformer.modeling_swiftformer"
CONV_BLOCKS = ("ConvEncoder", "LocalRepresentation", "SwiftFormerConvEncoder", "SwiftFormerLocalRepresentation")
ATTENTION_BLOCKS = ("Block", "SwiftFormerEncoderBlock")
NAMES: Mapping[str, Mapping[str, str]] = {
    HOME: {"depthwise": "dwconv", "first": "pwconv1", "second": "pwconv2"},
    HF_HOME: {"depthwise": "depth_wise_conv", "first": "point_wise_conv1", "second": "point_wise_conv2"},
}


class ConvBlock(nn.Module):
    """Depth-wise convolution and two dense layers; norm and layer scale are part of them."""

    def __init__(self, block: nn.Module, names: Mapping[str, str]) -> None:
        super().__init__()
        self.dwconv: Any = copy.deepcopy(block.get_submodule(names["depthwise"]))
        self.pwconv1, self.pwconv2 = (_linear(block.get_submodule(names[name])) for name in ("first", "second"))
        self.act = block.get_submodule("act")

    def forward(self, x: Tensor) -> Tensor:
        """Transform `[B, C, H, W]`."""
        hidden = dense(self.pwconv1, self.dwconv(x).permute(0, 2, 3, 1), activation=self.act)
        return dense(self.pwconv2, hidden, residual=x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class AttentionBlock(nn.Module):
    """Local representation, efficient additive attention and MLP; `proj` is part of `final`."""

    def __init__(self, block: Any, token_norm: TokenNorm) -> None:  # noqa: ANN401
        super().__init__()
        attn = block.attn
        self.local_representation = block.local_representation
        self.to_query_key, self.w_g = _stack(attn.to_query, attn.to_key), attn.w_g
        self.token_norm, self.scale_factor = token_norm, attn.scale_factor
        self.from_query = _linear(attn.final)
        self.from_context = _chain(attn.proj, attn.final)
        self.fc1, self.fc2, self.act = _linear(block.linear.fc1), _linear(block.linear.fc2), block.linear.act

    def forward(self, x: Tensor) -> Tensor:
        """Transform `[B, C, H, W]`."""
        x = self.local_representation(x).permute(0, 2, 3, 1)  # [B, H, W, C]
        query, key = dense(self.to_query_key, x).chunk(2, -1)
        context, unit_query = efficient_additive_attention(
            query,
            key,
            self.w_g.squeeze(-1).to(query.dtype),
            token_norm=self.token_norm,
            scale=self.scale_factor,
        )
        x = dense(self.from_context, context, residual=dense(self.from_query, unit_query, residual=x))
        hidden = dense(self.fc1, x, activation=self.act)
        return dense(self.fc2, hidden, residual=x).permute(0, 3, 1, 2)


class OneHead(Adapter):
    """timm's SwiftFormer with the mean of its two classifiers as its only one."""

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pool and classify."""
        if self.global_pool == "avg":
            x = x.mean(dim=(2, 3))
        return x if pre_logits else self.head(x)


def is_ours(model: nn.Module) -> bool:
    """Tell whether a model contains a SwiftFormer."""
    return any(type(module).__module__ in NAMES for module in model.modules())


def restructure(model: nn.Module, sharing: Sharing, closed: Collection[str]) -> list[Folded]:
    """Replace the blocks of a SwiftFormer in evaluation mode by folded ones, where nothing speaks against it."""
    folded: list[Folded] = []
    for kinds, build in ((CONV_BLOCKS, _conv_block), (ATTENTION_BLOCKS, _attention_block)):
        for path, block in walk_open(model, closed):
            home = type(block).__module__
            if (
                path
                and home in NAMES
                and type(block).__qualname__ in kinds
                and not obstacle(block, home.partition(".")[0], sharing)
            ):
                new, what = build(block, sharing)
                if new is not None:
                    parent, _, name = path.rpartition(".")
                    setattr(model.get_submodule(parent), name, new.eval())
                    folded += [Folded(f"{path}.{layer}", into) for layer, into in what]
    for path, module in walk_open(model, closed):
        if (type(module).__module__, type(module).__qualname__) == (HOME, "SwiftFormer"):
            folded += [Folded(f"{path}.head_dist".lstrip("."), "head")] if _one_head(module, sharing) else []
    return folded


Built = tuple[nn.Module | None, list[tuple[str, str]]]


def _conv_block(block: Any, sharing: Sharing) -> Built:  # noqa: ANN401
    names = NAMES[type(block).__module__]
    first, second = (block.get_submodule(names[name]) for name in ("first", "second"))
    affine = affine_of(block.norm, sharing)
    if (
        affine is None
        or not foldable(block.get_submodule(names["depthwise"]), nn.Conv2d, sharing)
        or not all(map(_is_pointwise, (first, second)))
    ):
        return None, []
    new, what = ConvBlock(block, names), [("norm", names["depthwise"])]
    after(new.dwconv, *affine)
    scale = _scale(block.layer_scale)
    if scale is not None:
        after(new.pwconv2, scale)
        what.append(("layer_scale", names["second"]))
    return new, what


def _attention_block(block: Any, sharing: Sharing) -> Built:  # noqa: ANN401
    attn, mlp = block.attn, block.linear
    affine = affine_of(mlp.norm1, sharing)
    dense = (attn.to_query, attn.to_key, attn.proj, attn.final)
    if (
        affine is None
        or not all(map(_is_pointwise, (mlp.fc1, mlp.fc2)))
        or not all(foldable(one, nn.Linear, sharing) for one in dense)
    ):
        return None, []
    keep_whole(AttentionBlock)
    new = AttentionBlock(block, "l2" if type(block).__module__ == HOME else "ones")
    what = [("linear.norm1", "linear.fc1"), ("attn.proj", "attn.final")]
    before(new.fc1, *affine)
    for name, into, layers in (
        ("layer_scale_1", "attn.final", (new.from_query, new.from_context)),
        ("layer_scale_2", "linear.fc2", (new.fc2,)),
    ):
        scale = _scale(getattr(block, name, None))
        if scale is not None:
            for layer in layers:
                after(layer, scale)
            what.append((name, into))
    return new, what


def _one_head(model: Any, sharing: Sharing) -> bool:  # noqa: ANN401
    heads = (model.head, model.head_dist)
    if not all(foldable(head, nn.Linear, sharing) for head in heads):
        return False
    for name in ("weight", "bias"):
        mean = sum(getattr(head, name).double() for head in heads) / 2
        setattr(model.head, name, nn.Parameter(mean.to(model.head.weight.dtype)))
    model.head_dist = nn.Identity()
    put_on(model, OneHead)
    return True


def _scale(layer: Any) -> Tensor | None:  # noqa: ANN401
    """Return a layer scale's factors: timm's modules have a `gamma`, transformers' are parameters."""
    return layer if isinstance(layer, nn.Parameter) else getattr(layer, "gamma", None)


def _is_pointwise(layer: nn.Module) -> bool:
    return plain(layer, nn.Conv2d) and layer.kernel_size == (1, 1)


def _linear(layer: Any) -> nn.Linear:  # noqa: ANN401
    """Make a dense layer of one, or of a 1x1 convolution."""
    return _make(layer.weight.flatten(1), layer.bias)


def _stack(first: nn.Linear, second: nn.Linear) -> nn.Linear:
    """Make one dense layer of two that read the same."""
    layers = (first, second)
    biases: list[Tensor] = [
        layer.weight.new_zeros(len(layer.weight)) if layer.bias is None else layer.bias for layer in layers
    ]
    return _make(torch.cat((first.weight, second.weight)), torch.cat(biases))


def _chain(first: nn.Linear, second: nn.Linear) -> nn.Linear:
    """Multiply a dense layer with the one after it; the second's own bias stays with the query's way."""
    weight, matrix = first.weight.double(), second.weight.double()
    bias = matrix @ first.bias.double()
    return _make((matrix @ weight).to(first.weight.dtype), bias.to(first.weight.dtype))


def _make(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.detach().clone())
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().clone())
    return layer

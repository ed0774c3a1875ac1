"""SwiftFormer's blocks, rebuilt for inference on `[B, H, W, C]` views, with all linear steps folded together."""

from __future__ import annotations

import copy
from typing import ClassVar

import torch
from torch import Tensor, nn

from regard.attention import BackendModule, TokenNorm, efficient_additive_attention
from regard.dense import dense, depthwise_block, mlp
from regard.surgery.adapter import exclude_from_tracing
from regard.surgery.inference.affine import can_fold, norm_affine, scale_input, scale_output
from regard.surgery.inference.fold import Fold, Folding
from regard.surgery.inspection import Sharing, Upstream, is_plain, obstacle


class ConvBlock(nn.Module):
    """Depth-wise convolution and two dense layers, which contain the block's norm and layer scale."""

    def __init__(self, depthwise: nn.Conv2d, first: nn.Conv2d, second: nn.Conv2d, act: nn.Module) -> None:
        super().__init__()
        self.dwconv = copy.deepcopy(depthwise)
        self.pwconv1, self.pwconv2 = copy_linear(first), copy_linear(second)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        """Transform `[B, C, H, W]`."""
        layers, activations = [self.pwconv1, self.pwconv2], (None, None, self.act)
        return depthwise_block(x, self.dwconv, layers, activations, residual=True)


class AttentionBlock(BackendModule):
    """Local representation, efficient additive attention and MLP; `final` contains `proj`."""

    def __init__(self, block: Upstream, token_norm: TokenNorm) -> None:
        super().__init__()
        attn, mlp = block.attn, block.linear
        self.backend = getattr(attn, "backend", None)
        self.local_representation = block.local_representation
        self.to_query_key, self.w_g = stack_linear(attn.to_query, attn.to_key), attn.w_g
        self.token_norm: TokenNorm = token_norm
        self.scale_factor = attn.scale_factor
        self.from_query = copy_linear(attn.final)
        self.from_context = chain_linear(attn.proj, attn.final)
        self.fc1, self.fc2, self.act = copy_linear(mlp.fc1), copy_linear(mlp.fc2), mlp.act

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
            backend=self.backend,
        )
        x = dense(self.from_context, context, residual=dense(self.from_query, unit_query, residual=x))
        return mlp(self.fc1, self.fc2, x, activation=self.act, residual=x).permute(0, 3, 1, 2)


class ConvBlockFold(Fold):
    """Base class of the folds that rebuild a block of convolutions as a `ConvBlock`.

    Attributes:
        depthwise: name of the depth-wise convolution.
        first: name of the first 1x1 convolution.
        second: name of the second one.
    """

    replaces_module = True
    is_channels_last = True
    depthwise: ClassVar[str]
    first: ClassVar[str]
    second: ClassVar[str]

    @classmethod
    def apply(cls, module: Upstream, sharing: Sharing) -> Folding:
        """Fold the batch norm into the depth-wise convolution, the layer scale into the second dense layer."""
        depthwise, first, second = (getattr(module, name) for name in (cls.depthwise, cls.first, cls.second))
        affine = norm_affine(module.norm, sharing)
        if (
            affine is None
            or obstacle(module, package_of(module), sharing)
            or not can_fold(depthwise, nn.Conv2d, sharing)
            or not all(map(is_pointwise, (first, second)))
        ):
            return module, []
        new, folded = ConvBlock(depthwise, first, second, module.act), [("norm", cls.depthwise)]
        scale_output(new.dwconv, *affine)
        scale = scale_of(module.layer_scale)
        if scale is not None:
            scale_output(new.pwconv2, scale)
            folded.append(("layer_scale", cls.second))
        return new, folded


class AttentionBlockFold(Fold):
    """Base class of the folds that rebuild a block with attention as an `AttentionBlock`.

    Attributes:
        token_norm: how this version of SwiftFormer normalizes its token weights.
    """

    replaces_module = True
    is_channels_last = True
    token_norm: ClassVar[TokenNorm]

    @classmethod
    def apply(cls, module: Upstream, sharing: Sharing) -> Folding:
        """Fold norm, layer scales and `proj` into dense layers."""
        attn, mlp = module.attn, module.linear
        affine = norm_affine(mlp.norm1, sharing)
        projections = (attn.to_query, attn.to_key, attn.proj, attn.final)
        if (
            affine is None
            or obstacle(module, package_of(module), sharing)
            or not all(map(is_pointwise, (mlp.fc1, mlp.fc2)))
            or not all(can_fold(one, nn.Linear, sharing) for one in projections)
        ):
            return module, []
        exclude_from_tracing(AttentionBlock)
        new = AttentionBlock(module, cls.token_norm)
        folded = [("linear.norm1", "linear.fc1"), ("attn.proj", "attn.final")]
        scale_input(new.fc1, *affine)
        for name, into, layers in (
            ("layer_scale_1", "attn.final", (new.from_query, new.from_context)),
            ("layer_scale_2", "linear.fc2", (new.fc2,)),
        ):
            scale = scale_of(getattr(module, name, None))
            if scale is not None:
                for layer in layers:
                    scale_output(layer, scale)
                folded.append((name, into))
        return new, folded


def package_of(module: nn.Module) -> str:
    """Return the package that defines a module's class."""
    return type(module).__module__.partition(".")[0]


def scale_of(layer: object) -> Tensor | None:
    """Return the factors of a layer scale, which is a module with a `gamma` in timm and a parameter in transformers."""
    return layer if isinstance(layer, nn.Parameter) else getattr(layer, "gamma", None)


def is_pointwise(layer: nn.Module) -> bool:
    """Whether a layer is a plain 1x1 convolution."""
    return is_plain(layer, nn.Conv2d) and layer.kernel_size == (1, 1)


def copy_linear(layer: nn.Linear | nn.Conv2d) -> nn.Linear:
    """Return a dense layer with the weights of a dense layer or of a 1x1 convolution."""
    return _make_linear(layer.weight.flatten(1), layer.bias)


def stack_linear(first: nn.Linear, second: nn.Linear) -> nn.Linear:
    """Return one dense layer whose output is that of two, concatenated."""
    layers = (first, second)
    biases: list[Tensor] = [
        layer.weight.new_zeros(len(layer.weight)) if layer.bias is None else layer.bias for layer in layers
    ]
    return _make_linear(torch.cat((first.weight, second.weight)), torch.cat(biases))


def chain_linear(first: nn.Linear, second: nn.Linear) -> nn.Linear:
    """Return one dense layer that applies two, without the bias of the second."""
    weight, matrix = first.weight.double(), second.weight.double()
    bias = matrix @ first.bias.double()
    return _make_linear((matrix @ weight).to(first.weight.dtype), bias.to(first.weight.dtype))


def _make_linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.detach().clone())
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().clone())
    return layer

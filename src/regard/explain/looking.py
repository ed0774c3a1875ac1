"""Where single tokens look, and which tokens a context is made of."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from regard.errors import OptionError
from regard.explain.maps import AttentionMap
from regard.explain.record import recorded
from regard.explain.rollout import follow, residual_step
from regard.explain.tokens import Tokens


@torch.no_grad()
def attention_maps(model: nn.Module, images: Tensor) -> list[AttentionMap]:
    """Return the attention of every layer, in the order of the calls.

    Args:
        model: in evaluation mode: a model of regard, or any that went through `regard.surgery.adapt`. It stays as it
            is, and its kernels stay fused.
        images: `[B, C, H, W]`, preprocessed as the model expects.

    Memory:
        All weights of all layers: B * nh * N * K numbers each.

    Example:
        >>> import regard
        >>> model = regard.create_model("nat_nano").eval()
        >>> [first, *_] = attention_maps(model, torch.randn(1, 3, 32, 32))
        >>> first.layer, first.weights.shape
        ('levels.0.blocks.0.attn', torch.Size([1, 2, 1024, 9]))
    """
    return [call.map() for call in recorded(model, images)]


@torch.no_grad()
def look_from(
    model: nn.Module, images: Tensor, x: float, y: float, *, layer: int = -1, head: int | None = None
) -> Tensor:
    """Return where the token at a pixel looks, `[B, nh, h, w]`, or `[B, h, w]` for one head.

    Args:
        model: as in `attention_maps`.
        images: `[B, C, H, W]`.
        x: column of the pixel, from the left.
        y: row of the pixel, from the top.
        layer: index of the layer; negative ones count from the end.
        head: index of the head; None returns all of them.

    Raises:
        ShapeError: a point outside of the images.
        OptionError: a layer or a head that does not exist.

    Example:
        >>> import regard
        >>> model = regard.create_model("nat_nano").eval()
        >>> look_from(model, torch.randn(1, 3, 32, 32), x=9, y=20, layer=0).shape
        torch.Size([1, 2, 32, 32])
    """
    calls = recorded(model, images)
    call = calls[_index("layer", layer, len(calls))]
    attention, size = call.map(), (images.shape[2], images.shape[3])
    keys = Tokens.of(attention.key_grid, size)
    is_class_attention = attention.weights.shape[2] != keys.total
    query = 0 if is_class_attention else Tokens.of(attention.query_grid, size).at(x, y, size)
    weights = keys.on_grid(attention.of_query(query))
    return weights if head is None else weights[:, _index("head", head, weights.shape[1])]


@torch.no_grad()
def rollout(model: nn.Module, images: Tensor, *, point: tuple[float, float] | None = None) -> Tensor:
    """Follow attention from the last layer down to the first: what can have reached the output, `[B, h, w]`.

    Args:
        model: as in `attention_maps`.
        images: `[B, C, H, W]`.
        point: x and y, in pixels, of the token of the last layer to start from; None is the class token, or all tokens
            equally if the model averages them.

    Cost:
        A forward pass, then time and memory linear in the number of weights: products of layers are never stored.

    Source:
        Abnar and Zuidema (arXiv 2005.00928).

    Example:
        >>> import regard
        >>> model = regard.create_model("nat_nano").eval()
        >>> rollout(model, torch.randn(1, 3, 32, 32), point=(9, 20)).shape
        torch.Size([1, 32, 32])
    """
    maps = [call.map() for call in recorded(model, images)]
    size = (images.shape[2], images.shape[3])
    query = None if point is None else Tokens.of(maps[-1].key_grid, size).at(*point, size)
    return follow(maps, size, residual_step, query).image()


@torch.no_grad()
def token_weights(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Return what the contexts of the pooled mechanisms are made of: per layer `[B, nh, h, w]`.

    SwiftFormer's weights may be negative. Layers of other mechanisms are left out.

    Example:
        >>> import regard
        >>> model = regard.create_model("swiftformer_nano").eval()
        >>> [tuple(weights.shape) for weights in token_weights(model, torch.randn(1, 3, 32, 32)).values()]
        [(1, 1, 32, 32), (1, 1, 16, 16), (1, 1, 8, 8)]
    """
    size = (images.shape[2], images.shape[3])
    pooled = [call for call in recorded(model, images) if call.mechanism.name in POOLED]
    found = {}
    for call in pooled:
        attention = call.map()
        found[call.layer] = Tokens.of(attention.key_grid, size).on_grid(attention.of_tokens())
    return found


POOLED = ("additive", "efficient_additive", "separable")


def _index(kind: str, index: int, count: int) -> int:
    if not -count <= index < count:
        raise OptionError(f"{kind} must be one of the {count} of this model, {-count} to {count - 1}, got {index}")
    return index % count

"""Where single tokens look, and which tokens a context is made of."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from regard.errors import OptionError, UnsupportedError
from regard.explain.maps import AttentionMap
from regard.explain.record import recorded
from regard.explain.rollout import follow, residual_step
from regard.explain.tokens import Tokens


@torch.no_grad()
def attention_maps(model: nn.Module, images: Tensor, *, mixed: bool = True) -> list[AttentionMap]:
    """Return the attention of every layer, in the order of the calls.

    Args:
        model: in evaluation mode: a model of regard, or any that went through `regard.surgery.adapt`. It stays as it
            is, and its kernels stay fused.
        images: `[B, C, H, W]`, preprocessed as the model expects.
        mixed: for talking heads (CaiT): True returns the weights after the second mix, which multiply the values and
            may be negative; False returns each head's softmax before that mix, whose rows sum to 1. The first mix, of
            the logits, is part of both. Other mechanisms have one kind of weights.

    Memory:
        All weights of all layers: B * nh * N * K numbers each.

    Example:
        >>> import regard
        >>> model = regard.create_model("nat_nano").eval()
        >>> [first, *_] = attention_maps(model, torch.randn(1, 3, 32, 32))
        >>> first.layer, first.weights.shape
        ('levels.0.blocks.0.attn', torch.Size([1, 2, 1024, 9]))
    """
    return [call.map(mixed=mixed) for call in recorded(model, images)]


@torch.no_grad()
def look_from(
    model: nn.Module,
    images: Tensor,
    x: float,
    y: float,
    *,
    layer: int = -1,
    head: int | None = None,
    mixed: bool = True,
) -> Tensor:
    """Return where the token at a pixel looks, `[B, nh, h, w]`, or `[B, h, w]` for one head.

    In class attention (CaiT's last layers), only the class token has a query, so that is where it looks.

    Args:
        model: as in `attention_maps`.
        images: `[B, C, H, W]`.
        x: column of the pixel, from the left.
        y: row of the pixel, from the top.
        layer: index of the layer; negative ones count from the end.
        head: index of the head; None returns all of them.
        mixed: see `attention_maps`.

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
    attention = calls[pick("layer", layer, len(calls))].map(mixed=mixed)
    weights = seen_from(attention, (images.shape[2], images.shape[3]), (x, y))
    return weights if head is None else weights[:, pick("head", head, weights.shape[1])]


def seen_from(attention: AttentionMap, size: tuple[int, int], point: tuple[float, float] | None) -> Tensor:
    """Return the weights of one query on the grid of its keys, `[B, nh, h, w]`.

    Args:
        attention: of one layer.
        size: height and width of the images.
        point: x and y of a pixel of the query's token; None is the class token, the first.
    """
    keys = Tokens.of(attention.key_grid, size)
    is_class_attention = attention.weights.shape[2] != keys.total
    query = 0 if point is None or is_class_attention else keys.at(*point, size)
    return keys.on_grid(attention.of_query(query))


@torch.no_grad()
def class_attention(model: nn.Module, images: Tensor, *, mixed: bool = True) -> dict[str, Tensor]:
    """Return what the class token looks at: per layer that has one, `[B, nh, h, w]`.

    In CaiT, these are the class-attention layers; in ViT and DeiT, all layers.

    Args:
        model: as in `attention_maps`.
        images: `[B, C, H, W]`.
        mixed: see `attention_maps`.

    Raises:
        UnsupportedError: no layer has a class token.

    Example:
        >>> import regard
        >>> model = regard.create_model("cait_xxs24_224", depth=1, img_size=32).eval()
        >>> [(name, tuple(one.shape)) for name, one in class_attention(model, torch.randn(1, 3, 32, 32)).items()]
        [('blocks_token_only.0.attn', (1, 4, 2, 2)), ('blocks_token_only.1.attn', (1, 4, 2, 2))]
    """
    size = (images.shape[2], images.shape[3])
    maps = attention_maps(model, images, mixed=mixed)
    require_class_token(model, maps, size)
    return {one.layer: seen_from(one, size, None) for one in maps if has_class_token(one, size)}


def has_class_token(attention: AttentionMap, size: tuple[int, int]) -> bool:
    """Whether a layer has tokens in front of the image's own; the class token is the first of them."""
    return Tokens.of(attention.key_grid, size).prefix > 0


def require_class_token(model: nn.Module, maps: Sequence[AttentionMap], size: tuple[int, int]) -> None:
    """Check that some layers have a class token.

    Raises:
        UnsupportedError: none has, or timm says that the tokens in front are registers only.
    """
    if not getattr(model, "has_class_token", True) or not any(has_class_token(one, size) for one in maps):
        raise UnsupportedError(
            f"expected a model with a class token, got {type(model).__name__}, which has none; use look_from, --at X,Y"
        )


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


def pick(kind: str, index: int, count: int) -> int:
    """Return an index without its sign.

    Raises:
        OptionError: a layer or head, whatever `kind` says, that does not exist.
    """
    if not -count <= index < count:
        whole = "layer" if kind == "head" else "model"
        raise OptionError(f"{kind} must be one of the {count} of this {whole}, {-count} to {count - 1}, got {index}")
    return index % count

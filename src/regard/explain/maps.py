"""Where the queries of one attention call look."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from regard.attention import neighborhood_keys, window_tokens

if TYPE_CHECKING:
    from regard.explain.record import Call

OUTSIDE = -1
"""The position of a key that padding has added."""

PADDED = ("neighborhood", "window")
"""The mechanisms whose modules may pad their input."""


@dataclass(frozen=True)
class AttentionMap:
    """The weights of one attention call, each with the position of its key.

    Attributes:
        layer: path of the module that made the call.
        mechanism: its name.
        weights: `[B, nh, N, K]`, for N queries with K keys each. Softmax weights of a query sum to 1, unless padding
            takes a part. Where one context serves all queries (the pooled mechanisms), they are the token weights,
            equal for all queries and of any sign.
        keys: `[N, K]`, positions of the keys in row-major order of `key_grid`, -1 for padding; None if every query sees
            all keys in order.
        query_grid: the grid of the N queries.
        key_grid: the grid of the M keys.
    """

    layer: str
    mechanism: str
    weights: Tensor
    keys: Tensor | None
    query_grid: tuple[int, ...]
    key_grid: tuple[int, ...]

    @classmethod
    def of(cls, call: Call, *, mixed: bool = True) -> AttentionMap:
        """Compute the map of a recorded call; see `Call.map`."""
        arguments = {name: _detached(value) for name, value in call.arguments.items()}
        if call.mechanism.name == "talking_heads" and not mixed:
            arguments |= _without_second_mix(arguments)
        with torch.no_grad():
            layout = LAYOUTS[call.mechanism.name](_weights(call, arguments), arguments)
        cropped = layout.crop(call.grid) if call.mechanism.name in PADDED else layout
        return cls(call.layer, call.mechanism.name, cropped.weights, cropped.keys, cropped.queries, cropped.grid)

    def of_query(self, query: int) -> Tensor:
        """Return the weights of one query on all keys, `[B, nh, M]`."""
        weights = self.weights[:, :, query]
        return weights if self.keys is None else _scatter(weights, self.keys[query], math.prod(self.key_grid))

    def of_tokens(self) -> Tensor:
        """Return the weight of every key, `[B, nh, M]`, where all queries that see a key weigh it alike."""
        if self.keys is None:
            return self.weights[:, :, 0]
        weights = self.weights.new_zeros(*self.weights.shape[:2], math.prod(self.key_grid))
        weights[:, :, self.keys.flatten()] = self.weights.flatten(2)
        return weights

    def dense(self) -> Tensor:
        """Return the weights of all queries on all keys, `[B, nh, N, M]`: small grids only."""
        if self.keys is None:
            return self.weights
        return torch.stack([self.of_query(query) for query in range(self.weights.shape[2])], 2)

    def pull(self, relevance: Tensor) -> Tensor:
        """Distribute the relevance of the queries, `[B, N]`, over the keys, `[B, M]`: a product with the mean head."""
        shares = relevance.unsqueeze(-1) * self.weights.mean(1)  # [B, N, K]
        if self.keys is None:
            return shares.sum(1)
        return _scatter(shares.flatten(1), self.keys.flatten(), math.prod(self.key_grid))

    def with_weights(self, weights: Tensor) -> AttentionMap:
        """Return the same map with other weights, `[B, nh, N, K]`."""
        return AttentionMap(self.layer, self.mechanism, weights, self.keys, self.query_grid, self.key_grid)


@dataclass(frozen=True)
class Layout:
    """Weights `[B, nh, N, K]` and key positions `[N, K]` on the grid of a call, which may be padded."""

    weights: Tensor
    keys: Tensor | None
    queries: tuple[int, ...]
    grid: tuple[int, ...]

    def crop(self, grid: Sequence[int]) -> Layout:
        """Leave out the positions that a module's padding has added to its input's grid."""
        grid = tuple(grid)
        if self.keys is None or self.queries != self.grid or len(grid) != len(self.grid) or grid == self.grid:
            return self
        place = torch.full((math.prod(self.grid),), OUTSIDE, device=self.keys.device)
        inside = torch.arange(math.prod(self.grid), device=self.keys.device).unflatten(0, self.grid)
        inside = inside[tuple(slice(length) for length in grid)].flatten()
        place[inside] = torch.arange(len(inside), device=self.keys.device)
        return Layout(self.weights[:, :, inside], place[self.keys[inside]], grid, grid)


def _weights(call: Call, arguments: Mapping[str, Any]) -> Any:  # noqa: ANN401  # a tensor, or two of additive attention
    """Compute a call's weights from its arguments."""
    accepted = inspect.signature(call.mechanism.weights).parameters
    return call.mechanism.weights(**{name: value for name, value in arguments.items() if name in accepted})


def _without_second_mix(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of talking heads whose weights are the softmax itself, one head per softmax."""
    mix = arguments["logits_mix"]
    return {"weights_mix": torch.eye(len(mix), dtype=mix.dtype, device=mix.device), "weights_bias": None}


def _dense(weights: Tensor, arguments: Mapping[str, Any]) -> Layout:
    return Layout(weights, None, _grid(arguments["query"], 2), _grid(arguments["key"], 2))


def _neighborhood(weights: Tensor, arguments: Mapping[str, Any]) -> Layout:
    grid = _grid(arguments["query"], 2)
    options = {name: arguments[name] for name in ("dilation", "stride", "is_causal", "small_grid")}
    keys = neighborhood_keys(arguments["kernel_size"], grid, **options).flatten(0, -2)
    return Layout(weights.flatten(1, -3).transpose(1, 2), keys.to(weights.device), grid, grid)


def _window(weights: Tensor, arguments: Mapping[str, Any]) -> Layout:
    """Put the windows' tokens back in the order of the grid, without those that padding has added."""
    grid = _grid(arguments["query"], 2)
    tokens = window_tokens(arguments["window_size"], grid, shift_size=arguments["shift_size"])
    tokens = tokens.flatten(0, -2).to(weights.device)  # [windows, T]
    order = tokens.flatten().argsort()[-math.prod(grid) :]
    keys = tokens.repeat_interleave(tokens.shape[1], 0)[order]
    weights = weights.flatten(1, -4).transpose(1, 2).flatten(2, 3)  # [B, nh, windows * T, T]
    return Layout(weights[:, :, order], keys, grid, grid)


def _pooled(weights: Tensor, arguments: Mapping[str, Any]) -> Layout:
    grid = tuple(weights.shape[1:])
    weights = weights.flatten(1)[:, None, None]
    return Layout(weights.expand(-1, -1, weights.shape[-1], -1), None, grid, grid)


def _additive(weights: tuple[Tensor, Tensor], arguments: Mapping[str, Any]) -> Layout:
    """Show the second pooling, which the output is made of."""
    grid = tuple(weights[1].shape[1:-1])
    second = weights[1].flatten(1, -2).transpose(1, 2).unsqueeze(2)  # [B, nh, 1, N]
    return Layout(second.expand(-1, -1, second.shape[-1], -1), None, grid, grid)


def _separable(weights: Tensor, arguments: Mapping[str, Any]) -> Layout:
    """Show to every value the tokens of its own place in the patches."""
    grid, values = tuple(weights.shape[1:]), tuple(arguments["value"].shape[1:-1])
    sides = _sides(arguments["patch_size"], len(grid))
    by_place = _places(grid, sides).argsort(stable=True).unflatten(0, (math.prod(sides), -1)).to(weights.device)
    keys = by_place[_places(values, sides).to(weights.device)]
    return Layout(weights.flatten(1)[:, keys].unsqueeze(1), keys, values, grid)


LAYOUTS: Mapping[str, Callable[[Any, Mapping[str, Any]], Layout]] = {
    "softmax": _dense,
    "talking_heads": _dense,
    "window": _window,
    "neighborhood": _neighborhood,
    "additive": _additive,
    "efficient_additive": _pooled,
    "separable": _separable,
}


def _places(grid: Sequence[int], sides: Sequence[int]) -> Tensor:
    """Number every position of a grid by its place in its patch."""
    place = torch.zeros((), dtype=torch.int64)
    for axis, (length, side) in enumerate(zip(grid, sides, strict=True)):
        along = (torch.arange(length) % side).reshape([-1 if other == axis else 1 for other in range(len(grid))])
        place = place * side + along
    return place.flatten()


def _sides(size: int | Sequence[int], axes: int) -> tuple[int, ...]:
    return (size,) * axes if isinstance(size, int) else tuple(size)


def _grid(tensor: Tensor, trailing: int) -> tuple[int, ...]:
    return tuple(tensor.shape[1:-trailing])


def _scatter(weights: Tensor, keys: Tensor, count: int) -> Tensor:
    """Add weights `[..., K]` up at their keys' positions, `[..., M]`; padding is dropped."""
    out = weights.new_zeros(*weights.shape[:-1], count + 1)
    out.index_add_(-1, keys % (count + 1), weights)  # -1 becomes the last place
    return out[..., :count]


def _detached(value: object) -> object:
    return value.detach() if isinstance(value, Tensor) else value

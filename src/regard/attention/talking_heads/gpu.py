"""The GPU kernels of talking-heads attention: those of triton_kernels.py, launched on tensors."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from regard.attention._canceled import fill_canceled, with_canceled
from regard.attention._operator import Kernel
from regard.attention.talking_heads.reference import Arguments
from regard.gpu import launch

KERNELS = launch.Kernels("regard.attention.talking_heads.triton_kernels")
LOG2_E = math.log2(math.e)


def reasons(arguments: Arguments) -> list[str]:
    """Return the reasons why the kernels cannot serve a call; empty if they can."""
    found = launch.head_reasons(arguments.query, arguments.value)
    if arguments.query.dtype == torch.float32 and arguments.query.device.type != "cpu":
        found.append("Triton 3.6 compiles these kernels' float32 products to wrong accesses; use bfloat16 or float16")
    return found


class Tiles(NamedTuple):
    """How a kernel is divided.

    Attributes:
        own: tokens of a program.
        other: tokens per step.
        group: heads that a program stores, or for the gradients of the mixes, softmax heads that it sums.
        num_warps: of a program.
        num_stages: of Triton's pipeline.
        splits_query: whether the query's channels are taken in two parts. Triton chains the products of two parts, and
            then places all warps along the rows: at 16 rows per warp they must not be more than the rows need.
        splits_value: whether the value's channels are.
    """

    own: int
    other: int
    group: int
    num_warps: int
    num_stages: int
    splits_query: bool = False
    splits_value: bool = False
    splits_product: bool = False
    keeps_own: bool = True


def choose_tiles(
    architecture: str, kernel: str, heads: tuple[int, int, int], channels: int, dtype: torch.dtype
) -> Tiles:
    """Choose the tiles of a kernel by its heads (key, softmax, value), the larger head dim and the dtype."""
    count, width = max(heads), max(16, 1 << (channels - 1).bit_length())
    if dtype == torch.float32 or architecture != "sm_90":
        num_warps = 4 if kernel == "statistics" and architecture == "sm_80" else 8
        return Tiles(32, 16, 1 if kernel == "mix_grads" or width > 128 else 2, num_warps, 1, keeps_own=False)
    if count * width > 512:
        if kernel == "weighted_sums" and count <= 16 and width <= 64:
            return Tiles(64, 16, 8, 8, 1, splits_value=True)
        group = 2 if kernel == "mix_grads" else min(4, max(1, 256 // width))
        return Tiles(64, 16, group, 4 if "statistics" in kernel else 8, 1, keeps_own=False)
    if kernel == "statistics":
        return Tiles(64, 32, 4, 4, 2, splits_query=True)
    if kernel == "grad_statistics":
        return Tiles(64, 16, 4, 4, 1 if count > 4 else 2, splits_query=True, splits_value=True)
    if count * width <= 256:
        return Tiles(64, 32 if kernel == "weighted_sums" else 16, 4, 4, 2, True, True, True)
    if kernel == "weighted_sums":
        return Tiles(64, 32, 8, 8, 2, splits_value=True)
    if kernel == "token_grads":
        return Tiles(64, 16, 8, 8, 1, splits_product=True)
    return Tiles(64, 16, 4, 8, 1)


def forward(
    out: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    logits_mix: Tensor,
    weights_mix: Tensor,
    logits_bias: Tensor | None,
    weights_bias: Tensor | None,
    scale: float,
) -> None:
    """Fill `out`. The softmax cancels the bias of the logits, unless that is NaN or infinite."""
    query, key, value, out = map(_tokens, (query, key, value, out))
    problem = _Problem(query, key, value, with_canceled(logits_mix, logits_bias), weights_mix, weights_bias, scale)
    problem.weighted_sums(value, problem.statistics(None), out, own_queries=True)


def backward(
    grads: list[Tensor],
    grad_out: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    logits_mix: Tensor,
    weights_mix: Tensor,
    logits_bias: Tensor | None,
    weights_bias: Tensor | None,
    scale: float,
) -> None:
    """Fill the gradients; that of the logits' bias is zero, or NaN where its head's are."""
    grad_logits_mix, grad_weights_mix, grad_logits_bias, grad_weights_bias, _ = grads[3:]
    query, key, value, grad_out, *grad_tokens = map(_tokens, (query, key, value, grad_out, *grads[:3]))
    problem = _Problem(query, key, value, with_canceled(logits_mix, logits_bias), weights_mix, weights_bias, scale)
    saved = problem.statistics(grad_out)
    problem.token_grads(grad_out, saved, grad_tokens[0], own_queries=True)
    problem.token_grads(grad_out, saved, grad_tokens[1], own_queries=False)
    problem.weighted_sums(grad_out, saved, grad_tokens[2], own_queries=False)
    logits_sum, weights_sum, bias_sum = problem.mix_grads(grad_out, saved)
    grad_logits_mix.copy_(logits_sum)
    grad_weights_mix.copy_(weights_sum)
    if grad_weights_bias is not None:
        grad_weights_bias.copy_(bias_sum)
    fill_canceled(grad_logits_bias, grad_logits_mix)


class _Statistics(NamedTuple):
    """What the kernels need of every softmax, `[B, h, N]`.

    Attributes:
        lse: log-sum-exps, of which the maxima are subtracted if there are any.
        maxima: of the logits; in float32 only, where the rounding of large log-sum-exps would show.
        delta: mean gradients of the weights.
    """

    lse: Tensor
    maxima: Tensor | None
    delta: Tensor


class _Problem:
    """A call's tensors and sizes, as the kernels read them."""

    def __init__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        logits_mix: Tensor,
        weights_mix: Tensor,
        weights_bias: Tensor | None,
        scale: float,
    ) -> None:
        self.query, self.key, self.value, self.scale = query, key, value, scale
        self.batch, self.queries, key_heads, query_dim = query.shape
        self.keys, value_heads, value_dim = value.shape[1:]
        self.heads = key_heads, logits_mix.shape[0], value_heads
        self.mix = logits_mix.float().contiguous()
        self.logits_mix = self.mix * (scale * LOG2_E)
        self.weights_mix, self.weights_bias = weights_mix.float().contiguous(), launch.parameter(weights_bias)
        self.query_dim, self.value_dim = query_dim, value_dim

    def statistics(self, grad_out: Tensor | None) -> _Statistics:
        """Return the statistics; without a gradient of the output, `delta` stays empty."""
        tiles = self.tiles("statistics" if grad_out is None else "grad_statistics", self.heads[1])
        lse = self.query.new_empty((self.batch, self.heads[1], self.queries), dtype=torch.float32)
        saved = _Statistics(
            lse, torch.empty_like(lse) if self.query.dtype == torch.float32 else None, torch.empty_like(lse)
        )
        grads = self.query if grad_out is None else grad_out
        KERNELS.launch(
            "statistics",
            self.batch * -(-self.heads[1] // tiles.group) * -(-self.queries // tiles.own),
            *(self.query, self.key, grads, self.value, self.logits_mix, self.weights_mix, *saved),
            *(tensor.stride() for tensor in (self.query, self.key, grads, self.value)),
            *(self.queries, self.keys),
            **self.constants(
                tiles, self.keys % tiles.other == 0, self.value, *([] if grad_out is None else [grad_out])
            ),
            HAS_GRAD=grad_out is not None,
            GROUP=tiles.group,
        )
        return saved

    def weighted_sums(self, values: Tensor, saved: _Statistics, out: Tensor, *, own_queries: bool) -> None:
        """Fill `out` with the sums of values of the keys or, where programs own keys, of the queries."""
        tiles = self.tiles("weighted_sums", self.heads[2])
        own, other = (self.query, self.key) if own_queries else (self.key, self.query)
        KERNELS.launch(
            "weighted_sums",
            self.batch * -(-self.heads[2] // tiles.group) * -(-own.shape[1] // tiles.own),
            *(own, other, values, saved.lse, saved.maxima, self.logits_mix, self.weights_mix, self.weights_bias, out),
            *(tensor.stride() for tensor in (own, other, values, out)),
            *(own.shape[1], other.shape[1]),
            **self.constants(tiles, other.shape[1] % tiles.other == 0, values, out),
            OWN_QUERIES=own_queries,
            GROUP=tiles.group,
        )

    def token_grads(self, grad_out: Tensor, saved: _Statistics, out: Tensor, *, own_queries: bool) -> None:
        """Fill `out` with the gradient of the queries or, where programs own keys, of the keys."""
        tiles = self.tiles("token_grads", self.heads[0])
        tensors = (self.query, self.key, grad_out, self.value)
        if not own_queries:
            tensors = (self.key, self.query, self.value, grad_out)
        own, other, *_ = tensors
        KERNELS.launch(
            "token_grads",
            self.batch * -(-self.heads[0] // tiles.group) * -(-own.shape[1] // tiles.own),
            *(*tensors, *saved, self.logits_mix, self.weights_mix, self.mix, out),
            *(tensor.stride() for tensor in (*tensors, out)),
            *(own.shape[1], other.shape[1], self.scale),
            **self.constants(tiles, other.shape[1] % tiles.other == 0, grad_out, self.value),
            OWN_QUERIES=own_queries,
            PRODUCT=_channels(tiles.splits_product, self.query, self.key),
            GROUP=tiles.group,
        )

    def mix_grads(self, grad_out: Tensor, saved: _Statistics) -> tuple[Tensor, Tensor, Tensor]:
        """Return the gradients of the mix of the logits, of the mix of the weights, and of the weights' bias."""
        tiles = self.tiles("mix_grads", self.heads[1])
        rows = self.batch * -(-self.queries // tiles.own)
        key_heads, heads, value_heads = self.heads
        logits_sums, weights_sums, bias_sums = (
            saved.lse.new_empty((rows, *shape)) for shape in ((heads, key_heads), (heads, value_heads), (value_heads,))
        )
        is_even = self.keys % tiles.other == 0 and self.queries % tiles.own == 0
        KERNELS.launch(
            "mix_grads",
            rows * -(-heads // tiles.group),
            *(self.query, self.key, grad_out, self.value, *saved, self.logits_mix, self.weights_mix),
            *(logits_sums, weights_sums, bias_sums),
            *(tensor.stride() for tensor in (self.query, self.key, grad_out, self.value)),
            *(self.queries, self.keys),
            **self.constants(tiles, is_even, grad_out, self.value),
            GROUP=tiles.group,
            THREADS=32 * tiles.num_warps,
        )
        return logits_sums.sum(0) * self.scale, weights_sums.sum(0).T, bias_sums.sum(0)

    def tiles(self, kernel: str, heads: int) -> Tiles:
        """Choose the tiles of a kernel that may divide its heads."""
        channels = max(self.query_dim, self.value_dim)
        tiles = choose_tiles(launch.architecture(self.query), kernel, self.heads, channels, self.query.dtype)
        return tiles._replace(group=min(tiles.group, heads))

    def constants(self, tiles: Tiles, is_even: bool, *values: Tensor) -> dict[str, launch.Constant]:
        """Return what is compiled into a kernel that reads and writes `values`, `[B, N, h_v, hd_v]`."""
        return {
            "HEADS": self.heads,
            "QUERY": _channels(tiles.splits_query, self.query, self.key),
            "VALUE": _channels(tiles.splits_value, *values),
            "PRECISION": launch.precision(self.query),
            "EVEN": is_even,
            "KEEP": tiles.keeps_own,
            "BLOCK_M": tiles.own,
            "BLOCK_N": tiles.other,
            "num_warps": tiles.num_warps,
            "num_stages": tiles.num_stages,
        }


def _channels(is_split: bool, *tensors: Tensor) -> tuple[tuple[int, ...], bool]:
    """Return a head's channels with the widths of the parts they are taken in, and whether heads are contiguous."""
    dim = tensors[0].shape[-1]
    if tensors[0].dtype == torch.float32:
        parts = launch.sizes(dim, launch.MAX_FLOAT32_PART)
    else:
        parts = launch.sizes(dim) if is_split else (dim, max(16, 1 << (dim - 1).bit_length()))
    return parts, all(tensor.stride()[2:] == (dim, 1) for tensor in tensors)


def _tokens(tensor: Tensor) -> Tensor:
    return tensor.flatten(1, -3)  # [B, N, nh, hd]; a view of what is allocated here


KERNEL = Kernel(launch.DEVICES, forward, backward, reasons)

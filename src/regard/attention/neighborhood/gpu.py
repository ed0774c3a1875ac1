"""The GPU kernels of neighborhood attention, launched on tensors."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from regard.attention._operator import Kernel
from regard.attention.neighborhood.gpu_plan import Plan, Problem, plan
from regard.attention.neighborhood.reference import Arguments
from regard.gpu import launch

KERNELS = launch.Kernels("regard.attention.neighborhood.triton_kernels")
BIAS_KERNELS = launch.Kernels("regard.attention.neighborhood.triton_bias")
BIAS_GRADIENT_KERNELS = launch.Kernels("regard.attention.neighborhood.triton_bias_gradient")
MAX_SCRATCH = 64 * 2**20  # bytes for the partial sums of the bias' gradient
EXPANSION = ("LEAD", "PLACES", "STEP", "FIRST")  # constants of an expanded bias
BLOCK = 16  # entries of a table that one program adds up


def reasons(arguments: Arguments) -> list[str]:
    """Return the reasons why the kernel cannot serve a call; empty if it can."""
    return launch.head_reasons(arguments.query, arguments.value)


def forward(
    out: Tensor,
    largest: Tensor,
    log_total: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    stride: Sequence[int],
    is_causal: Sequence[bool],
    bias: Tensor | None,
    scale: float,
) -> None:
    """Fill the output and the statistics: the largest logit and the logarithm of the sum relative to it, to base 2."""
    is_large = launch.is_large(query, key, value)
    divided = _plan(True, is_large, query, value, kernel_size, dilation, stride, is_causal, bias)
    table = _expand(divided, bias, keys_in_rows=False)
    KERNELS.launch(
        "forward",
        divided.query_tiles,
        *(query, key, value, table, out, largest, log_total),
        *map(launch.strides, (query, key, value, out, largest.unsqueeze(-1))),
        *divided.arguments,
        query.shape[-2],
        scale,
        **divided.constants,
    )


def backward(
    grads: list[Tensor],
    grad_out: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    stride: Sequence[int],
    is_causal: Sequence[bool],
    bias: Tensor | None,
    scale: float,
    out: Tensor,
    largest: Tensor,
    log_total: Tensor,
) -> None:
    """Fill the gradients of query, key, value and bias."""
    grad_query, grad_key, grad_value, *_, grad_bias, _ = grads
    is_large = launch.is_large(query, key, value, grad_out)
    divided = _plan(False, is_large, query, value, kernel_size, dilation, stride, is_causal, bias)
    by_query, by_key = (_expand(divided, bias, keys_in_rows=rows) for rows in (False, True))
    delta, heads = torch.empty_like(largest), query.shape[-2]
    of_query, of_key, of_value, of_out, of_grad, of_grad_query, of_grad_key, of_grad_value, of_statistics = map(
        launch.strides, (query, key, value, out, grad_out, *grads[:3], largest.unsqueeze(-1))
    )
    KERNELS.launch(
        "backward_queries",
        divided.query_tiles,
        *(query, key, value, by_query, out, largest, log_total, grad_out, grad_query, delta),
        *(of_query, of_key, of_value, of_out, of_grad, of_grad_query, of_statistics),
        *divided.arguments,
        heads,
        scale,
        **divided.constants,
    )
    KERNELS.launch(
        "backward_keys",
        divided.key_tiles,
        *(query, key, value, by_key, largest, log_total, delta, grad_out, grad_key, grad_value),
        *(of_query, of_key, of_value, of_grad, of_grad_key, of_grad_value, of_statistics),
        *divided.arguments,
        heads,
        scale,
        **divided.constants,
    )
    if bias is not None:
        tensors = (query, key, value, bias.contiguous(), largest, log_total, delta, grad_out)
        _fill_grad_bias(divided, grad_bias, tensors, (of_query, of_key, of_value, of_grad, of_statistics), scale)


def _plan(
    is_forward: bool,
    is_large: bool,
    query: Tensor,
    value: Tensor,
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    stride: Sequence[int],
    is_causal: Sequence[bool],
    bias: Tensor | None,
) -> Plan:
    return plan(
        Problem(
            is_forward,
            query.shape,
            value.shape[-1],
            bias is not None,
            query.dtype,
            launch.architecture(query),
            launch.precision(query),
            is_large,
            tuple(kernel_size),
            tuple(dilation),
            tuple(stride),
            tuple(is_causal),
        )
    )


def _expand(divided: Plan, bias: Tensor | None, *, keys_in_rows: bool) -> Tensor | None:
    """Lay the relative table out by tiles of pairs, so that a kernel loads it as it loads keys; if that is small."""
    if bias is None or not divided.expanded:
        return None if bias is None else bias.contiguous()
    tiles = bias.shape[0] * divided.expanded
    expanded = bias.new_empty(tiles * divided.pairs)
    constants = {name: divided.constants[name] for name in ("KERNEL", "TILE", "KEYS", *EXPANSION[1:])}
    BIAS_KERNELS.launch("expand_bias", tiles, bias.contiguous(), expanded, **constants, KEYS_IN_ROWS=keys_in_rows)
    return expanded


def _fill_grad_bias(
    divided: Plan,
    grad_bias: Tensor,
    tensors: tuple[Tensor, ...],
    strides: tuple[tuple[int, ...], ...],
    scale: float,
) -> None:
    """Add up the gradients of logits by entry, for as many heads at a time as fit the scratch memory."""
    heads = grad_bias.shape[0]
    tiles, places = divided.query_tiles // heads, prod(divided.places)
    per_head = places * divided.pairs  # numbers of a chunk
    wanted = -(-8 * launch.multiprocessors(grad_bias) // (heads * places))
    chunks = max(1, min(tiles, wanted, MAX_SCRATCH // (4 * per_head)))
    together = max(1, min(heads, MAX_SCRATCH // (4 * per_head * chunks)))
    partial = torch.empty(together * chunks * per_head, dtype=torch.float32, device=grad_bias.device)
    constants = {name: one for name, one in divided.constants.items() if name not in EXPANSION}
    summed = {name: divided.constants[name] for name in ("KERNEL", "TILE", "KEYS")}
    for head in range(0, heads, together):
        now = min(together, heads - head)
        BIAS_GRADIENT_KERNELS.launch(
            "gradients_by_place",
            now * places * chunks,
            *tensors,
            partial,
            *strides,
            *divided.arguments,
            *(divided.first_place, divided.places, head, tiles, chunks, scale),
            **constants,
        )
        BIAS_GRADIENT_KERNELS.launch(
            "sum_by_entry",
            now * -(-divided.entries // BLOCK),
            *(partial, grad_bias, divided.first_place, divided.places, head, chunks),
            **summed,
            ENTRIES=BLOCK,
        )


KERNEL = Kernel(launch.DEVICES, forward, backward, reasons)

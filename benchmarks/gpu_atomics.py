"""The gradient of neighborhood attention's bias with atomics: what the deterministic kernels are compared with.

Both make the same sums of tiles. This kernel adds them to the table at once, in no fixed order; the library stores
them, and a second kernel adds them up.
"""

from contextlib import contextmanager
from unittest.mock import patch

import torch
import triton
import triton.language as tl

from regard.attention.neighborhood import gpu
from regard.attention.neighborhood.triton_bias import table_entries
from regard.attention.neighborhood.triton_bias_gradient import divide, sums_at_place
from regard.attention.neighborhood.triton_geometry import in_columns, in_rows, tile_members
from regard.gpu import launch

KERNELS = launch.Kernels("gpu_atomics")
BIAS, FIRST_HEAD = 3, 18  # places among a kernel's arguments


@triton.jit
def gradients_by_atomics(
    query,
    key,
    value,
    bias,
    largest_logit,
    log_total,
    delta,
    grad_out,
    grad_bias,
    query_strides,
    key_strides,
    value_strides,
    grad_out_strides,
    statistics_strides,
    length,
    dilation,
    first_place,
    places,
    first_head,
    tiles,
    chunks,
    scale,
    KERNEL: tl.constexpr,
    STRIDE: tl.constexpr,
    CAUSAL: tl.constexpr,
    RANK: tl.constexpr,
    TILE: tl.constexpr,
    KEYS: tl.constexpr,
    SIZES: tl.constexpr,
    VALUE_SIZES: tl.constexpr,
    KEEP: tl.constexpr,
    PRECISION: tl.constexpr,
    LARGE: tl.constexpr,
):
    """Add one tile of sums to the table's gradient, float32."""
    head, ahead, chunk = divide(tl.program_id(0), first_place, places, first_head, chunks, KEYS)
    tensors = query, key, value, bias, largest_logit, log_total, delta, grad_out
    all_strides = query_strides, key_strides, value_strides, grad_out_strides, statistics_strides
    sums = sums_at_place(
        tensors, all_strides, length, dilation, head, ahead, chunk, tiles, chunks, scale,
        KERNEL, STRIDE, CAUSAL, RANK, TILE, KEYS, SIZES, VALUE_SIZES, KEEP, PRECISION, LARGE,
    )  # fmt: skip
    queries, keys = tile_members((0, 0, 0), TILE), tile_members(ahead, KEYS)
    entry, near = table_entries(head, in_columns(keys), in_rows(queries), KERNEL)
    tl.atomic_add(grad_bias + entry, sums, mask=near, sem="relaxed")


@contextmanager
def atomic_bias_gradients():
    """Let neighborhood attention add up the gradient of its bias with atomic additions."""
    tables = []

    class Atomics:
        @staticmethod
        def launch(name, programs, *arguments, **constants):
            if name == "sum_by_entry":
                arguments[1].copy_(tables[-1])
                return
            *tensors, first_head = *arguments[:8], arguments[FIRST_HEAD]
            if first_head == 0:
                tables[:] = [torch.zeros_like(arguments[BIAS], dtype=torch.float32)]
            KERNELS.launch("gradients_by_atomics", programs, *tensors, tables[-1], *arguments[9:], **constants)

    with patch.object(gpu, "BIAS_GRADIENT_KERNELS", Atomics):
        yield

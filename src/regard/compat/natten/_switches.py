"""NATTEN's queries and switches. The answers are regard's; the switches change nothing.

Fused attention is always available, in all dtypes and on all devices. NATTEN's other features (tiled and GEMM kernels,
TF32 in them, an autotuner, KV parallelism, compiled Flex attention) do not exist here.
"""

from __future__ import annotations

import torch

__all__ = [
    "HAS_LIBNATTEN",
    "allow_flex_compile",
    "allow_flex_compile_backprop",
    "are_deterministic_algorithms_enabled",
    "disable_autotuner",
    "disable_flex_compile",
    "disable_flex_compile_backprop",
    "disable_gemm_na",
    "disable_tf32",
    "disable_tiled_na",
    "enable_gemm_na",
    "enable_tf32",
    "enable_tiled_na",
    "force_flex_attention",
    "get_memory_usage_preference",
    "has_bfloat",
    "has_cuda",
    "has_fna",
    "has_fp32_gemm",
    "has_fp64_gemm",
    "has_fused_na",
    "has_gemm",
    "has_half",
    "has_tf32_gemm",
    "is_autotuner_enabled",
    "is_autotuner_enabled_for_backward",
    "is_autotuner_enabled_for_forward",
    "is_autotuner_thorough_for_backward",
    "is_autotuner_thorough_for_forward",
    "is_flex_compile_allowed",
    "is_flex_compile_backprop_allowed",
    "is_fna_enabled",
    "is_fused_na_enabled",
    "is_gemm_na_enabled",
    "is_kv_parallelism_in_fused_na_enabled",
    "is_memory_usage_default",
    "is_memory_usage_strict",
    "is_memory_usage_unrestricted",
    "is_tf32_in_gemm_na_enabled",
    "is_tiled_na_enabled",
    "set_memory_usage_preference",
    "use_autotuner",
    "use_deterministic_algorithms",
    "use_flex_attention",
    "use_fna",
    "use_fused_na",
    "use_gemm_na",
    "use_kv_parallelism_in_fused_na",
    "use_tf32_in_gemm_na",
    "use_tiled_na",
]


def has_cuda() -> bool:
    """Whether an NVIDIA GPU is available."""
    return torch.cuda.is_available()


def are_deterministic_algorithms_enabled() -> bool:
    """Return PyTorch's own setting, the only one here."""
    return torch.are_deterministic_algorithms_enabled()


def get_memory_usage_preference() -> str:
    """Return that no preference is set."""
    return "default"


def _yes(*_: object, **__: object) -> bool:
    return True


def _no(*_: object, **__: object) -> bool:
    return False


def _ignored(*_: object, **__: object) -> None:
    return None


HAS_LIBNATTEN = True  # code asks whether fused kernels are there, not for a library
has_fna = has_fused_na = has_half = has_bfloat = _yes
is_fna_enabled = is_fused_na_enabled = is_memory_usage_default = _yes

has_gemm = has_tf32_gemm = has_fp32_gemm = has_fp64_gemm = _no
is_gemm_na_enabled = is_tiled_na_enabled = is_tf32_in_gemm_na_enabled = _no
is_autotuner_enabled = is_autotuner_enabled_for_forward = is_autotuner_enabled_for_backward = _no
is_autotuner_thorough_for_forward = is_autotuner_thorough_for_backward = _no
is_kv_parallelism_in_fused_na_enabled = is_memory_usage_strict = is_memory_usage_unrestricted = _no
is_flex_compile_allowed = is_flex_compile_backprop_allowed = _no
enable_gemm_na = enable_tiled_na = enable_tf32 = disable_gemm_na = disable_tiled_na = disable_tf32 = (
    _no  # the new state
)

use_fna = use_fused_na = use_gemm_na = use_tiled_na = use_tf32_in_gemm_na = use_kv_parallelism_in_fused_na = _ignored
use_autotuner = disable_autotuner = use_deterministic_algorithms = set_memory_usage_preference = _ignored
use_flex_attention = force_flex_attention = allow_flex_compile = allow_flex_compile_backprop = _ignored
disable_flex_compile = disable_flex_compile_backprop = _ignored

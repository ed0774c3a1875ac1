"""Find out which devices PyTorch can use on this machine."""

from __future__ import annotations

import torch

VENDORS = {"cuda": "CUDA", "mps": "MPS", "xpu": "XPU"}
CPU = torch.device("cpu")


def default_device() -> torch.device:
    """Return the accelerator of this machine, or the CPU if there is none."""
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return CPU if device is None else device


def why_unavailable(device: str | None) -> str | None:
    """Return why PyTorch cannot use a type of device, or None if it can.

    Example:
        >>> why_unavailable("cpu") is None
        True
    """
    if device not in VENDORS:
        return None
    backend = torch.backends.mps if device == "mps" else getattr(torch, device)
    if backend.is_available():
        return None
    built_for = torch.accelerator.current_accelerator()
    if built_for is None or built_for.type != device:
        return f"{VENDORS[device]} is not available: PyTorch {torch.__version__} was built without it"
    return f"{VENDORS[device]} is not available: PyTorch finds no such device, or no driver for it"

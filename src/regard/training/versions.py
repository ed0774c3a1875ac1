"""Versions of Python and of the packages that a run depends on."""

from __future__ import annotations

import platform
from importlib import metadata

TRAIN_PACKAGES = ("timm", "torchvision", "accelerate", "matplotlib", "pillow", "scikit-learn")


def version(package: str) -> str | None:
    """Return the version of a package, or None if it is not installed.

    Example:
        >>> version("no-such-package") is None
        True
    """
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def versions() -> dict[str, str | None]:
    """Return the versions of Python, regard and the packages that training uses."""
    packages = ("regard", "torch", "numpy", "safetensors", *TRAIN_PACKAGES)
    return {"python": platform.python_version(), **{package: version(package) for package in packages}}

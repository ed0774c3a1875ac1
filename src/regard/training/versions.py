"""The versions of what takes part in a run."""

from __future__ import annotations

import platform
from importlib import metadata

TRAIN_PACKAGES = ("timm", "torchvision", "accelerate", "matplotlib", "pillow", "scikit-learn")


def version(package: str) -> str | None:
    """Look up a package's version; None if it is not installed.

    Example:
        >>> version("no-such-package") is None
        True
    """
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def versions() -> dict[str, str | None]:
    """Collect the versions of Python, regard and the packages it trains with."""
    packages = ("regard", "torch", "numpy", "safetensors", *TRAIN_PACKAGES)
    return {"python": platform.python_version(), **{package: version(package) for package in packages}}

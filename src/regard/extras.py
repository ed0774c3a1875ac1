"""Optional packages: imported where they are used, and missed by the name of the extra that installs them."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from regard.errors import MissingDependencyError


def require(module: str, extra: str) -> ModuleType:
    """Import an optional `module`, or say which extra of regard installs it.

    Raises:
        MissingDependencyError: the module, or a package that it needs, is not installed.

    Example:
        >>> require("json", extra="train").dumps([1])
        '[1]'
    """
    try:
        return import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise MissingDependencyError(
            f"this needs the package {package!r} ({error}); install it with: pip install 'regard[{extra}]'"
        ) from error

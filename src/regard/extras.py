"""Import optional packages where they are used."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from regard.errors import MissingDependencyError


def require(module: str, extra: str) -> ModuleType:
    """Import an optional `module`, or name the extra of regard that installs it.

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
            f"expected the package {package!r}, which cannot be imported ({error}); install it with: "
            f"pip install 'regard[{extra}]'"
        ) from error

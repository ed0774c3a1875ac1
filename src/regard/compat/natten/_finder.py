"""`import natten` without NATTEN: a finder that names this package so."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import warnings
from collections.abc import Iterable, Sequence
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from importlib.metadata import Distribution, DistributionFinder
from pathlib import Path
from types import ModuleType

# The last NATTEN whose modules have a bias unasked and pad small inputs; the NAT repository tells later ones by
# `natten.context`, and then passes other arguments.
__version__ = "0.15.1"
CONTENTS = {
    "natten": "regard.compat.natten",
    "natten.functional": "regard.compat.natten.functional",
    "natten.flops": "regard.compat.natten.flops",
}
METADATA = {
    "METADATA": f"Metadata-Version: 2.1\nName: natten\nVersion: {__version__}\nSummary: regard.compat.natten\n",
    "top_level.txt": "natten\n",
}


def install() -> bool:
    """Make `import natten`, and what is imported from it, resolve to `regard.compat.natten` in this process.

    A NATTEN that is installed stays: then a warning says so and nothing changes. Calling it again changes nothing.
    Call it before the code that imports NATTEN: transformers asks once whether it is there, and remembers.

    Returns:
        Whether `natten` is regard's.

    Example:
        ```python
        from regard.compat import natten
        natten.install()
        from natten import NeighborhoodAttention2D
        ```
    """
    if any(isinstance(finder, _Finder) for finder in sys.meta_path):
        return _is_ours()
    if "natten" in sys.modules or importlib.util.find_spec("natten") is not None:
        warnings.warn("natten is installed: regard.compat.natten left it in place", stacklevel=2)
        return False
    sys.meta_path.append(_Finder())  # at the end: whatever else is called natten goes first
    return True


def _is_ours() -> bool:
    spec = importlib.util.find_spec("natten")
    return spec is not None and isinstance(spec.loader, _Loader)


class _Finder(DistributionFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in CONTENTS:
            return None
        source = importlib.import_module(CONTENTS[fullname])
        return ModuleSpec(fullname, _Loader(source), origin=source.__file__, is_package=fullname == "natten")

    def find_distributions(self, context: DistributionFinder.Context | None = None) -> Iterable[Distribution]:
        name = None if context is None else context.name
        return [_Distribution()] if name is None or name.lower() == "natten" else []


class _Loader(Loader):
    def __init__(self, source: ModuleType) -> None:
        self.source = source

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return None  # a plain new one: ours keep their own names

    def exec_module(self, module: ModuleType) -> None:
        vars(module).update({name: getattr(self.source, name) for name in self.source.__all__})
        module.__doc__, module.__file__ = self.source.__doc__, self.source.__file__
        if module.__name__ == "natten":  # as in NATTEN, natten.functional needs no import of its own
            importlib.import_module("natten.functional")


class _Distribution(Distribution):
    """What importlib.metadata tells of natten: a name and a version."""

    def read_text(self, filename: str) -> str | None:
        return METADATA.get(filename)

    def locate_file(self, path: object) -> Path:
        return Path(__file__).parent / str(path)

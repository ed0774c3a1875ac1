"""`import natten` without NATTEN: a finder that names this package so."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Iterable, Sequence
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from importlib.metadata import Distribution, DistributionFinder
from pathlib import Path
from threading import Lock
from types import ModuleType

# The last NATTEN whose modules have a bias unasked and pad small inputs; the NAT repository tells later ones by
# `natten.context`, and then passes other arguments.
__version__ = "0.15.1"
CONTENTS = {
    "natten": "regard.compat.natten",
    "natten.functional": "regard.compat.natten.functional",
    "natten.flops": "regard.compat.natten.flops",
    "natten.modules": "regard.compat.natten",
    "natten.natten1d": "regard.compat.natten",
    "natten.natten2d": "regard.compat.natten",
    "natten.natten3d": "regard.compat.natten",
    "natten.types": "regard.compat.natten._types",
}
METADATA = {
    "METADATA": f"Metadata-Version: 2.1\nName: natten\nVersion: {__version__}\nSummary: regard.compat.natten\n",
    "top_level.txt": "natten\n",
}
LOCK = Lock()


def install() -> bool:
    """Resolve `import natten` and its submodules to `regard.compat.natten` in this process.

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
    with LOCK:
        if _other_is_there():
            warnings.warn("natten is installed: regard.compat.natten left it in place", stacklevel=2)
            return False
        if not any(map(_is_ours, sys.meta_path)):
            sys.meta_path.insert(0, _Finder())  # before the one that takes an empty folder for a package
        if _is_empty(sys.modules.get("natten")):
            sys.modules.pop("natten", None)
        return True


def _other_is_there() -> bool:
    """Whether another package named `natten` is imported or can be."""
    module = sys.modules.get("natten")
    if not _is_empty(module):
        return not _is_ours(getattr(getattr(module, "__spec__", None), "loader", None))
    finders = [finder for finder in sys.meta_path if not _is_ours(finder) and hasattr(finder, "find_spec")]
    specs = (finder.find_spec("natten", None) for finder in finders)
    return any(spec is not None and not _is_folder(spec) for spec in specs)


def _is_empty(module: ModuleType | None) -> bool:
    """Whether an entry is a module: not a folder without code, and not None, which bars an import."""
    spec = getattr(module, "__spec__", None)
    return module is None or (spec is not None and _is_folder(spec))


def _is_folder(spec: ModuleSpec) -> bool:
    return spec.origin is None and spec.submodule_search_locations is not None


def _is_ours(part: object) -> bool:
    """Whether a finder or loader is regard's, by its mark: reloading this file creates the classes anew."""
    return getattr(part, "serves", None) == CONTENTS["natten"]


class _Finder(DistributionFinder):
    serves = CONTENTS["natten"]

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in CONTENTS or _other_is_there():
            return None
        source = importlib.import_module(CONTENTS[fullname])
        return ModuleSpec(fullname, _Loader(source), origin=source.__file__, is_package=fullname == "natten")

    def find_distributions(self, context: DistributionFinder.Context | None = None) -> Iterable[Distribution]:
        name = None if context is None else context.name
        asked = name is None or name.lower() == "natten"
        return [_Distribution()] if asked and not _other_is_there() else []


class _Loader(Loader):
    serves = CONTENTS["natten"]

    def __init__(self, source: ModuleType) -> None:
        self.source = source

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return None  # a plain new module: regard's keep their own names

    def exec_module(self, module: ModuleType) -> None:
        vars(module).update({name: getattr(self.source, name) for name in self.source.__all__})
        module.__doc__, module.__file__ = self.source.__doc__, self.source.__file__
        if module.__name__ == "natten":  # as in NATTEN, natten.functional needs no import of its own
            for name in CONTENTS:
                importlib.import_module(name)


class _Distribution(Distribution):
    """What importlib.metadata tells of natten: a name and a version."""

    def read_text(self, filename: str) -> str | None:
        return METADATA.get(filename)

    def locate_file(self, path: object) -> Path:
        return Path(__file__).parent / str(path)

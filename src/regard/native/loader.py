"""Find the compiled kernels: one shared library per instruction set, loaded by ctypes.

An install with a C++ compiler puts the libraries into this folder. Without a compiler there are none, and the
references serve.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import NamedTuple

import torch

from regard import native
from regard.errors import UnsupportedError

RUNNABLE = {"AVX512": ("x86_64_v4", "x86_64_v3", "portable"), "AVX2": ("x86_64_v3", "portable")}
"""Libraries that run on a processor with torch's CPU capability, best first; other processors run the portable one."""

FILES = ("libregard_{}.so", "libregard_{}.dylib", "regard_{}.dll")


class Native(NamedTuple):
    """A loaded library and its instruction set, or the problem why there is none."""

    library: ctypes.CDLL | None
    instruction_set: str
    problem: str


def instruction_sets() -> tuple[str, ...]:
    """Return the instruction sets whose libraries run on this processor, best first."""
    return RUNNABLE.get(torch.backends.cpu.get_cpu_capability(), ("portable",))


def folders() -> list[Path]:
    """Return the folders that may have the libraries: that of the sources, and that of an editable install."""
    return [Path(folder) for folder in native.__path__]


def load(instruction_set: str | None = None) -> Native:
    """Load the library of an instruction set; None loads the best for this processor.

    Tests and benchmarks assign the result to `NATIVE` to run a certain library.

    Raises:
        UnsupportedError: `instruction_set` does not run on this processor.
    """
    names = runnable = instruction_sets()
    if instruction_set is not None:
        if instruction_set not in runnable:
            raise UnsupportedError(
                f"instruction_set must be one that runs on this processor, got {instruction_set!r}; "
                f"choose one of {', '.join(runnable)}"
            )
        names = (instruction_set,)
    problems = []
    for name in names:
        for file in (folder / each.format(name) for folder in folders() for each in FILES):
            try:
                if file.is_file():
                    return Native(ctypes.CDLL(str(file)), name, "")
            except OSError as error:
                problems.append(f"the native library {file.name} cannot be loaded: {error}")
    problems.append("regard was installed without its native library: install it again with a C++ compiler")
    return Native(None, "", problems[0])


NATIVE = load()
"""The library of this process."""


def native_library() -> Native:
    """Return the library of CPU kernels that this process uses.

    Returns:
        The loaded library or None, its instruction set, and the problem if there is none.

    Example:
        >>> native = native_library()
        >>> bool(native.problem) == (native.library is None)
        True
    """
    return NATIVE

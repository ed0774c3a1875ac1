"""Packages of AOTInductor: a program compiled for one kind of processor, which needs no compiler where it runs."""

from __future__ import annotations

import json
import platform
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from regard.errors import OptionError, ShapeError, UnsupportedError
from regard.exporting.metadata import KEY, Metadata

TAKEN = f"{KEY}_input"
"""Key of the shape and dtype that a file takes. AOTInductor's code checks neither, and reads beyond smaller inputs."""

MODEL = "model"
"""AOTInductor's name of the program in a package."""

PLACE = "/data/aotinductor/"
"""Where the archive has its compiled code; a program of `torch.export` has none."""

MARCH: Mapping[str, str] = {"AVX2": "x86-64-v3", "AVX512": "x86-64-v4"}
"""The compiler's names of what PyTorch tells apart. Its own choice, `native`, ties a file to one processor."""

LEVELS = ("DEFAULT", "AVX2", "AVX512")
"""Of x86 processors; each has the instructions of those before it."""


def check_compile(kind: str, portable: bool, dynamic: Sequence[str]) -> None:
    """Check that a file can be compiled.

    Raises:
        OptionError: another format than `.pt2`, or a portable file.
        UnsupportedError: a dynamic size, or there is no C++ compiler.
    """
    if kind != "pt2":
        raise OptionError(f"compile makes .pt2 files, got {kind}; leave it out")
    if portable:
        raise OptionError("expected compile or portable, got both: a compiled file keeps regard's operators")
    if "size" in dynamic:
        raise UnsupportedError("compile fixes the size of the images, got the dynamic axis 'size'; leave it out")
    from torch._inductor.cpp_builder import get_cpp_compiler  # takes longer to import than all of regard

    try:
        get_cpp_compiler()
    except Exception as error:  # the kinds differ between PyTorch's versions
        raise UnsupportedError(
            "expected a C++ compiler, which compile needs, and found none; install g++ or clang, or set CXX"
        ) from error


def write_compiled(program: ExportedProgram, file: Path, metadata: Metadata) -> None:
    """Compile a program with its weights. regard's operators stay calls of its kernels.

    Loops use as many threads as PyTorch does where the file runs.
    """
    import torch._inductor

    options: dict[str, Any] = {
        "freezing": True,
        "cpp.dynamic_threads": True,
        "aot_inductor.metadata": {KEY: metadata.dumps(), TAKEN: json.dumps(_input_of(program))},
    }
    if march := MARCH.get(torch.backends.cpu.get_cpu_capability()):
        options["cpp.march"] = march
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch._inductor.aoti_compile_and_package(program, package_path=str(file), inductor_configs=options)


def is_compiled(file: Path) -> bool:
    """Whether a `.pt2` file is a package of AOTInductor."""
    try:
        with ZipFile(file) as archive:
            return any(PLACE in f"/{name}" for name in archive.namelist())
    except (BadZipFile, OSError):
        return False


def open_compiled(file: Path) -> tuple[str | None, Callable[[Tensor], Tensor]]:
    """Load a package, and return its metadata and what calls it.

    Raises:
        UnsupportedError: it was compiled for another kind of processor, whose instructions would end the process.
    """
    loader: Any = torch._C._aoti.AOTIModelPackageLoader  # aoti_load_package looks for a compiler
    found = loader.load_metadata_from_package(str(file), MODEL)
    _check_processor(found.get("AOTI_MACHINE", ""), found.get("AOTI_CPU_ISA", ""))
    runner = loader(str(file), MODEL, False, 1, -1)
    outputs = pytree.treespec_loads(runner.get_call_spec()[1])

    taken = json.loads(found[TAKEN]) if TAKEN in found else None

    def call(x: Tensor) -> Tensor:
        _check_input(x, taken)
        with torch.no_grad():
            return pytree.tree_unflatten(runner.boxed_run([x.contiguous()]), outputs)

    return found.get(KEY), call


def _input_of(program: ExportedProgram) -> dict[str, Any]:
    """Return the shape and the dtype of a program's images; the shape of a dynamic axis is None."""
    name = program.graph_signature.user_inputs[0]
    value = next(node.meta["val"] for node in program.graph.nodes if node.name == name)
    return {"shape": [one if isinstance(one, int) else None for one in value.shape], "dtype": str(value.dtype)}


def _check_input(x: Tensor, taken: Mapping[str, Any] | None) -> None:
    if taken is None:  # regard has not written the file
        return
    shape, dtype = taken["shape"], taken["dtype"]
    fits = len(shape) == x.ndim and all(one in (None, length) for one, length in zip(shape, x.shape, strict=True))
    if not fits or str(x.dtype) != dtype:
        words = ", ".join("any" if one is None else str(one) for one in shape)
        raise ShapeError(
            f"expected images [{words}] in {dtype}, got {list(x.shape)} in {x.dtype}; resize them, or export again"
        )


def _check_processor(machine: str, instructions: str) -> None:
    """Check that this processor has the instructions of a file."""
    words = instructions.split()
    level = words[0] if words else ""
    here = torch.backends.cpu.get_cpu_capability()
    known = level in LEVELS and here in LEVELS
    if machine not in ("", platform.machine()) or (known and LEVELS.index(level) > LEVELS.index(here)):
        raise UnsupportedError(
            f"expected a file compiled for {platform.machine()} with {here}, got one for {machine} with {level}; "
            "export it on this kind of processor, or without --compile"
        )

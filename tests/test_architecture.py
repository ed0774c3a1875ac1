"""The rules of the layout: imports between packages, lengths of files and functions, the cost of an import."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "regard"
TESTS = Path(__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))
LEVELS = (
    {"errors"},
    {"extras", "onednn"},
    {"attention", "layers", "checkpoint"},
    {"models"},
    {"surgery", "compat", "explain", "benchmark", "training", "export"},
    {"cli"},
)
LEVEL = {part: level for level, parts in enumerate(LEVELS) for part in parts}


def part_of(path):
    return path.relative_to(SOURCE).with_suffix("").parts[0]


def imported(path):
    """Yield the names that a file imports from regard, anywhere in the file, each as a list of its parts."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "regard":
            for alias in node.names:
                yield f"{node.module}.{alias.name}".split(".")
        elif isinstance(node, ast.Import):
            yield from (alias.name.split(".") for alias in node.names if alias.name.split(".")[0] == "regard")


@pytest.mark.parametrize("path", [path for path in FILES if part_of(path) != "__init__"], ids=str)
def test_imports_go_down(path):
    mine = part_of(path)
    for module in imported(path):
        other = module[1] if len(module) > 1 else "__init__"
        allowed = other == mine or LEVEL.get(other, len(LEVELS)) < LEVEL[mine]
        assert allowed, f"{mine} must not import regard.{other}"


@pytest.mark.parametrize("path", sorted(SOURCE.glob("attention/*/reference.py")), ids=lambda path: path.parent.name)
def test_references_stand_alone(path):
    """A reference imports nothing from regard; the core of the pooled family belongs to its three references."""
    assert {".".join(module[:3]) for module in imported(path)} <= {"regard.attention._pooling"}


@pytest.mark.parametrize("path", FILES, ids=str)
def test_no_private_names_from_other_packages(path):
    mine = part_of(path)
    for module in imported(path):
        private = [name for name in module if name.startswith("_") and not name.startswith("__")]
        assert not private or module[1] == mine, f"{mine} must not import {'.'.join(module)}"


@pytest.mark.parametrize("path", [*FILES, *sorted(TESTS.rglob("*.py"))], ids=str)
def test_files_stay_short(path):
    assert len(path.read_text().splitlines()) <= 400


@pytest.mark.parametrize("path", FILES, ids=str)
def test_functions_stay_short(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            lines = node.end_lineno - node.lineno + 1
            if ast.get_docstring(node) is not None:
                lines -= node.body[0].end_lineno - node.body[0].lineno + 1
            assert lines <= 50, f"{node.name} has {lines} lines"


def test_few_arguments_of_any_type():
    assert sum(path.read_text().count("noqa: ANN401") for path in FILES) <= 20


def test_no_switches_outside_the_arguments():
    for path in FILES:
        text = path.read_text()
        for word in ("os.environ", "getenv", "strict=False", "weights_only=False"):
            found = [line for line in text.splitlines() if word in line and "zip(" not in line]
            assert not found, f"{path}: {found}"


def test_import_is_light():
    program = """
import sys, time
import torch
begin = time.process_time()
import regard
print(time.process_time() - begin)
heavy = ("timm", "matplotlib", "onnx", "sklearn", "accelerate", "typer", "triton")
print([name for name in heavy if name in sys.modules])
"""
    seconds = []
    installed = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}  # has bytecode
    for _ in range(3):
        command = [sys.executable, "-c", program]
        lines = subprocess.run(command, capture_output=True, text=True, check=True, env=installed).stdout
        time, modules = lines.splitlines()
        assert modules == "[]"
        seconds.append(float(time))
    assert min(seconds) <= 0.3

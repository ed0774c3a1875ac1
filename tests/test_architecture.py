"""The rules of the layout: imports between packages, lengths of files and functions, the cost of an import."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "regard"
TESTS = Path(__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))
KERNELS = sorted(path for suffix in ("*.cpp", "*.h") for path in SOURCE.rglob(suffix))
LEVELS = (
    {"errors"},
    {"extras", "files", "timing", "native", "gpu"},
    {"dense"},
    {"attention", "layers", "checkpoint"},
    {"models"},
    {"surgery", "compat", "explain", "training"},
    {"exporting"},
    {"benchmark"},
    {"cli"},
    {"__main__"},
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


@pytest.mark.parametrize("path", FILES, ids=str)
def test_no_private_names_from_other_packages(path):
    mine = part_of(path)
    for module in imported(path):
        private = [name for name in module if name.startswith("_") and not name.startswith("__")]
        assert not private or module[1] == mine, f"{mine} must not import {'.'.join(module)}"


# What each file of a mechanism may import from its own folder, from the shared files of attention/, and of regard.
ARROWS = {
    "reference": ((), ("_pooling",), ()),
    "cpu": (("reference",), ("_operator", "_canceled"), ("native",)),
    "gpu": (("reference", "gpu_plan"), ("_operator", "_canceled"), ("gpu",)),
    "gpu_plan": ((), (), ("gpu",)),
    "triton": (("triton",), (), ("gpu",)),
    "sdpa": ((), (), ()),
    "op": (("reference", "cpu", "gpu"), ("_operator",), ()),
    "arguments": (("reference", "op"), ("_transforms", "checks", "grid", "_pooling"), ("errors",)),
    "function": (
        ("arguments", "op", "reference", "sdpa"),
        ("_autocast", "_backend", "_override", "checks", "grid", "_pooling"),
        (),
    ),
    "module": (("function", "arguments"), ("_backend", "checks", "grid", "_pooling"), ("errors", "dense")),
    "samples": (("module",), ("_mechanism",), ()),
    "__init__": (("arguments", "function", "module", "op", "samples"), ("_mechanism",), ()),
}
MECHANISM_FILES = sorted(SOURCE.glob("attention/*/*.py"))


@pytest.mark.parametrize(
    "path",
    MECHANISM_FILES,
    ids=lambda path: f"{path.parent.name}-{path.stem}",
)
def test_arrows_inside_a_mechanism(path):
    own, shared, outside = ARROWS[kind(path.stem)]
    for _, part, *rest in imported(path):
        if part != "attention":
            assert part in outside, part
        elif rest[0] != path.parent.name:
            assert rest[0] in shared, f"{path.stem} must not import regard.attention.{rest[0]}"
        else:
            assert kind(rest[1]) in own, f"{path.stem} must not import {rest[1]} of its mechanism"


def kind(name):
    """The row of a file in `ARROWS`: one for all files of Triton's."""
    return "triton" if name.startswith("triton_") else name


def test_few_types_are_any():
    """PyTorch's untyped objects need some; a public signature needs none."""
    assert sum(path.read_text().count("noqa: ANN401") for path in FILES) <= 20


@pytest.mark.parametrize("path", FILES, ids=str)
def test_functions_stay_short(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            statements = node.body[1:] if ast.get_docstring(node) else node.body
            lines = statements[-1].end_lineno - statements[0].lineno + 1 if statements else 0
            assert lines <= 50, f"{node.name} has {lines} lines"


@pytest.mark.parametrize("path", [*FILES, *KERNELS, *sorted(TESTS.rglob("*.py"))], ids=str)
def test_files_stay_short(path):
    assert len(path.read_text().splitlines()) <= 400


def functions_in_cpp(text):
    """The first line and the number of lines of every function, by matching braces; lambdas are part of it."""
    text = re.sub(r"//[^\n]*", "", text)
    text = re.sub(r"^#(?:.*\\\n)*.*$", "", text, flags=re.MULTILINE)
    scopes, header = [], 0  # what each open brace belongs to; where the code before the next brace starts
    for place, character in enumerate(text):
        if character == "{":
            before = text[header:place]
            if "function" in scopes or "other" in scopes:
                scopes.append("inside")
            elif ")" in before:
                scopes.append("function")
                start = header + len(before) - len(before.lstrip())
            else:
                scopes.append("scope" if re.search(r"\b(namespace|struct|enum|class)\b", before) else "other")
            header = place + 1
        elif character == "}":
            header = place + 1
            if scopes.pop() == "function":
                if text[place + 1 :].lstrip()[:1] in (",", "{"):  # a member's initializer: the body follows
                    header = start
                else:
                    yield text.count("\n", 0, start) + 1, text.count("\n", start, place) + 1
        elif character == ";":
            header = place + 1
    assert not scopes


def test_functions_in_cpp_are_found():
    text = """namespace a {  // {
struct B {
    int c[2] = {1, 2};
    B(int d) : c{d, d} {
        f([&] { return d; });
        f(c);
    }
};
template <typename T>
void g(T h) {
    if (h) {
    }
}
}
"""
    assert list(functions_in_cpp(text)) == [(4, 4), (9, 5)]


@pytest.mark.parametrize("path", KERNELS, ids=str)
def test_cpp_functions_stay_short(path):
    long = [(line, length) for line, length in functions_in_cpp(path.read_text()) if length > 80]
    assert not long, f"functions of more than 80 lines in {path}: (first line, lines) {long}"


@pytest.mark.parametrize("path", KERNELS, ids=str)
def test_each_kernel_has_its_namespace(path):
    """Libraries hold all kernels: equal names in one namespace would be a silent clash, in whatever file they are."""
    folder = path.parent.name
    expected = "regard" if folder == "native" else f"regard::{folder}"
    namespaces = re.findall(r"^namespace\b([^{=]*)", path.read_text(), flags=re.MULTILINE)
    assert [name.strip() for name in namespaces] == [expected]


def test_no_switches_outside_the_arguments():
    for path in FILES:
        text = path.read_text()
        for word in ("os.environ", "getenv", "strict=False", "weights_only=False"):
            found = [line for line in text.splitlines() if word in line and "zip(" not in line]
            if path.name == "processes.py":  # launchers tell a process its place in variables, before torch knows it
                found = [line for line in found if "RANK" not in line and "WORLD_SIZE" not in line]
            assert not found, f"{path}: {found}"


def test_import_is_light():
    program = """
import sys, time
begin = time.process_time()
import torch
middle = time.process_time()
import regard
print((time.process_time() - middle) / (middle - begin))
heavy = ("timm", "matplotlib", "onnx", "sklearn", "accelerate", "typer", "triton")
print([name for name in heavy if name in sys.modules])
"""
    ratios = []
    installed = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}  # has bytecode
    for _ in range(3):
        command = [sys.executable, "-c", program]
        lines = subprocess.run(command, capture_output=True, text=True, check=True, env=installed).stdout
        ratio, modules = lines.splitlines()
        assert modules == "[]"
        ratios.append(float(ratio))
    assert min(ratios) <= 0.15  # of the time to import torch

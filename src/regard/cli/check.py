"""`regard check`."""

from __future__ import annotations

import platform

import torch
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from regard.attention import MECHANISMS, Mechanism
from regard.attention._native.loader import NATIVE
from regard.training.run import available_device
from regard.training.versions import TRAIN_PACKAGES, version

OPTIONAL = {"train": TRAIN_PACKAGES}
"""The optional packages, by the extra that installs them."""


def check() -> None:
    """Show versions, devices, and what every mechanism runs on; exit code 1 if a reference does not run.

    Example: regard check
    """
    console = Console()
    console.print(_installation())
    failures = {mechanism.name: _self_test(mechanism) for mechanism in MECHANISMS}
    console.print(_mechanisms(failures))
    if any(failures.values()):
        raise typer.Exit(1)


def _installation() -> Table:
    table = Table("what", "found", title="installation")
    table.add_row("regard", version("regard") or "run from its sources")
    table.add_row("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    table.add_row("torch", f"{torch.__version__}, {torch.get_num_threads()} threads")
    table.add_row("devices", ", ".join(_devices()))
    table.add_row("native library", NATIVE.problem or f"compiled for {NATIVE.instruction_set}")
    for extra, packages in OPTIONAL.items():
        for package in packages:
            missing = escape(f"missing: pip install 'regard[{extra}]'")
            table.add_row(package, version(package) or missing)
    return table


def _devices() -> list[str]:
    device = available_device()
    return ["cpu"] if device.type == "cpu" else ["cpu", f"{device.type} x {torch.accelerator.device_count()}"]


def _mechanisms(failures: dict[str, str]) -> Table:
    table = Table("mechanism", "kernel on the CPU", "reference", title="attention", show_lines=True)
    for mechanism in MECHANISMS:
        reasons = [mechanism.unsupported_reasons(**call.tensors(), **call.options) for call in mechanism.samples]
        fused = reasons.count([])
        kernel = f"fused for {fused} of {len(reasons)} sample calls" if fused else "none: " + "; ".join(reasons[0])
        table.add_row(mechanism.name, escape(kernel), escape(failures[mechanism.name]) or "runs")
    return table


def _self_test(mechanism: Mechanism) -> str:
    """Run the reference on the first sample, and say what is wrong with it."""
    sample = mechanism.samples[0]
    try:
        result = mechanism.function(**sample.tensors(), **sample.options, backend="reference")
    except Exception as error:  # whatever it is, it is what the user wants to know
        return f"fails: {type(error).__name__}: {error}"
    outputs = result if isinstance(result, tuple) else (result,)
    return "" if all(output.isfinite().all() for output in outputs) else "fails: its output is not finite"

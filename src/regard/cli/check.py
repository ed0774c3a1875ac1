"""`regard check`."""

from __future__ import annotations

import platform

import torch
import typer

from regard.attention import MECHANISMS, Mechanism, native_library
from regard.cli.tables import Table, show
from regard.gpu.launch import TRITON, dotted, triton_reasons
from regard.training.devices import CPU, default_device, describe_load
from regard.training.versions import TRAIN_PACKAGES, version

OPTIONAL = {"train": TRAIN_PACKAGES}
"""The optional packages by the extra that installs them."""
GPU_STATE = "an earlier state of the kernels ran on an NVIDIA H100, this one in Triton's interpreter only"


def check() -> None:
    """Show versions, devices, and which mechanisms have fused kernels here; exit code 1 if a reference fails.

    Example: regard check
    """
    show(_installation())
    typer.echo()
    failures = {mechanism.name: _self_test(mechanism) for mechanism in MECHANISMS}
    reasons = {
        (mechanism.name, device.type): _reasons(mechanism, device) for mechanism in MECHANISMS for device in _devices()
    }
    show(_kernels(reasons, failures), *_unsupported(reasons))
    if any(failures.values()):
        raise typer.Exit(1)


def _installation() -> Table:
    table = Table("what", "found", title="installation", whole=("what",))
    table.add("regard", version("regard") or "not installed, run from its sources")
    table.add("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    table.add("torch", f"{torch.__version__}, {torch.get_num_threads()} threads")
    table.add("cores", describe_load(torch.get_num_threads()))
    table.add("devices", ", ".join(map(_describe, _devices())))
    table.add("native library", native_library().problem or f"compiled for {native_library().instruction_set}")
    table.add("GPU kernels", "; ".join(triton_reasons()) or f"Triton {dotted(TRITON)}; {GPU_STATE}")
    for extra, packages in OPTIONAL.items():
        for package in packages:
            table.add(package, version(package) or f"missing: pip install 'regard[{extra}]'")
    return table


def _devices() -> list[torch.device]:
    device = default_device()
    return [CPU] if device == CPU else [CPU, device]


def _describe(device: torch.device) -> str:
    return device.type if device == CPU else f"{device.type} x {torch.accelerator.device_count()}"


def _reasons(mechanism: Mechanism, device: torch.device) -> dict[str, list[str]]:
    """Return the reasons against a fused kernel for each sample call of a mechanism."""
    calls = {sample.name: {**sample.tensors(device=device), **sample.options} for sample in mechanism.samples}
    return {name: mechanism.unsupported_reasons(**arguments) for name, arguments in calls.items()}


def _kernels(reasons: dict[tuple[str, str], dict[str, list[str]]], failures: dict[str, str]) -> Table:
    headings = ("mechanism", "device", "fused", "reference")
    table = Table(*headings, title="attention", whole=headings[:3])
    for (name, device), calls in reasons.items():
        fused = list(calls.values()).count([])
        table.add(name, device, f"{fused} of {len(calls)} sample calls", failures[name] or "runs")
    return table


def _unsupported(reasons: dict[tuple[str, str], dict[str, list[str]]]) -> list[Table]:
    """Return a table of the reasons with the sample calls that each applies to, if there are any."""
    headings = ("mechanism", "device", "reason", "calls")
    table = Table(*headings, title="why calls run on the reference", whole=headings[:2])
    for (name, device), calls in reasons.items():
        for reason in sorted({reason for found in calls.values() for reason in found}):
            affected = [call for call, found in calls.items() if reason in found]
            table.add(name, device, reason, "all" if len(affected) == len(calls) else ", ".join(affected))
    return [table] if table.rows else []


def _self_test(mechanism: Mechanism) -> str:
    """Run the reference on the first sample, and return what is wrong with it, or an empty string."""
    sample = mechanism.samples[0]
    try:
        result = mechanism.function(**sample.tensors(), **sample.options, backend="reference")
    except Exception as error:  # any exception is a finding
        return f"fails: {type(error).__name__}: {error}"
    outputs = result if isinstance(result, tuple) else (result,)
    return "" if all(output.isfinite().all() for output in outputs) else "fails: its output is not finite"

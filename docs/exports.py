"""Write the tables of the page on export: export every family and mechanism in every format, check it, and time it.

make exports                              # an hour or two; close other programs
python docs/exports.py --only nat_mini    # renews the rows of one model
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from measured import renewed
from torch import Tensor, nn

import regard
from regard.benchmark import Machine
from regard.benchmark.mechanisms import SUBJECTS, Size
from regard.errors import RegardError
from regard.exporting import Opened
from regard.exporting.program import step_of
from regard.timing import time_in_turn

ROOT = Path(__file__).resolve().parents[1]
PAGE, RESULTS = ROOT / "docs" / "guides" / "export.md", ROOT / "docs" / "assets" / "exports.json"
NAME = "docs/exports.py"
MODELS = (
    "swiftformer_xs",
    "mobilevitv2_050",
    "cait_xxs24_224",
    "nat_mini",
    "dinat_s_tiny",
    "swin_tiny_patch4_window7_224",
    "deit_tiny_patch16_224",
)
FORMATS = {
    "ONNX": ("onnx", {}),
    "ONNX with regard's operators": ("onnx", {"kernels": "regard"}),
    "OpenVINO": ("xml", {}),
    "OpenVINO with regard's operators": ("xml", {"kernels": "regard"}),
    "`torch.export`": ("pt2", {}),
    "`torch.export`, portable": ("pt2", {"portable": True}),
}
"""By the title of their tables: the ending of the file, and the options."""
MECHANISMS = {subject.name: subject.build for subject in SUBJECTS}
AXES = (("batch", "size"), ("batch",), ("size",))
"""What is tried, until one succeeds."""
PATCH, SIDE = 8, 224
SECONDS = 4.0


class OneLayer(nn.Module):
    """A classifier of patches, one mechanism and the mean."""

    def __init__(self, layer: nn.Module, dim: int) -> None:
        super().__init__()
        self.patches, self.layer, self.head = nn.Conv2d(3, dim, PATCH, PATCH), layer, nn.Linear(dim, 1000)

    def forward(self, x: Tensor) -> Tensor:
        """Classify images `[B, 3, H, W]`."""
        tokens = self.layer(self.patches(x).permute(0, 2, 3, 1))
        return self.head(tokens.flatten(1, 2).mean(1))


def create(name: str) -> nn.Module:
    """Return the model of a row: a family's, or a network of one mechanism."""
    torch.manual_seed(0)
    if name in MODELS:
        return regard.create_model(name).eval()
    size = Size((SIDE // PATCH, SIDE // PATCH), 64, 2)
    return OneLayer(MECHANISMS[name](size), size.dim).eval()


def row(model: nn.Module, ending: str, options: dict, folder: Path, seconds: float) -> dict:
    """Export a model with fixed sizes, which is verified and timed, and with axes that are chosen later."""
    file = folder / f"model.{ending}"
    try:
        exported = regard.export(model, file, **options)
    except RegardError as error:
        return {"error": str(error).partition(";")[0]}
    side = exported_side(model)
    x = torch.randn(1, 3, side, side)
    with torch.inference_mode():
        calls = {"eager": partial(model, x), "file": partial(Opened.open(file).call, x)}
        times = time_in_turn(calls, seconds)
    return {
        "difference": max(exported.verification.differences),
        "bytes": exported.bytes / sum(one.nbytes for one in model.state_dict().values()),
        "dynamic": dynamic_axes(model, file, options),
        "ratio": times["file"].ratio_to(times["eager"]),
        "noisy": times["file"].is_noisy or times["eager"].is_noisy,
    }


def dynamic_axes(model: nn.Module, file: Path, options: dict) -> Sequence[str]:
    """Return the axes that a file of the model leaves open, after a call with other lengths of them."""
    for axes in AXES:
        try:
            regard.export(model, file, dynamic=axes, **options)
        except RegardError as error:
            print(f"  {axes}: {error}", flush=True)
            continue
        batch = 3 if "batch" in axes else 1
        side = exported_side(model) + ("size" in axes) * step_of(model)
        x = torch.randn(batch, 3, side, side)
        with torch.no_grad():
            torch.testing.assert_close(Opened.open(file).call(x), model(x), rtol=1e-3, atol=1e-4)
        return axes
    return ()


def exported_side(model: nn.Module) -> int:
    """Return the side of the images that a file takes."""
    preprocessing = getattr(model, "preprocessing", None)
    return SIDE if preprocessing is None else preprocessing.image_size


def tables(results: dict) -> str:
    """Return one table for each format."""
    lines = [results["machine"], ""]
    for title in FORMATS:
        lines += [f"### {title}", ""]
        lines += ["| model | largest difference | dynamic batch | dynamic size | file / weights | time / eager |"]
        lines += ["|---|--:|---|---|--:|--:|"]
        for name in (*MODELS, *MECHANISMS):
            lines.append(cells(name, results["rows"].get(f"{title}: {name}")))
        lines.append("")
    return "\n".join(lines[:-1])


def cells(name: str, row: dict | None) -> str:
    """Return the line of a row.

    >>> cells("a", {"difference": 2.3e-7, "dynamic": ["batch"], "bytes": 1.004, "ratio": 0.614, "noisy": True})
    '| a | 2e-07 | yes | no | 1.00 | 0.6 (noisy) |'
    """
    title = f"`{name}`" if name in MODELS else name.replace("_", " ")
    if row is None:
        return f"| {title} | not measured | | | | |"
    if "error" in row:
        return f"| {title} | fails: {row['error']} | | | | |"
    axes = ["yes" if axis in row["dynamic"] else "no" for axis in ("batch", "size")]
    time = f"{row['ratio']:.1f} (noisy)" if row["noisy"] else f"{row['ratio']:.2f}"
    return f"| {title} | {row['difference']:.0e} | {' | '.join(axes)} | {row['bytes']:.2f} | {time} |"


def main() -> None:
    """Export, check, time, and write; a stopped run keeps the rows that it has."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=[*MODELS, *MECHANISMS], help="models")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="per time")
    options = parser.parse_args()
    results = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {"rows": {}}
    results["machine"] = f"{Machine.measure()}."
    for name in options.only or [*MODELS, *MECHANISMS]:
        model = create(name)
        for title, (ending, given) in FORMATS.items():
            with tempfile.TemporaryDirectory() as folder:
                found = row(model, ending, given, Path(folder), options.seconds)
            results["rows"][f"{title}: {name}"] = found
            print(f"{title}: {cells(name, found)}", flush=True)
            RESULTS.write_text(json.dumps(results, indent=1) + "\n")
            PAGE.write_text(renewed(PAGE.read_text(), NAME, tables(results)))


if __name__ == "__main__":
    main()

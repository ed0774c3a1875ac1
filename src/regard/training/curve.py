"""Plot the metrics of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from regard.extras import require

PANELS = {"loss": 1, "accuracy": 100}
COLORS = {"train": "tab:gray", "val": "tab:blue"}


def draw_curve(metrics: Sequence[Mapping[str, Any]], title: str, file: Path) -> None:
    """Plot loss and accuracy in % over the epochs, side by side, into an image file."""
    figure = require("matplotlib.figure", extra="train").Figure(figsize=(10, 4), layout="constrained")
    integers = require("matplotlib.ticker", extra="train").MaxNLocator(integer=True)
    for axes, (quantity, unit) in zip(figure.subplots(1, 2), PANELS.items(), strict=True):
        for side, color in COLORS.items():
            values = {each["epoch"]: each[f"{side}_{quantity}"] for each in metrics}
            known = {epoch: unit * value for epoch, value in values.items() if value is not None}
            last = f" {list(known.values())[-1]:.3g}" if known else ""
            axes.plot(list(known), list(known.values()), color=color, marker=".", label=side + last)
        axes.set(xlabel="epoch", title=f"{title}: {quantity}" + (" (%)" if unit == 100 else ""))
        axes.xaxis.set_major_locator(integers)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    figure.savefig(file, dpi=120)

"""Write the page on costs: measure all mechanisms on this machine, draw the plot, and renew the table of the page.

make costs        # some minutes; close other programs
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from measured import renewed

ROOT = Path(__file__).resolve().parents[1]
PAGE, PLOT = ROOT / "docs" / "guides" / "costs.md", ROOT / "docs" / "assets" / "costs.png"
NAME = "docs/costs.py"
COMMAND = ("bench", "mechanisms", "--dim", "64", "--heads", "2", "--training", "--seconds", "2")


def table(content: dict) -> str:
    """Return the machine and one line per mechanism, from a JSON file of `regard bench mechanisms`."""
    machine, rows = content["machine"], content["rows"]
    tokens = sorted({row["tokens"] for row in rows})
    steal = "" if machine["steal"] is None else f", {machine['steal']:.0%} of the time taken by a hypervisor"
    load = "" if machine["load"] is None else f"; load {machine['load']:.1f} before the start"
    noisy = sum(row["noisy"] for row in rows)
    lines = [
        f"{machine['processor']}, {machine['threads']} of {machine['cores']} cores, kernels for "
        f"{machine['instruction_set']}, torch {machine['torch']}; `torch.mm` {machine['flops'] / 1e9:.0f} GFLOP/s, "
        f"copy {machine['bytes'] / 1e9:.1f} GB/s{load}{steal}; {noisy} of {len(rows)} rows noisy.",
        "",
        "| mechanism | " + " | ".join(f"{count:,} tokens" for count in tokens) + " | training, largest | exponent |",
        "|---|" + "--:|" * (len(tokens) + 2),
    ]
    for name in dict.fromkeys(row["mechanism"] for row in rows):
        mine = sorted((row for row in rows if row["mechanism"] == name), key=lambda row: row["tokens"])
        cells = [milliseconds(row["forward_ms"], 2 if row["noisy"] else 3) for row in mine]
        last = milliseconds(mine[-1]["training_ms"], 3)
        exponent = f"{content['exponents'][name]:.2f}"
        lines.append(f"| {name.replace('_', ' ')} | {' | '.join(cells)} | {last} | {exponent} |")
    return "\n".join(lines)


def milliseconds(value: float, digits: int) -> str:
    """Return a time with so many digits, and without exponents.

    >>> milliseconds(1913.4, 3), milliseconds(0.9876, 2)
    ('1910 ms', '0.99 ms')
    """
    return f"{float(f'{value:.{digits}g}'):g} ms"


def main() -> None:
    """Measure, draw, and write."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "costs.json"
        command = [sys.executable, "-m", "regard", *COMMAND, "--json", str(file), "--plot", str(PLOT)]
        subprocess.run(command, check=True)
        PAGE.write_text(renewed(PAGE.read_text(), NAME, table(json.loads(file.read_text()))))


if __name__ == "__main__":
    main()

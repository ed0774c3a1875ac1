"""Write the mechanism table from `regard.attention.MECHANISMS`, and the table of sizes from `regard.models.MODELS`.

The site's build fills the tables in wherever a page has a marker of docs/extension.py. README.md is read without a
build, so it holds a copy between two markers: `python docs/tables.py` renews it, and tests/test_docs.py compares it.
"""

from __future__ import annotations

from pathlib import Path

from regard.attention import MECHANISMS
from regard.models import MODELS

ROOT = Path(__file__).resolve().parents[1]
NO_BREAK_HYPHEN = "\u2011"  # keeps "3-D" on one line
SCALED = ("swiftformer_xs", "swin_tiny_patch4_window7_224", "nat_base")
PROCESSES = 8
BEGIN, END = "<!-- mechanisms: written by docs/tables.py -->", "<!-- end of mechanisms -->"


def title(name: str) -> str:
    """Return a mechanism's name in words."""
    return name.replace("_", " ")


def mechanism_table(pages: str) -> str:
    """Return the table in Markdown.

    Args:
        pages: path of the folder that holds the mechanisms' pages, relative to the page that shows the table, and empty
            or with a slash at its end.
    """
    lines = ["| mechanism | each query sees | origin | modules |", "|---|---|---|---|"]
    for mechanism in MECHANISMS:
        modules = ", ".join(f"`{module.__name__}`" for module in mechanism.modules)
        paper = f"[{mechanism.origin}](https://arxiv.org/abs/{mechanism.paper})"
        page = f"[{title(mechanism.name)}]({pages}{mechanism.name}.md)"
        summary = mechanism.summary.replace("-", NO_BREAK_HYPHEN)
        lines.append(f"| {page} | {summary} | {paper} | {modules} |")
    return "\n".join(lines)


def scale_table() -> str:
    """Return the table of what a step sends and what a checkpoint holds, in MB of 10^6 bytes, as Markdown."""
    heads = ["model", "parameters", "DDP", "FSDP2", "FSDP2 in bf16", "checkpoint", "with `--ema-decay`"]
    lines = [f"| {' | '.join(heads)} |", "|---|" + "--:|" * (len(heads) - 1)]
    for name in SCALED:
        parameters = MODELS[name].parameters
        sent, others = parameters / 1e6, (PROCESSES - 1) / PROCESSES
        sizes = [2 * others * 4 * sent, 3 * others * 4 * sent, 3 * others * 2 * sent, 12 * sent, 16 * sent]
        lines.append(f"| `{name}` | {parameters:,} | {' | '.join(f'{size:,.0f}' for size in sizes)} |")
    return "\n".join(lines)


def with_table(text: str, pages: str) -> str:
    """Return `text` with the table between the two markers renewed."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{mechanism_table(pages)}\n{END}{after}"


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(with_table(readme.read_text(), "docs/mechanisms/"))

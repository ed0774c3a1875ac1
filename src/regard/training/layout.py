"""Errors about the layout of a folder of images, which show the expected folders and those that were found."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from regard.errors import DataError

EXPECTED = """\
expected           or
data/              data/
├── cat/           ├── train/
│   └── 1.jpg      │   ├── cat/
└── dog/           │   └── dog/
    └── 1.jpg      └── val/
                       ├── cat/
                       └── dog/"""

DEPTH = 2  # folders within each other that are drawn
MAX_DRAWN = 4  # entries of a folder that are drawn


def layout_error(root: Path, problem: str, remedy: str) -> DataError:
    """Return the error for a wrong layout, with the expected tree and the start of the tree that was found.

    Args:
        root: the folder.
        problem: what was expected and what was found, as in "images in every class folder, got none in 'cat'".
        remedy: what to do.
    """
    return DataError(f"expected in {str(root)!r} {problem}; {remedy}\n\n{EXPECTED}\n\nfound\n{draw_tree(root)}")


def draw_tree(root: Path) -> str:
    """Draw the first folders and files of a folder, and count the others.

    Example:
        >>> folder = getfixture("tmp_path") / "data"
        >>> (folder / "cat").mkdir(parents=True)
        >>> (folder / "cat" / "1.jpg").touch()
        >>> print(draw_tree(folder))
        data/
        └── cat/
            └── 1.jpg
    """
    console = Console(width=100, color_system=None)
    with console.capture() as drawn:
        console.print(_branches(root, Tree(Text(f"{root.resolve().name}/")), DEPTH))
    return "\n".join(line.rstrip() for line in drawn.get().splitlines())


def _branches(folder: Path, tree: Tree, depth: int) -> Tree:
    try:
        paths = sorted(folder.iterdir())
    except OSError:
        tree.add("(cannot be read)")
        return tree
    for path in paths[:MAX_DRAWN]:
        is_folder = path.is_dir()
        branch = tree.add(Text(f"{path.name}/" if is_folder else path.name))
        if is_folder and depth > 1:
            _branches(path, branch, depth - 1)
    if len(paths) > MAX_DRAWN:
        tree.add(f"... {len(paths) - MAX_DRAWN} more")
    return tree

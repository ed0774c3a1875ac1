"""The exceptions of regard.

```
RegardError
├── ShapeError(ValueError)                 a wrong size, rank or divisibility
├── OptionError(ValueError)                an unknown word or a value out of range
├── UnsupportedError(NotImplementedError)  a valid request without an implementation; lists the reasons
├── CheckpointError(ValueError)            unknown, missing or misshapen tensors
├── DataError(ValueError)                  wrong folder layouts, empty splits, folders that are no run
│   └── BrokenImageError                   image files that cannot be read; lists them
└── MissingDependencyError(ImportError)    names the extra to install
```

A message says what was expected, what was given, and what to do. A wrong Python type, a wrong dtype, or tensors on
different devices raise a plain `TypeError`, as in PyTorch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path

MAX_LISTED = 20  # valid words in a message


class RegardError(Exception):
    """Base class of all exceptions that regard raises on purpose."""


class ShapeError(RegardError, ValueError):
    """A size, a rank or a divisibility that the operation does not support."""


class OptionError(RegardError, ValueError):
    """An unknown word, such as the name of a model or an option, or a value out of range."""

    @classmethod
    def unknown(cls, kind: str, got: object, valid: Iterable[str]) -> OptionError:
        """Return the error for an unknown `kind` of word, suggesting the most similar of the `valid` words."""
        names = [name for name in valid if name != got]
        starting = [name for name in names if str(got) and name.startswith(str(got))]
        near = list(dict.fromkeys((*starting, *get_close_matches(str(got), names, n=3, cutoff=0.5))))[:3]
        more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
        valid_names = ", ".join(names[:MAX_LISTED]) + more
        hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"valid: {valid_names}"
        return cls(f"unknown {kind} {got!r}; {hint}")


class UnsupportedError(RegardError, NotImplementedError):
    """A valid request without an implementation; the message lists every reason."""


class ExportError(RegardError, ArithmeticError):
    """An exported file that does not compute what its model computes."""


class CheckpointError(RegardError, ValueError):
    """A checkpoint that cannot be read, or has unknown, missing or misshapen tensors."""


class DataError(RegardError, ValueError):
    """A folder of images or a run whose content is not as expected."""


class BrokenImageError(DataError):
    """Image files that cannot be read.

    Attributes:
        images: why each file cannot be read, as in "the file *is empty*".
    """

    def __init__(self, images: Mapping[Path, str], remedy: str = "replace or remove it") -> None:
        super().__init__(images, remedy)  # both are what pickle needs to rebuild it
        self.images = dict(images)
        self.remedy = remedy

    def __str__(self) -> str:
        if len(self.images) == 1:
            ((path, reason),) = self.images.items()
            return f"expected an image file, got {str(path)!r}, which {reason}; {self.remedy}"
        listed = "".join(f"\n  {path}: {reason}" for path, reason in self.images.items())
        return f"expected image files, got {len(self.images)} that cannot be read; {self.remedy}:{listed}"


class MissingDependencyError(RegardError, ImportError):
    """A missing optional package; the message names the extra that installs it."""

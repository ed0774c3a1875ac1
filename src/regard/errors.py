"""The errors that regard raises.

```
RegardError
├── ShapeError(ValueError)                 sizes, ranks, divisibility
├── OptionError(ValueError)                a word that is not among the valid ones
├── UnsupportedError(NotImplementedError)  a valid request without an implementation; lists the reasons
├── CheckpointError(ValueError)            unknown, missing or misshapen tensors
├── DataError(ValueError)                  unreadable images, wrong folders, empty splits
└── MissingDependencyError(ImportError)    names the extra to install
```

A message says what was expected, what came, and what to do. A wrong Python type, a wrong dtype or tensors on different
devices are plain `TypeError`s, as everywhere in PyTorch.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class RegardError(Exception):
    """Base class of every error that regard raises on purpose."""


class ShapeError(RegardError, ValueError):
    """A size, a rank or a divisibility that the operation cannot work with."""


class OptionError(RegardError, ValueError):
    """A word, such as a model's or an option's name, that is not among the valid ones."""

    @classmethod
    def unknown(cls, kind: str, got: object, valid: Iterable[str]) -> OptionError:
        """Build the message for an unknown `kind`, suggesting the nearest of the `valid` names."""
        names = list(valid)
        near = get_close_matches(str(got), names, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"valid: {', '.join(names)}"
        return cls(f"unknown {kind} {got!r}; {hint}")


class UnsupportedError(RegardError, NotImplementedError):
    """A valid request for which no implementation exists; the message lists every reason."""


class CheckpointError(RegardError, ValueError):
    """A checkpoint with unknown, missing or misshapen tensors, or one that cannot be read."""


class DataError(RegardError, ValueError):
    """Images that cannot be read, folders of another layout than expected, empty splits."""


class MissingDependencyError(RegardError, ImportError):
    """An optional package is needed; the message names the extra that installs it."""

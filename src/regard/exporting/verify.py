"""Whether an exported file computes what its model computes, and where it does not."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from regard.exporting.opened import Opened

TOLERANCE = 1e-4
"""The largest difference, relative to the largest output."""


@dataclass(frozen=True)
class Verification:
    """What a comparison found.

    Attributes:
        images: names of the images.
        differences: of each image's output, relative to its largest value.
        agree: for each image, whether the most probable class is the same.
        tolerance: of the differences.
        culprit: the first part of the file that differs, or the call that fails, if one was looked for and found.
    """

    images: tuple[str, ...]
    differences: tuple[float, ...]
    agree: tuple[bool, ...]
    tolerance: float
    culprit: str = ""

    @property
    def passed(self) -> bool:
        """Whether all images agree; a difference that is no number does not."""
        return all(self.agree) and all(one <= self.tolerance for one in self.differences)

    @property
    def worst(self) -> int:
        """The place of the image with the largest difference."""
        return max(range(len(self.images)), key=lambda place: _order(self.differences[place]))

    def __str__(self) -> str:
        worst = self.worst
        others = [name for name, same in zip(self.images, self.agree, strict=True) if not same]
        classes = f"; another class on {', '.join(others)}" if others else "; same classes"
        found = (
            f"{len(self.images)} images, largest difference {self.differences[worst]:.1e} of the largest output on "
            f"{self.images[worst]} (at most {self.tolerance:.0e}){classes}"
        )
        return f"{found}; first difference: {self.culprit}" if self.culprit else found


def verify(
    opened: Opened,
    reference: Callable[[Tensor], Tensor],
    x: Tensor,
    names: Sequence[str],
    tolerance: float = TOLERANCE,
    others: Mapping[str, Tensor] | None = None,
) -> Verification:
    """Compare a file with its model, image by image.

    Args:
        opened: the file. If it fixes its batch, each image shares a call with those after it.
        reference: returns the outputs that are expected of a batch.
        x: the images, as the file takes them.
        names: of the images.
        tolerance: the largest difference, relative to the largest output of an image.
        others: batches of other lengths and sizes, by what is said about them.
    """
    batch = 1 if opened.metadata is None or opened.metadata.batch is None else opened.metadata.batch
    calls = {name: x.roll(-place, 0) for place, name in enumerate(names)}
    calls = {name: rolled.repeat(-(-batch // len(x)), 1, 1, 1)[:batch] for name, rolled in calls.items()}
    calls |= {} if others is None else others
    differences, agree, culprit = [], [], ""
    for name, given in calls.items():
        given = given.contiguous()
        try:
            result = opened.call(given).float()
        except Exception as error:  # the runtimes' own kinds
            reason = str(error).strip().partition("\n")[0]
            culprit, result = f"the call with {name} fails ({reason})", torch.empty(0)
        with torch.no_grad():
            expected = reference(given).float()
        is_same = result.shape == expected.shape
        differences.append(_difference(result, expected) if is_same else float("nan"))
        agree.append(is_same and bool((result.argmax(-1) == expected.argmax(-1)).all()))
    return Verification(tuple(calls), tuple(differences), tuple(agree), tolerance, culprit)


def _difference(result: Tensor, expected: Tensor) -> float:
    """Return the largest difference of a row, relative to the row's largest value; equal zeros do not differ."""
    error, largest = ((one.abs().flatten(1)).amax(1) for one in (result - expected, expected))
    return float(torch.where(error == 0, error, error / largest).max())


def _order(difference: float) -> float:
    return difference if difference == difference else float("inf")  # NaN is the worst

"""Replacing modules, and undoing what changes the outputs."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from textwrap import shorten
from typing import Any, TypeVar

from torch import Tensor, nn

from regard.errors import UnsupportedError
from regard.onednn import Packed
from regard.surgery import checking
from regard.surgery.adapters import put_on, take_off
from regard.surgery.checking import Example
from regard.surgery.finding import Found
from regard.surgery.folding import fold
from regard.surgery.obstacles import walk
from regard.surgery.report import FuseReport, Left, Replaced

Model = TypeVar("Model", bound=nn.Module)


class Surgery:
    """The replacements in one model, and their check."""

    def __init__(self, model: nn.Module, found: Sequence[Found], batch: Example | None, unchecked: str) -> None:
        self.model, self.found, self.batch, self.unchecked = model, list(found), batch, unchecked
        self.differences: dict[str, float] = {}
        self.tolerances: dict[str, float] = {}
        self.left: list[Left] = []
        self.difference: float | None = None
        self.tolerance = 0.0
        self.before: list[Tensor] = []

    def replace(self) -> None:
        """Put the adapters on, but for those that change what their modules return."""
        self._compare_modules()
        for one in list(self.found):
            difference = self.differences.get(one.path, 0.0)
            if difference > self.tolerances.get(one.path, 0.0):
                self._leave(one, f"rolled back: its output would differ by {difference:.1e} of the largest")
        self._put_on()
        self.difference = self._measure(self.model)
        if self._agrees(self.difference):
            return
        for one in self.found:
            take_off(one.module)
        again = self._measure(self.model)
        if self._agrees(again):
            reason = f"rolled back: the model's outputs would differ by {self.difference:.1e} of the largest"
            for one in list(self.found):
                self._leave(one, reason)
            self.difference = again
        else:
            self._put_on()
            self._give_up("the original does not repeat its own outputs")
            self.difference = None

    def replaced(self) -> tuple[Replaced, ...]:
        """List what was replaced, for the report."""
        rows = []
        for one in self.found:
            difference = self.differences.get(one.path)
            missed = "not reached by the check" if difference is None and not self.unchecked else ""
            note = "; ".join(filter(None, (one.note, missed)))
            tolerance = self.tolerances.get(one.path, 0.0)
            rows.append(Replaced(one.path, one.name, one.rule.mechanism, note, difference, tolerance))
        return tuple(rows)

    def _compare_modules(self) -> None:
        """Run the original; wherever a module is called that can be served, run its adapter on the same input.

        Outputs of the model alone would not tell: in a fresh network, layer scales hide what attention does.
        """
        if self.batch is None:
            return
        handles = [one.module.register_forward_hook(self._listen(one), with_kwargs=True) for one in self.found]
        try:
            self.before = checking.run(self.model, self.batch)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # transformers says so that NATTEN is missing
            self._give_up(f"the original raises {describe(error)}")
            return
        finally:
            for handle in handles:
                handle.remove()
        self.tolerance = checking.tolerance_of(self.before, self.model)
        if not self.before:
            self._give_up("the original returns no floating-point tensors")
        elif not all(output.isfinite().all() for output in self.before):
            self._give_up("the original's outputs are not finite")
        elif not any(output.any() for output in self.before):
            self._give_up("the original's outputs are all zero")

    def _listen(self, one: Found) -> Callable[[nn.Module, Any, Any, object], None]:
        def compare(module: nn.Module, args: Any, kwargs: Any, output: object) -> None:  # noqa: ANN401
            expected = checking.tensors(output)
            if not all(each.isfinite().all() for each in expected):
                return  # nothing to compare with
            put_on(module, one.rule.adapter)
            try:
                difference = checking.compare(expected, checking.tensors(module.forward(*args, **kwargs)))
            except Exception:  # an adapter that fails is one that disagrees
                difference = math.inf
            finally:
                take_off(module)
            self.differences[one.path] = max(difference, self.differences.get(one.path, 0.0))
            self.tolerances[one.path] = checking.tolerance_of(expected, module)

        return compare

    def _give_up(self, reason: str) -> None:
        """Compare the model's outputs no more; what was compared of its modules stays known."""
        self.batch, self.unchecked = None, reason

    def _put_on(self) -> None:
        for one in self.found:
            put_on(one.module, one.rule.adapter)

    def _leave(self, one: Found, reason: str) -> None:
        take_off(one.module)
        self.found.remove(one)
        self.left.append(Left(one.path, one.name, reason))

    def _agrees(self, difference: float | None) -> bool:
        return difference is None or difference <= self.tolerance

    def _measure(self, model: nn.Module) -> float | None:
        if self.batch is None:
            return None
        try:
            return checking.compare(self.before, checking.run(model, self.batch))
        except Exception:  # what fails where the original ran disagrees
            return math.inf

    def fold(self, report: FuseReport) -> tuple[nn.Module, FuseReport]:
        """Fold layers of a copy into one another, and keep it if the outputs stay."""
        folded = self._own()
        try:
            what = fold(folded, {path for path, _, closed in walk(self.model) if closed})
            difference = self._measure(folded)
            problem = "" if self._agrees(difference) else f"outputs would differ by {difference:.1e} of the largest"
        except Exception as error:  # parts that fit in no network we know
            problem = describe(error)
        if problem:
            note = f"foldings were rolled back: {problem}"
            return self._own(), replace(report, notes=(*report.notes, note))
        notes = list(report.notes)
        packed = sum(isinstance(module, Packed) for module in folded.modules())
        if packed:
            notes.append(f"{packed} layers keep their weights a second time, as oneDNN reads them")
        if what and hasattr(folded, "save_pretrained"):
            notes.append("save_pretrained would write names that from_pretrained does not know; save the original")
        replaced = tuple(replace(one, path=_nearest(folded, one.path)) for one in report.replaced)
        return folded, replace(report, replaced=replaced, folded=what, difference=difference, notes=tuple(notes))

    def _own(self) -> nn.Module:
        """Copy the model with its parameters, in evaluation mode: layers that merge weights then merge their own."""
        return copy_of(self.model, {}, "leave out inference=True, which copies it").eval()


def copy_of(model: Model, kept: dict[int, object], remedy: str) -> Model:
    """Copy a model, but for the objects that are kept."""
    try:
        return copy.deepcopy(model, kept)
    except Exception as error:  # locks, files, processes: whatever a stranger's model holds
        raise UnsupportedError(f"the model cannot be copied ({describe(error)}); {remedy}") from error


def describe(error: BaseException) -> str:
    """Name an error and the beginning of what it says."""
    return shorten(f"{type(error).__name__}: {error}", 200, placeholder=" ...")


def _nearest(model: nn.Module, path: str) -> str:
    """Return the path of a module, or of the folded one that it is now part of."""
    names = dict(model.named_modules())
    while path not in names:
        path = path.rpartition(".")[0]
    return path

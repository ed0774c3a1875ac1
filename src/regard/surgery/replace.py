"""Attaching adapters to a model, and undoing every change that alters its outputs."""

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
from regard.surgery import rules
from regard.surgery.adapter import attach, detach
from regard.surgery.compare import (
    Example,
    floating_tensors,
    relative_difference,
    rounding_tolerance,
    run_example,
)
from regard.surgery.inference.fold import fold_layers
from regard.surgery.inference.pack import pack_layers
from regard.surgery.inspection import walk
from regard.surgery.report import FuseReport, Left, Replaced
from regard.surgery.search import Found

Model = TypeVar("Model", bound=nn.Module)


class Replacer:
    """The replacements in one model, and their check.

    Args:
        model: the model to change.
        found: its modules that have an adapter.
        batch: an input for the check; None skips it.
        unchecked: why there is no batch.
    """

    def __init__(self, model: nn.Module, found: Sequence[Found], batch: Example | None, unchecked: str) -> None:
        self.model, self.found, self.batch, self.unchecked = model, list(found), batch, unchecked
        self.differences: dict[str, float] = {}
        self.tolerances: dict[str, float] = {}
        self.left: list[Left] = []
        self.difference: float | None = None
        self.tolerance = 0.0
        self.before: list[Tensor] = []

    def replace(self) -> None:
        """Attach the adapters, except those that change the outputs of their modules or of the model."""
        self._compare_modules()
        for one in list(self.found):
            difference = self.differences.get(one.path, 0.0)
            if difference > self.tolerances.get(one.path, 0.0):
                self._leave(one, f"rolled back: its output would differ by {difference:.1e} of the largest")
        self._attach_all()
        self.difference = self._measure(self.model)
        if self._agrees(self.difference):
            return
        for one in self.found:
            detach(one.module)
        again = self._measure(self.model)
        if self._agrees(again):
            reason = f"rolled back: the model's outputs would differ by {self.difference:.1e} of the largest"
            for one in list(self.found):
                self._leave(one, reason)
            self.difference = again
        else:
            self._attach_all()
            self._give_up("the original does not repeat its own outputs")
            self.difference = None

    def replaced(self) -> tuple[Replaced, ...]:
        """List the replaced modules, for the report."""
        rows = []
        for one in self.found:
            difference = self.differences.get(one.path)
            missed = "not reached by the check" if difference is None and not self.unchecked else ""
            note = "; ".join(filter(None, (one.note, missed)))
            tolerance = self.tolerances.get(one.path, 0.0)
            rows.append(Replaced(one.path, one.name, one.adapter.mechanism, note, difference, tolerance))
        return tuple(rows)

    def fold(self, report: FuseReport) -> tuple[nn.Module, FuseReport]:
        """Fold and pack the layers of a copy of the model, and return an unfolded copy if its outputs differ."""
        folded = self._copy()
        blocked = {path for path, _, reason in walk(self.model) if reason}
        try:
            layers = fold_layers(folded, rules.FOLDS, blocked)
            pack_layers(folded, blocked)
            difference = self._measure(folded)
            problem = "" if self._agrees(difference) else f"outputs would differ by {difference:.1e} of the largest"
        except Exception as error:  # an unknown network combines known parts in an unexpected way
            problem = describe(error)
        if problem:
            note = f"foldings were rolled back: {problem}"
            return self._copy(), replace(report, notes=(*report.notes, note))
        notes = list(report.notes)
        packed = sum(isinstance(module, Packed) for module in folded.modules())
        if packed:
            notes.append(f"{packed} layers keep a second copy of their weights, in oneDNN's layout")
        if layers and hasattr(folded, "save_pretrained"):
            notes.append("save_pretrained would write names that from_pretrained does not know; save the original")
        replaced = tuple(replace(one, path=_nearest(folded, one.path)) for one in report.replaced)
        return folded, replace(report, replaced=replaced, folded=layers, difference=difference, notes=tuple(notes))

    def _compare_modules(self) -> None:
        """Run the original, and wherever it calls a module that has an adapter, run the adapter on the same input.

        The model's outputs alone would hide differences: in a new network, layer scales are close to zero.
        """
        if self.batch is None:
            return
        handles = [one.module.register_forward_hook(self._comparison(one), with_kwargs=True) for one in self.found]
        try:
            self.before = run_example(self.model, self.batch)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # transformers raises one of these if NATTEN is missing
            self._give_up(f"the original raises {describe(error)}")
            return
        finally:
            for handle in handles:
                handle.remove()
        self.tolerance = rounding_tolerance(self.before, self.model)
        if not self.before:
            self._give_up("the original returns no floating-point tensors")
        elif not all(output.isfinite().all() for output in self.before):
            self._give_up("the original's outputs are not finite")
        elif not any(output.any() for output in self.before):
            self._give_up("the original's outputs are all zero")

    def _comparison(self, one: Found) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any], object], None]:
        """Return a forward hook that compares the adapter with the module, on the module's input."""

        def compare(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: object) -> None:
            expected = floating_tensors(output)
            if not all(each.isfinite().all() for each in expected):
                return  # nothing to compare with
            attach(module, one.adapter)
            try:
                difference = relative_difference(expected, floating_tensors(module.forward(*args, **kwargs)))
            except Exception:  # an adapter that fails counts as one that differs
                difference = math.inf
            finally:
                detach(module)
            self.differences[one.path] = max(difference, self.differences.get(one.path, 0.0))
            self.tolerances[one.path] = rounding_tolerance(expected, module)

        return compare

    def _give_up(self, reason: str) -> None:
        """Stop comparing the model's outputs; the comparisons of its modules stay."""
        self.batch, self.unchecked = None, reason

    def _attach_all(self) -> None:
        for one in self.found:
            attach(one.module, one.adapter)

    def _leave(self, one: Found, reason: str) -> None:
        detach(one.module)
        self.found.remove(one)
        self.left.append(Left(one.path, one.name, reason))

    def _agrees(self, difference: float | None) -> bool:
        return difference is None or difference <= self.tolerance

    def _measure(self, model: nn.Module) -> float | None:
        if self.batch is None:
            return None
        try:
            return relative_difference(self.before, run_example(model, self.batch))
        except Exception:  # a failure where the original ran counts as a difference
            return math.inf

    def _copy(self) -> nn.Module:
        """Copy the model and its parameters, then call `eval`, in which some layers merge their weights."""
        return copy_model(self.model, {}, "leave out inference=True, which copies it").eval()


def copy_model(model: Model, kept: dict[int, object], remedy: str) -> Model:
    """Copy a model.

    Args:
        model: any module.
        kept: objects that the copy shares, by `id`.
        remedy: what the user can do if the model cannot be copied.

    Raises:
        UnsupportedError: the model cannot be copied.
    """
    try:
        return copy.deepcopy(model, kept)
    except Exception as error:  # an upstream model may hold locks, files, processes
        raise UnsupportedError(f"the model cannot be copied ({describe(error)}); {remedy}") from error


def describe(error: BaseException) -> str:
    """Return the type of an error and the beginning of its message, in one line."""
    return shorten(f"{type(error).__name__}: {error}", 200, placeholder=" ...")


def _nearest(model: nn.Module, path: str) -> str:
    """Return the path of a module, or of the rebuilt module that contains it now."""
    names = dict(model.named_modules())
    while path not in names:
        path = path.rpartition(".")[0]
    return path

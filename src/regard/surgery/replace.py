"""Attaching adapters to a model, and undoing every change that alters its outputs."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from textwrap import shorten
from typing import Any, TypeVar

from torch import Tensor, nn

from regard.errors import UnsupportedError
from regard.surgery.adapter import attach, detach
from regard.surgery.compare import (
    Example,
    floating_tensors,
    relative_difference,
    rounding_tolerance,
    run_example,
)
from regard.surgery.report import Left, Replaced
from regard.surgery.search import Found
from regard.surgery.timing import Times

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
        self.difference = self.difference_of(self.model)
        if self.agrees(self.difference):
            return
        again = self.difference_of(self.detach_all())
        if self.agrees(again):
            reason = f"rolled back: the model's outputs would differ by {self.difference:.1e} of the largest"
            for one in list(self.found):
                self._leave(one, reason)
            self.difference = again
        else:
            self._attach_all()
            self._give_up("the original does not repeat its own outputs")
            self.difference = None

    def row(self, one: Found, path: str, times: Times | None) -> Replaced:
        """Return what the report says about a replaced module, which is at `path` now."""
        difference = self.differences.get(one.path)
        missed = "not reached by the check" if difference is None and not self.unchecked else ""
        note = "; ".join(filter(None, (one.note, missed)))
        tolerance = self.tolerances.get(one.path, 0.0)
        return Replaced(path, one.name, one.adapter.mechanism, note, difference, tolerance, times)

    def detach_all(self) -> nn.Module:
        """Undo all replacements, and return the model."""
        for one in self.found:
            detach(one.module)
        return self.model

    def agrees(self, difference: float | None) -> bool:
        """Whether a difference of the model's outputs is rounding, or unknown."""
        return difference is None or difference <= self.tolerance

    def difference_of(self, model: nn.Module) -> float | None:
        """Return the difference of a model's outputs from the original's; None without a batch."""
        if self.batch is None:
            return None
        try:
            return relative_difference(self.before, run_example(model, self.batch))
        except Exception:  # a failure where the original ran counts as a difference
            return math.inf

    def copy(self) -> nn.Module:
        """Copy the model and its parameters, then call `eval`, in which some layers merge their weights."""
        return copy_model(self.model, {}, "leave out inference=True, which copies it").eval()

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

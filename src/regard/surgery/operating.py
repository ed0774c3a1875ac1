"""Replacing modules, and undoing what changes the outputs."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from regard._onednn import Packed
from regard.surgery import checking
from regard.surgery.adapters import put_on, take_off
from regard.surgery.checking import Example
from regard.surgery.finding import Found
from regard.surgery.folding import fold
from regard.surgery.report import FuseReport, Left


class Surgery:
    """The replacements in one model, and their check."""

    def __init__(self, model: nn.Module, found: list[Found], batch: Example | None, unchecked: str) -> None:
        self.model, self.found, self.batch, self.unchecked = model, found, batch, unchecked
        self.differences: dict[str, float] = {}
        self.left: list[Left] = []
        self.difference: float | None = None
        self.tolerance = 0.0
        self.before: list[Tensor] = []

    def replace(self) -> None:
        """Put the adapters on, but for those that change what their modules return."""
        self._compare_modules()
        for one in list(self.found):
            difference = self.differences.get(one.path, 0.0)
            if difference > self.tolerance:
                self._leave(one, f"rolled back: its output would differ by {difference:.1e} of the largest")
        for one in self.found:
            put_on(one.module, one.rule.adapter)
        self.difference = self._measure(self.model)
        if self.difference is not None and self.difference > self.tolerance:
            for one in list(self.found):
                self._leave(
                    one, f"rolled back: the model's outputs would differ by {self.difference:.1e} of the largest"
                )
            self.difference = self._measure(self.model)

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
            self._give_up(f"the original raises {type(error).__name__}: {error}".splitlines()[0])
        finally:
            for handle in handles:
                handle.remove()
        if not all(output.isfinite().all() for output in self.before):
            self._give_up("the original's outputs are not finite")
        elif self.batch is not None and not any(output.any() for output in self.before):
            self._give_up("the original's outputs are all zero")
        self.tolerance = checking.tolerance_of(self.before)

    def _listen(self, one: Found) -> Callable[[nn.Module, Any, Any, object], None]:
        def compare(module: nn.Module, args: Any, kwargs: Any, output: object) -> None:  # noqa: ANN401
            put_on(module, one.rule.adapter)
            try:
                fused = module.forward(*args, **kwargs)
                difference = checking.compare(checking.tensors(output), checking.tensors(fused))
            except Exception:  # an adapter that fails is one that disagrees
                difference = math.inf
            finally:
                take_off(module)
            self.differences[one.path] = max(difference, self.differences.get(one.path, 0.0))

        return compare

    def _give_up(self, reason: str) -> None:
        self.batch, self.unchecked = None, f"{reason}; {checking.HOW}"
        self.differences.clear()

    def _leave(self, one: Found, reason: str) -> None:
        take_off(one.module)
        self.found.remove(one)
        self.left.append(Left(one.path, one.name, reason))

    def _measure(self, model: nn.Module) -> float | None:
        if self.batch is None:
            return None
        try:
            return checking.compare(self.before, checking.run(model, self.batch))
        except Exception:  # what fails where the original ran disagrees
            return math.inf

    def fold(self, report: FuseReport, inplace: bool) -> tuple[nn.Module, FuseReport]:
        """Fold layers of a copy into one another, and keep it if the outputs stay."""
        folded = copy.deepcopy(self.model).eval()
        what = fold(folded)
        difference = self._measure(folded)
        if difference is not None and difference > self.tolerance:
            folded = copy.deepcopy(self.model).eval()
            note = f"foldings were rolled back: outputs would differ by {difference:.1e} of the largest"
            what, difference, report = (), report.difference, replace(report, notes=(note,))
        packed = sum(isinstance(module, Packed) for module in folded.modules())
        if packed:
            note = f"{packed} layers keep their weights a second time, as oneDNN reads them"
            report = replace(report, notes=(*report.notes, note))
        report = replace(report, folded=tuple(what), difference=difference)
        if not inplace:
            return folded, report
        self.model.__class__ = type(folded)
        vars(self.model).update(vars(folded))
        return self.model, report

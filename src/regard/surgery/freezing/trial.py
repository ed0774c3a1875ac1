"""Trying candidates: build them, compare their outputs with the original's, measure them in turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from regard.surgery.compare import Example, floating_tensors, relative_difference, rounding_tolerance, run_example
from regard.surgery.freezing.compiler import Program
from regard.surgery.freezing.report import Candidate
from regard.surgery.freezing.signature import Arguments
from regard.surgery.replace import describe
from regard.timing import time_in_turn

ORIGINAL = "original"


class Trial:
    """The candidates for one model and one example.

    Args:
        model: the original, in evaluation mode.
        example: as `freeze` takes it.
        arguments: the call that the example stands for.
    """

    def __init__(self, model: nn.Module, example: Example, arguments: Arguments) -> None:
        self.model, self.arguments = model, arguments
        self.programs: dict[str, Program] = {ORIGINAL: model}
        self.candidates: dict[str, Candidate] = {ORIGINAL: Candidate(ORIGINAL)}
        self.expected = run_example(model, example)
        self.problem = self._why_incomparable(run_example(model, example))

    def add(self, name: str, build: Callable[[], Program], dtype: torch.dtype | None = None) -> Program | None:
        """Build a candidate and check its outputs.

        Args:
            name: for the report.
            build: returns the candidate. Whatever it raises goes to the report.
            dtype: in which the candidate computes; None for the original's own.

        Returns:
            The candidate, or None if it cannot serve.
        """
        if self.problem:
            return None
        try:
            program = build()
            outputs = self._run(program)
        except Exception as error:  # the compiler or an unknown network may raise anything
            self.candidates[name] = Candidate(name, problem=describe(error))
            return None
        difference = relative_difference(self.expected, outputs)
        tolerance = rounding_tolerance([*self.expected, *([torch.empty(0, dtype=dtype)] if dtype else [])], self.model)
        problem = "" if difference <= tolerance else f"outputs differ by {difference:.1e}, allowed {tolerance:.1e}"
        agreement = top1_agreement(self.expected, outputs)
        self.candidates[name] = Candidate(name, None, 1.0, difference, tolerance, agreement, problem)
        if problem:
            return None
        self.programs[name] = program
        return program

    def measure(self, seconds: float) -> str:
        """Measure the candidates in turn and return the name of the fastest."""
        calls = {name: self._caller(program) for name, program in self.programs.items()}
        with torch.no_grad():
            found = time_in_turn(calls, seconds)
        ratios = {name: times.ratio_to(found[ORIGINAL]) for name, times in found.items()}
        for name, times in found.items():
            self.candidates[name] = replace(self.candidates[name], milliseconds=1e3 * times.median, ratio=ratios[name])
        return min(ratios, key=lambda name: ratios[name])

    def _run(self, program: Program) -> list[Tensor]:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            return floating_tensors(self._caller(program)())

    def _caller(self, program: Program) -> Callable[[], object]:
        args, kwargs = self.arguments
        return lambda: program(*args, **kwargs)

    def _why_incomparable(self, again: Sequence[Tensor]) -> str:
        """Return why outputs cannot be compared with the original's; empty if they can."""
        if not self.expected:
            return "the original returns no floating-point tensors"
        if not all(output.isfinite().all() for output in self.expected):
            return "the original's outputs are not finite"
        if not any(output.any() for output in self.expected):
            return "the original's outputs are all zero"
        if relative_difference(self.expected, again) > rounding_tolerance(self.expected, self.model):
            return "the original does not repeat its own outputs"
        return ""


def top1_agreement(before: Sequence[Tensor], after: Sequence[Tensor]) -> float | None:
    """Return the share of the rows of the first outputs whose largest value is at the same place.

    None if shapes differ or there are no rows.
    """
    old, new = before[0], after[0] if after else None
    if new is None or old.shape != new.shape or old.ndim < 2 or not old.numel():
        return None
    return float((old.argmax(-1) == new.argmax(-1)).double().mean())

"""What decides between an original and its replacement: a measurement, or the stored calibration."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack

import torch
from torch import nn

from regard.surgery import calibration, timing
from regard.surgery.compare import Example, arguments, evaluation_mode, preserved
from regard.surgery.measure import Choice, decide, run
from regard.surgery.replace import describe
from regard.surgery.timing import Times

SECONDS = 1.0
"""For the whole model, per alternative."""

Candidates = Mapping[str, Callable[[], nn.Module]]
"""Functions that return a model in one of its forms, by the name of the form. The first one is the original."""


class Judge:
    """Decides by the calibration.

    Args:
        unmeasured: why nothing is measured.
    """

    def __init__(self, unmeasured: str = "") -> None:
        self.unmeasured = unmeasured

    def decide(self, model: nn.Module, choices: Sequence[Choice]) -> dict[str, Times]:
        """Give every module the class that is faster, and return the times by path."""
        del model
        for choice in choices:
            choice.take(calibration.is_faster(choice.kind))
        return {}

    def pick(self, candidates: Candidates) -> tuple[str, dict[str, Times]]:
        """Return the name of the fastest form of a model, and the times of all forms but the first."""
        _, *names = candidates
        speedups = calibration.speedups()
        return max(reversed(names), key=lambda name: speedups.get(f"plan {name}", 1.0)), {}


class Stopwatch(Judge):
    """Decides by measurement on an example. Modules that the example does not reach are left to the calibration.

    Args:
        example: the model's input.
        is_training: whether to measure forward and backward, in the modes that the modules have.
    """

    def __init__(self, example: Example, is_training: bool) -> None:
        super().__init__()
        self.call, self.is_training = arguments(example), is_training

    def decide(self, model: nn.Module, choices: Sequence[Choice]) -> dict[str, Times]:
        """Measure groups of equal modules."""
        super().decide(model, choices)
        with self._steady(model):
            return decide(model, choices, self.call, self.is_training)

    def pick(self, candidates: Candidates) -> tuple[str, dict[str, Times]]:
        """Measure all forms of the model in turn. A form that is not faster than the original loses."""
        original, *names = candidates
        calls = [lambda form=form: run(form(), self.call, self.is_training) for form in candidates.values()]
        with ExitStack() as stack:
            for form in candidates.values():
                stack.enter_context(self._steady(form()))
            measured = timing.race(calls, SECONDS * len(calls))
        times = dict(zip(names, measured, strict=True))
        best = max(names, key=lambda name: times[name].speedup)
        # The median alone: parts that win alone have been found, and few rounds of a whole model have wide quartiles.
        return (best if times[best].speedup >= timing.MARGIN else original), times

    def problem(self, model: nn.Module) -> str:
        """Run the model once, and return which error it raises; empty if none."""
        try:
            with self._steady(model):
                run(model, self.call, self.is_training)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # transformers raises one of these if NATTEN is missing
            return describe(error)
        return ""

    def _steady(self, model: nn.Module) -> ExitStack:
        """Keep modes, buffers and random numbers as they are; evaluate unless in training."""
        stack = ExitStack()
        stack.enter_context(torch.random.fork_rng(devices=[]))
        stack.enter_context(preserved(model) if self.is_training else evaluation_mode(model))
        return stack

"""Implementations of one computation, checked against each other and timed in turn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from regard.benchmark.memory import peak_memory
from regard.timing import Times, time_in_turn


@dataclass(frozen=True)
class Contender:
    """An implementation.

    Attributes:
        library: who made it.
        call: returns the output; the same computation as all others of the race.
        inputs: whose gradients are computed in training; none if it has no gradients.
        restore: brings the output into the layout of the first contender's, outside the measured time.
    """

    library: str
    call: Callable[[], Tensor]
    inputs: Sequence[Tensor] = ()
    restore: Callable[[Tensor], Tensor] = Tensor.detach

    def forward(self) -> Tensor:
        """Compute the output without gradients."""
        with torch.no_grad():
            return self.call()

    def training(self) -> Callable[[], object]:
        """Return a call of forward and backward, with gradients of all inputs."""
        seed = torch.randn_like(self.forward())

        def both() -> object:
            return torch.autograd.grad(self.call(), list(self.inputs), seed)

        return both


@dataclass(frozen=True)
class Result:
    """What one implementation needed.

    Attributes:
        library: who made it.
        forward: times without gradients; None if it failed.
        training: times of forward and backward; None if not measured.
        ratio: its time as a multiple of the first implementation's, the median over the rounds.
        ratio_training: the same of forward and backward.
        memory: bytes that a forward pass adds at its peak; None where the system does not tell.
        memory_training: the same of forward and backward.
        difference: of its output from the first one's, relative to the largest value.
        problem: why times are missing, or an empty string.
    """

    library: str
    forward: Times | None = None
    training: Times | None = None
    ratio: float | None = None
    ratio_training: float | None = None
    memory: int | None = None
    memory_training: int | None = None
    difference: float | None = None
    problem: str = ""


def race(
    contenders: Sequence[Contender], seconds: float, *, training: bool, device: str = "cpu", compares: bool = True
) -> list[Result]:
    """Measure all contenders in turn. One that fails or computes something else is not timed.

    Args:
        contenders: the first is what the others are compared with, and must not fail.
        seconds: roughly, per contender and pass.
        training: whether forward and backward are measured, too.
        device: on which they compute.
        compares: whether all must compute the same.

    Example:
        >>> x = torch.randn(3)
        >>> one, other = race([Contender("a", lambda: x + x), Contender("b", lambda: x * x)], 0.01, training=False)
        >>> one.ratio, "differs" in other.problem
        (1.0, True)
    """
    first, *others = contenders
    expected = first.restore(first.forward())
    problems = {first.library: ""}
    differences: dict[str, float | None] = {first.library: 0.0}
    for one in others:
        problems[one.library], differences[one.library] = _gate(one, expected) if compares else ("", None)
    sound = [one for one in contenders if not problems[one.library]]
    calls: dict[str, Callable[[], object]] = {one.library: on_device(one.forward, device) for one in sound}
    forward = time_in_turn(calls, seconds * len(calls))
    memory = {name: peak_memory(call, device) for name, call in calls.items()}
    both = _trainable(sound, problems, device) if training else {}
    trained = time_in_turn(both, seconds * len(both)) if both else {}
    memory_training = {name: peak_memory(call, device) for name, call in both.items()}
    return [
        Result(
            one.library,
            forward.get(one.library),
            trained.get(one.library),
            _ratio(forward, one.library, first.library),
            _ratio(trained, one.library, first.library),
            memory.get(one.library),
            memory_training.get(one.library),
            differences[one.library],
            problems[one.library],
        )
        for one in contenders
    ]


def relative_difference(result: Tensor, expected: Tensor) -> float:
    """Return the largest difference of two outputs, relative to the largest expected value.

    Raises:
        ArithmeticError: the result is not finite.
    """
    if not result.isfinite().all():
        raise ArithmeticError("the output is not finite")
    return float((result.float() - expected.float()).abs().max() / expected.float().abs().max())


def tolerance(dtype: torch.dtype) -> float:
    """Return how much outputs of the same computation may differ, relative to the largest value."""
    return max(1e-3, 8 * torch.finfo(dtype).eps)


def on_device(call: Callable[[], object], device: str) -> Callable[[], object]:
    """Return the call, which waits on a GPU until it is done."""
    if device == "cpu":
        return call

    def wait() -> None:
        call()
        torch.cuda.synchronize()

    return wait


def _gate(one: Contender, expected: Tensor) -> tuple[str, float | None]:
    """Return why a contender cannot be timed, or an empty string, and the difference of its output."""
    try:
        difference = relative_difference(one.restore(one.forward()), expected)
    except Exception as error:  # a peer's: the others go on
        return f"{type(error).__name__}: {_first_line(error)}", None
    return ("" if difference <= tolerance(expected.dtype) else f"its output differs by {difference:.1e}"), difference


def _trainable(sound: Sequence[Contender], problems: dict[str, str], device: str) -> dict[str, Callable[[], object]]:
    """Return the calls of forward and backward; a peer without them has the reason among the problems."""
    calls: dict[str, Callable[[], object]] = {}
    for place, one in enumerate(sound):
        if not one.inputs:
            continue
        try:
            call = on_device(one.training(), device)
            call()
            calls[one.library] = call
        except Exception as error:
            if place == 0:
                raise
            problems[one.library] = f"no gradients: {_first_line(error)}"
    return calls


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "")[:160]


def _ratio(times: Mapping[str, Times], name: str, first: str) -> float | None:
    return times[name].ratio_to(times[first]) if name in times and first in times else None

"""The report of `freeze`: what was tried, how fast it was, and what was kept."""

from __future__ import annotations

from dataclasses import dataclass

from regard.surgery.report import FuseReport


@dataclass(frozen=True)
class Candidate:
    """One way to compute the model.

    Attributes:
        name: "original", "fused" or "compiled", and "bfloat16" where that is used.
        milliseconds: median time of a call on the example; None if it was not measured.
        ratio: median of its time over the original's, measured in turn.
        difference: largest difference of its outputs, relative to the largest output.
        tolerance: the difference that rounding explains.
        agreement: share of the rows whose largest output is at the same place; None if it was not compared.
        problem: why it cannot serve; empty if it can.
    """

    name: str
    milliseconds: float | None = None
    ratio: float = 1.0
    difference: float | None = None
    tolerance: float = 0.0
    agreement: float | None = None
    problem: str = ""


@dataclass(frozen=True)
class FreezeReport:
    """What `freeze` did; printing it gives a table.

    Attributes:
        chosen: name of the candidate that serves calls on inputs like the example.
        candidates: everything that was tried, the original first.
        inputs: the inputs that the model was frozen for.
        fuse: the report of `fuse`.
        notes: further facts.

    Example:
        >>> fused = Candidate("fused", 2.0, 0.5, difference=1e-6, tolerance=1e-5, agreement=1.0)
        >>> slow = Candidate("compiled", problem="no compiler")
        >>> print(FreezeReport("fused", (Candidate("original", 4.0), fused, slow), "float32 [1, 3, 8, 8]"))
        chosen    fused: 2.00 times as fast as the original on float32 [1, 3, 8, 8]
        original  4.00 ms
        fused     2.00 ms  differs by 1.0e-06 of the largest, allowed 1.0e-05, top-1 agreement 100.0 %
        compiled  not used: no compiler
    """

    chosen: str
    candidates: tuple[Candidate, ...]
    inputs: str
    fuse: FuseReport | None = None
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        best = next(one for one in self.candidates if one.name == self.chosen)
        rows = [("chosen", f"{best.name}: {1 / best.ratio:.2f} times as fast as the original on {self.inputs}")]
        rows += [(one.name, _outcome(one)) for one in self.candidates]
        rows += [("note", note) for note in self.notes]
        width = max(len(head) for head, _ in rows)
        return "\n".join(f"{head:{width}}  {text}" for head, text in rows)


def _outcome(one: Candidate) -> str:
    time = "" if one.milliseconds is None else f"{one.milliseconds:.2f} ms"
    parts = [] if one.difference is None else [f"differs by {one.difference:.1e} of the largest"]
    if one.difference is not None:
        parts.append(f"allowed {one.tolerance:.1e}")
    if one.agreement is not None:
        parts.append(f"top-1 agreement {100 * one.agreement:.1f} %")
    compared = ", ".join(parts)
    return "  ".join(filter(None, (time, f"not used: {one.problem}" if one.problem else compared)))

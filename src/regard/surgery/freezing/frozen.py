"""The result of `freeze`."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import nn

from regard.dense import is_intercepted
from regard.surgery.freezing.compiler import Program
from regard.surgery.freezing.report import FreezeReport
from regard.surgery.freezing.signature import Signature, describe_call


class Frozen(nn.Module):
    """A model for inference, planned for the inputs of an example. `regard.freeze` makes it.

    It always is in evaluation mode and never records gradients. Inputs of other shapes, dtypes or values than the
    example's, and calls under autocast or inside `torch.compile`, run the uncompiled model. A copy, or a pickled and
    loaded model, is not compiled.

    Args:
        model: serves any inputs.
        program: serves inputs that fit `signature`; None if the model serves all.
        signature: of the example.
        report: see `FreezeReport`.

    Attributes:
        report: what was tried, how fast it was, and what was kept.
    """

    def __init__(self, model: nn.Module, program: Program | None, signature: Signature, report: FreezeReport) -> None:
        super().__init__()
        self.model, self.report = model, report
        self._program, self._signature = program, signature
        self._has_warned = False
        self.train(False)

    def forward(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401  # those of the model
        """Call the model with its own arguments; return what it returns."""
        with torch.no_grad():
            if self._program is None or is_intercepted():
                return self.model(*args, **kwargs)
            call = self._signature.fit(args, kwargs)
            if call is None:
                self._warn(describe_call(args, kwargs))
                return self.model(*args, **kwargs)
            return self._program(*call.args, **call.kwargs)

    def train(self, mode: bool = True) -> Frozen:
        """Stay in evaluation mode: folded layers cannot be trained."""
        return super().train(False)

    def extra_repr(self) -> str:
        """Say what serves the calls, and for which inputs."""
        return f"{self.report.chosen} for {self.report.inputs}"

    def __getstate__(self) -> dict[str, Any]:
        """Return the attributes without the program, which belongs to this process."""
        return {**vars(self), "_program": None}

    def _warn(self, inputs: str) -> None:
        if not self._has_warned:
            self._has_warned = True
            warnings.warn(
                f"this model is frozen for {self._signature}, got {inputs}; calls on such inputs run uncompiled, and "
                "this is said once. Call regard.freeze with an example of them",
                stacklevel=5,
            )

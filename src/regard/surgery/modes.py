"""The modes of PyTorch in which models are rebuilt."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def outside_inference_mode(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Run a function with `torch.inference_mode` off.

    Parameters that are made in that mode have no version counter, without which a packed weight cannot tell that its
    original has changed, and no compiler takes them.
    """

    @functools.wraps(function)
    def run(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        if not torch.is_inference_mode_enabled():
            return function(*args, **kwargs)
        with torch.inference_mode(False):
            return function(*args, **kwargs)

    return run

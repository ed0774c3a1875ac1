"""The largest tensor that a computation makes, and memory that shows a read of what nothing wrote."""

from contextlib import contextmanager

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class LargestTensor(TorchDispatchMode):
    """While it is entered, `elements` is the size of the largest tensor that an operation returned."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return out


@contextmanager
def memory_of_nans():
    """Fill new memory with NaN."""
    before = torch.are_deterministic_algorithms_enabled()
    only_warns = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=only_warns)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=only_warns)

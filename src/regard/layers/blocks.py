"""The blocks of one stage, and how the backward pass gets their activations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class Blocks(nn.Sequential):
    """Blocks that run one after the other.

    Where `grad_checkpointing` is set, a block's activations are not kept for the backward pass but computed again. The
    running statistics of batch norms count a batch once all the same.

    Example:
        >>> import torch
        >>> blocks = Blocks(nn.Linear(4, 4), nn.Linear(4, 4))
        >>> blocks.grad_checkpointing = True
        >>> blocks(torch.randn(2, 4)).shape
        torch.Size([2, 4])
    """

    grad_checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        """Run the blocks."""
        for block in self:
            x = self.step(block)(x)
        return x

    def step(self, block: nn.Module) -> Callable[[Tensor], Tensor]:
        """Return what runs one of the blocks."""
        return partial(_recomputed, block) if self.grad_checkpointing else block


def _recomputed(block: nn.Module, x: Tensor) -> Tensor:
    if torch.compiler.is_compiling():  # compiled code counts a batch once by itself
        return checkpoint(block, x, use_reentrant=False)

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _statistics_kept(block)

    return checkpoint(block, x, use_reentrant=False, context_fn=contexts)


@contextmanager
def _statistics_kept(block: nn.Module) -> Iterator[None]:
    """Let batch norms run on the batch without counting it.

    A momentum of 0 leaves the statistics in place: autograd holds on to them, so they must not be written.
    """
    norms = [module for module in block.modules() if isinstance(module, nn.BatchNorm2d)]
    counts = [norm.num_batches_tracked for norm in norms if norm.num_batches_tracked is not None]
    before = [norm.momentum for norm in norms], [count.clone() for count in counts]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, before[0], strict=True):
            norm.momentum = momentum
        for count, value in zip(counts, before[1], strict=True):
            count.copy_(value)

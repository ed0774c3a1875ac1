"""The states of models and optimizers, whole, whether or not FSDP2 has divided them among processes."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint import state_dict

WHOLE = state_dict.StateDictOptions(full_state_dict=True, cpu_offload=True)


def is_sharded(model: nn.Module) -> bool:
    """Whether FSDP2 has divided the weights of a model."""
    return any(hasattr(parameter, "full_tensor") for parameter in model.parameters())


def whole_state(model: nn.Module) -> dict[str, Any]:
    """Return a model's state; every process of a divided model must call it, and the first one gets all tensors."""
    if not is_sharded(model):
        return model.state_dict()
    state, _ = state_dict.get_state_dict(model, (), options=WHOLE)
    return dict(state)


def load_whole(model: nn.Module, state: dict[str, Any]) -> None:
    """Load a state of `whole_state`, which every process has."""
    if is_sharded(model):
        state_dict.set_state_dict(model, (), model_state_dict=state, optim_state_dict={}, options=WHOLE)
    else:
        model.load_state_dict(state)


def whole_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return an optimizer's state; every process of a divided model must call it."""
    if not is_sharded(model):
        return optimizer.state_dict()
    _, state = state_dict.get_state_dict(model, optimizer, options=WHOLE)
    return dict(state)


def load_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load a state of `whole_optimizer`, which every process has."""
    if is_sharded(model):
        state_dict.set_optimizer_state_dict(model, optimizer, optim_state_dict=state, options=WHOLE)
    else:
        optimizer.load_state_dict(state)

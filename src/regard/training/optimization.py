"""The parts that change weights: which are trained, the optimizer, the learning rate, the limit of gradients."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from regard.errors import UnsupportedError
from regard.extras import require
from regard.models import Backbone
from regard.training.config import TrainConfig

EXTRA = "train"


def choose_trained(config: TrainConfig, model: nn.Module) -> nn.Module:
    """Freeze the weights that the config excludes; with LoRA, return the model in peft's wrapper.

    Raises:
        UnsupportedError: the model has fewer stages, or no classifier.
    """
    if not (config.linear_probe or config.lora_rank or config.freeze_stages):
        return model
    if not isinstance(model, Backbone):
        raise UnsupportedError(
            "linear_probe, lora_rank and freeze_stages need a model of regard; freeze weights yourself"
        )
    if config.linear_probe:
        _freeze(model.parameters())
        for name in model.classifiers:
            model.get_submodule(name).requires_grad_(True)
    elif config.freeze_stages:
        _freeze_stages(model, config.freeze_stages)
    else:
        return _with_lora(model, config.lora_rank or 0)
    return model


def plain(model: nn.Module) -> nn.Module:
    """Return a model without peft's wrapper, with the low-rank updates in its weights."""
    if not hasattr(model, "merge_and_unload"):
        return model
    wrapper: Any = copy.deepcopy(model)
    merged: nn.Module = wrapper.merge_and_unload()
    return merged


def set_training(model: nn.Module) -> None:
    """Put a model in training mode, except modules whose weights are all frozen: their statistics stay."""
    model.train()
    for module in model.modules():
        own = list(module.parameters())
        if own and not any(parameter.requires_grad for parameter in own):
            module.eval()


def make_optimizer(config: TrainConfig, model: nn.Module) -> torch.optim.Optimizer:
    """Return timm's optimizer for the trained weights, with decay by layer."""
    options = {} if config.momentum is None else {"momentum": config.momentum}
    optimizer: torch.optim.Optimizer = require("timm.optim", EXTRA).create_optimizer_v2(
        model,
        opt=config.opt,
        lr=config.lr,
        weight_decay=config.weight_decay,
        layer_decay=config.layer_decay,
        **options,
    )
    return optimizer


def make_schedule(config: TrainConfig, optimizer: torch.optim.Optimizer, updates: int) -> Any:  # noqa: ANN401  # timm's
    """Return timm's schedule: a linear warm-up, then a cosine. `updates` counts those of an epoch."""
    warmup = round(config.warmup * updates)
    return require("timm.scheduler", EXTRA).CosineLRScheduler(
        optimizer,
        t_initial=max(config.epochs * updates - warmup, 2),  # timm warns of a cosine of one update
        lr_min=config.last_lr,
        warmup_t=warmup,
        warmup_lr_init=config.lr / 100,
        warmup_prefix=True,
        t_in_epochs=False,
    )


def limit_gradients(config: TrainConfig, parameters: Iterable[Tensor]) -> None:
    """Limit the gradients as the config says."""
    if config.clip_grad is not None:
        clip = require("timm.utils.clip_grad", EXTRA).dispatch_clip_grad
        clip(list(parameters), config.clip_grad, mode=config.clip_mode)


def gradient_norm(parameters: Iterable[Tensor]) -> float:
    """Return the norm of all gradients."""
    norm = torch.nn.utils.get_total_norm([each.grad for each in parameters if each.grad is not None])
    return float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)


def _freeze(parameters: Iterable[nn.Parameter]) -> None:
    for parameter in parameters:
        parameter.requires_grad_(False)


def _freeze_stages(model: Backbone[Any], stages: int) -> None:
    count = len(model.feature_info)
    if stages > count:
        raise UnsupportedError(f"expected at most {count} stages to freeze, got {stages}; see the model's feature_info")
    first = tuple(f"{model.stage_list}.{stage}." for stage in range(stages))
    _freeze(
        parameter
        for name, parameter in model.named_parameters()
        if name.startswith(first) or re.match(model.stem_pattern, name)
    )


def _with_lora(model: Backbone[Any], rank: int) -> nn.Module:
    peft = require("peft", extra="lora")
    layers = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    targets = [name for name in layers if name not in model.classifiers]
    config = peft.LoraConfig(
        r=rank, lora_alpha=rank, target_modules=targets, modules_to_save=list(model.classifiers), lora_dropout=0.0
    )
    wrapped: nn.Module = peft.get_peft_model(model, config)
    return wrapped

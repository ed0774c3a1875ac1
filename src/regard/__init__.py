"""Efficient attention for vision in PyTorch: mechanisms, the backbones built on them, and their checkpoints."""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from regard.attention import (
    MECHANISMS,
    AdditiveAttention,
    Attention,
    Backend,
    ClassAttention,
    EfficientAdditiveAttention,
    Mechanism,
    NeighborhoodAttention1d,
    NeighborhoodAttention2d,
    NeighborhoodAttention3d,
    Sample,
    SeparableAttention,
    TalkingHeadsAttention,
    WindowAttention,
    additive_attention,
    additive_weights,
    decompositions,
    efficient_additive_attention,
    efficient_additive_weights,
    neighborhood_attention,
    neighborhood_bias_index,
    neighborhood_keys,
    neighborhood_weights,
    separable_attention,
    separable_weights,
    set_backend,
    softmax_attention,
    softmax_weights,
    talking_heads_attention,
    talking_heads_weights,
    window_attention,
    window_bias_index,
    window_tokens,
    window_weights,
)
from regard.errors import (
    CheckpointError,
    DataError,
    ExportError,
    MissingDependencyError,
    OptionError,
    RegardError,
    ShapeError,
    UnsupportedError,
)
from regard.models import (
    MODELS,
    convert_checkpoint,
    create_model,
    list_models,
    load_weights,
    register_with_timm,
    save_weights,
)
from regard.surgery import freeze, fuse

if TYPE_CHECKING:
    from regard.exporting import export
    from regard.training import Run, TrainConfig, embed, evaluate, predict, resume, train

try:
    __version__ = version("regard")
except PackageNotFoundError:  # used from its sources, not installed
    __version__ = "0.0.0"

__all__ = [
    "MECHANISMS",
    "MODELS",
    "AdditiveAttention",
    "Attention",
    "Backend",
    "CheckpointError",
    "ClassAttention",
    "DataError",
    "EfficientAdditiveAttention",
    "ExportError",
    "Mechanism",
    "MissingDependencyError",
    "NeighborhoodAttention1d",
    "NeighborhoodAttention2d",
    "NeighborhoodAttention3d",
    "OptionError",
    "RegardError",
    "Run",
    "Sample",
    "SeparableAttention",
    "ShapeError",
    "TalkingHeadsAttention",
    "TrainConfig",
    "UnsupportedError",
    "WindowAttention",
    "additive_attention",
    "additive_weights",
    "convert_checkpoint",
    "create_model",
    "decompositions",
    "efficient_additive_attention",
    "efficient_additive_weights",
    "embed",
    "evaluate",
    "export",
    "freeze",
    "fuse",
    "list_models",
    "load_weights",
    "neighborhood_attention",
    "neighborhood_bias_index",
    "neighborhood_keys",
    "neighborhood_weights",
    "predict",
    "register_with_timm",
    "resume",
    "save_weights",
    "separable_attention",
    "separable_weights",
    "set_backend",
    "softmax_attention",
    "softmax_weights",
    "talking_heads_attention",
    "talking_heads_weights",
    "train",
    "window_attention",
    "window_bias_index",
    "window_tokens",
    "window_weights",
]

TRAINING = ("Run", "TrainConfig", "embed", "evaluate", "predict", "resume", "train")


TOOLS = ("benchmark", "explain", "exporting")


def __getattr__(name: str) -> object:
    """Import training and the tools when they are first used, since most programs need neither."""
    if name in TRAINING:
        return getattr(import_module("regard.training"), name)
    if name == "export":
        return import_module("regard.exporting").export
    if name in TOOLS:
        return import_module(f"regard.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

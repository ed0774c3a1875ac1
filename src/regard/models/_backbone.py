"""What every backbone is to its users, whatever its family."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from math import inf
from types import UnionType
from typing import Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

import torch
from torch import Tensor, nn

from regard.attention._checks import shape
from regard.checkpoint import Naming
from regard.errors import OptionError, ShapeError
from regard.layers import Blocks

WORDS = {int: "a whole number", float: "a finite number", bool: "True or False", str: "text", type(None): "None"}


class Backbone(nn.Module):
    """Base class of the models: images `[B, C, H, W]` in, logits or a pyramid of NCHW features out.

    A family implements `forward_stages` and `finish`, sets `feature_info` and `num_features`, and ends its constructor
    with `reset_classifier`.

    Attributes:
        variants: the family's configurations by model name.
        namings: how published checkpoints of the family name their tensors, where they differ from ours.
        classifiers: the names of the classifying layers.
        feature_info: channels, reduction and module of every stage.
        num_features: channels that the classifier sees.
    """

    variants: ClassVar[Mapping[str, Any]]
    namings: ClassVar[tuple[Naming, ...]] = ()
    classifiers: ClassVar[tuple[str, ...]] = ("head",)
    feature_info: list[dict[str, Any]]
    num_features: int
    head: nn.Module

    def __init__(self, config: Any, *, num_classes: int = 1000, in_chans: int = 3) -> None:  # noqa: ANN401
        super().__init__()
        if in_chans < 1:
            raise ShapeError(f"in_chans must be at least 1, got {in_chans}; 3 for RGB images, 1 for grey ones")
        self.config = config
        self.num_classes = num_classes
        self.in_chans = in_chans

    def forward_stages(self, x: Tensor, keep: Collection[int]) -> tuple[Tensor, list[Tensor]]:
        """Run all stages; return the last one's output and the outputs of those in `keep`, all `[B, C, H, W]`."""
        raise NotImplementedError

    def finish(self, x: Tensor) -> Tensor:
        """Normalise the last stage's output, `[B, C, H, W]`."""
        raise NotImplementedError

    def classify(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Turn pooled features `[B, C]` into logits."""
        return self.head(x)

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the normalised features of the last stage, `[B, C, H, W]`."""
        return self.finish(self.forward_stages(self._checked(x), ())[0])

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor | tuple[Tensor, ...]:
        """Average features `[B, C, H, W]` over the grid, then classify them unless `pre_logits`."""
        x = x.mean(dim=(2, 3))  # [B, C]
        return x if pre_logits else self.classify(x)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Classify images `[B, in_chans, H, W]`: logits `[B, num_classes]`."""
        return self.forward_head(self.forward_features(x))

    def forward_intermediates(self, x: Tensor, indices: int | Sequence[int] | None = None) -> list[Tensor]:
        """Return the outputs of stages, before the final norm, `[B, C, H, W]` each.

        Args:
            x: images `[B, in_chans, H, W]`.
            indices: which stages: all if None, the last n if one number, else the numbers of stages, negative ones
                counted from the end. The result is in the network's order.

        Raises:
            ShapeError: a stage that does not exist.
        """
        return self.forward_stages(self._checked(x), self._stages_of(indices))[1]

    def get_classifier(self) -> nn.Module | tuple[nn.Module, ...]:
        """Return the classifying layer, or all of them where there are several."""
        layers = tuple(self.get_submodule(name) for name in self.classifiers)
        return layers if len(layers) > 1 else layers[0]

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the classifier by a new one; 0 classes leave the pooled features."""
        if num_classes < 0:
            raise ShapeError(f"num_classes must be at least 0, got {num_classes}; 0 gives the pooled features")
        self.num_classes = num_classes
        like = next(self.parameters())
        for name in self.classifiers:
            layer = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()
            initialise(layer, nn.Linear)
            setattr(self, name, layer.to(like.device, like.dtype).train(self.training))

    def no_weight_decay(self) -> set[str]:
        """Name the parameters that weight decay should leave alone, besides biases and norms."""
        return set()

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trade time for memory: recompute the blocks' activations in the backward pass instead of keeping them."""
        for module in self.modules():
            if isinstance(module, Blocks):
                module.grad_checkpointing = enable

    def _checked(self, x: Tensor) -> Tensor:
        if not isinstance(x, Tensor):
            raise TypeError(f"images must be a tensor, got {type(x).__name__}; convert them with torch.as_tensor(x)")
        if x.ndim != 4 or x.shape[1] != self.in_chans or 0 in x.shape[2:]:
            remedy = "permute channels-last images; build the model with in_chans for other channel counts"
            raise ShapeError(f"images must be [B, {self.in_chans}, H, W] and not empty, got {shape(x)}; {remedy}")
        if not x.is_floating_point():
            raise TypeError(
                f"images must be floating-point, got {x.dtype}; scale and convert them with x.float() / 255"
            )
        like = next(self.parameters(), x)
        if x.device != like.device:
            raise TypeError(f"images must be on the model's device {like.device}, got {x.device}; move one with .to()")
        if x.dtype != like.dtype and not torch.is_autocast_enabled(x.device.type):
            raise TypeError(
                f"images must have the model's dtype {like.dtype}, got {x.dtype}; convert one with .to(), or call the "
                "model under torch.autocast"
            )
        return x

    def _stages_of(self, indices: int | Sequence[int] | None) -> set[int]:
        count = len(self.feature_info)
        if indices is None:
            return set(range(count))
        wanted = range(-indices, 0) if isinstance(indices, int) else indices
        if any(not -count <= index < count for index in wanted):
            raise ShapeError(f"indices must name some of the {count} stages, got {indices}; see feature_info")
        return {index % count for index in wanted}


def initialise(model: nn.Module, *kinds: type[nn.Linear] | type[nn.Conv2d]) -> None:
    """Draw the weights of all layers of these kinds from a normal distribution of width 0.02; their biases are 0."""
    for module in model.modules():
        if isinstance(module, kinds):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def check_fields(config: Any) -> None:  # noqa: ANN401
    """Check the fields of a configuration by their annotations; tuples are left to `check_numbers`.

    Whole numbers are numbers too, but no bool is one, and a number is finite.

    Raises:
        OptionError: a value of another type.
    """
    for name, kind in get_type_hints(type(config)).items():
        value = getattr(config, name)
        if get_origin(kind) is Literal and value not in get_args(kind):
            raise OptionError.unknown(name, value, get_args(kind))
        if not _fits(value, kind):
            kinds = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
            expected = " or ".join(WORDS.get(each, getattr(each, "__name__", str(each))) for each in kinds)
            raise OptionError(f"{name} must be {expected}, got {value!r}")


def _fits(value: object, kind: Any) -> bool:  # noqa: ANN401
    origin = get_origin(kind) or kind
    if origin in (Union, UnionType):
        return any(_fits(value, each) for each in get_args(kind))
    if origin in (int, float):
        return isinstance(value, int | origin) and not isinstance(value, bool) and -inf < value < inf
    return origin in (Literal, tuple) or isinstance(value, origin)


def check_numbers(config: object, *names: str, count: int | None = None) -> None:
    """Check that fields of a configuration hold whole numbers of at least 1: `count` each, or one per stage."""
    found = ", ".join(f"{name}={getattr(config, name)!r}" for name in names)
    values = [getattr(config, name) for name in names]
    if not all(isinstance(value, tuple | list) and value for value in values):
        raise ShapeError(f"{' and '.join(names)} must be tuples of whole numbers, got {found}")
    if any(not _fits(number, int) or number < 1 for value in values for number in value):
        raise ShapeError(f"{' and '.join(names)} must hold whole numbers of at least 1, got {found}")
    if {len(value) for value in values} != {len(values[0]) if count is None else count}:
        expected = "one number per stage each; change them together" if count is None else f"{count} numbers"
        raise ShapeError(f"{' and '.join(names)} must hold {expected}, got {found}")


def check_ratio(name: str, value: float) -> None:
    """Check that a ratio of sizes is positive."""
    if not value > 0:
        raise ShapeError(f"{name} must be positive, got {value}")


def check_rate(name: str, value: float) -> None:
    """Check that a rate of dropping leaves something."""
    if not 0 <= value < 1:
        raise ShapeError(f"{name} must be in [0, 1), got {value}; 0 drops nothing")


def check_width(name: str, value: int) -> None:
    """Check that half the channels of the first stage, which the stem starts with, are at least one."""
    if value < 2:
        raise ShapeError(f"{name} must start with at least 2 channels, got {value}; the stem begins with half of them")

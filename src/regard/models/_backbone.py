"""What every backbone is to its users, whatever its family."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from regard.attention.checks import shape
from regard.checkpoint import Naming
from regard.errors import OptionError, ShapeError
from regard.layers import Blocks
from regard.models._variant import Variant
from regard.models.preprocessing import Preprocessing


class Backbone(nn.Module):
    """Base class of the models: images `[B, C, H, W]` in, logits or a pyramid of NCHW features out.

    Data go one way: `embed` turns images into tokens, the stages transform them, `finish` normalizes them, `pool`
    leaves one vector an image, `classify` makes logits. A family implements `describe_features`, `embed`, `as_images`
    and `normalize`, has its stages in one list, and ends its constructor with `reset_classifier`.

    Attributes:
        variants: the family's models by name.
        stage_list: name of the list of stages, the steps that `feature_info` tells of.
        stem_pattern: pattern of the parameters before the stages.
        block_pattern: pattern of those in blocks, with groups that order them.
        first_conv: name of the layer that sees the images.
        classifiers: names of the classifying layers.
        feature_info: channels, reduction and module of every stage.
        num_features: channels that the classifier sees.
        global_pool: how features become one vector: "avg", or "" where `reset_classifier` switched it off.
        batch_norms: whether training needs several values per channel, down to the last grid.
        preprocessing: from an image to the model's input.
    """

    variants: ClassVar[Mapping[str, Variant[Any]]]
    stage_list: ClassVar[str] = "stages"
    stem_pattern: ClassVar[str] = r"^stem"
    block_pattern: ClassVar[str] = r"^stages\.(\d+)\.blocks\.(\d+)"
    first_conv: ClassVar[str] = "stem.0"
    pooling: ClassVar[str] = "avg"
    batch_norms: ClassVar[bool] = False
    classifiers: tuple[str, ...]
    feature_info: list[dict[str, Any]]
    num_features: int
    preprocessing: Preprocessing
    norm: nn.Module
    head: nn.Module

    def __init__(self, config: Any, *, num_classes: int = 1000, in_chans: int = 3) -> None:  # noqa: ANN401
        super().__init__()
        if _whole("in_chans", in_chans) < 1:
            raise ShapeError(f"in_chans must be at least 1, got {in_chans}; 3 for RGB images, 1 for gray ones")
        self.config = config
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.classifiers = self.name_classifiers(config)
        self.feature_info = self.describe_features(config)
        self.num_features = self.feature_info[-1]["num_chs"]
        self.global_pool = self.pooling
        self.preprocessing = Preprocessing()

    @staticmethod
    def name_tensors(config: Any) -> tuple[Naming, ...]:  # noqa: ANN401
        """Return how others name the tensors of a model with this configuration."""
        return ()

    @staticmethod
    def name_classifiers(config: Any) -> tuple[str, ...]:  # noqa: ANN401
        """Return the names of the classifying layers of a model with this configuration."""
        return ("head",)

    @staticmethod
    def describe_features(config: Any) -> list[dict[str, Any]]:  # noqa: ANN401
        """Return `feature_info` of a model with this configuration: see `pyramid` and `column`."""
        raise NotImplementedError

    def embed(self, x: Tensor) -> Tensor:
        """Turn images into what the first stage takes."""
        raise NotImplementedError

    def as_images(self, x: Tensor, size: Sequence[int]) -> Tensor:
        """Turn the output of a stage into `[B, C, h, w]`; `size` is the images' height and width."""
        raise NotImplementedError

    def normalize(self, x: Tensor) -> Tensor:
        """Apply the last norm to the output of a stage as wide as the last."""
        raise NotImplementedError

    def finish(self, x: Tensor, size: Sequence[int]) -> Tensor:
        """Turn the last stage's output into the features of `forward_features`."""
        return self.as_images(self.normalize(x), size)

    def pool(self, x: Tensor) -> Tensor:
        """Turn the features of `forward_features` into one vector an image, `[B, C]`."""
        return x.mean(dim=(2, 3))

    def classify(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Turn pooled features into logits."""
        return self.head(x)

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the normalized features of the last stage, `[B, C, h, w]`; families with a class token differ."""
        size = self._checked(x).shape[2:]
        x = self.embed(x)
        for _, stage in self._steps():
            x = stage(x)
        return self.finish(x, size)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor | tuple[Tensor, ...]:
        """Pool features, then classify them unless `pre_logits`."""
        x = self.pool(x) if self.global_pool else x
        return x if pre_logits or not self.num_classes else self.classify(x)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Classify images `[B, in_chans, H, W]`: logits `[B, num_classes]`."""
        return self.forward_head(self.forward_features(x))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Return the final features and the outputs of stages, as timm's models do.

        Args:
            x: images `[B, in_chans, H, W]`.
            indices: which stages: all if None, the last n if one number, else the numbers of stages, negative ones
                counted from the end. The result is in the network's order.
            norm: whether to apply the last norm to the stages as wide as the last.
            stop_early: whether to leave out the stages after the last one wanted; the final features are then its.
            output_fmt: "NCHW", the only layout.
            intermediates_only: whether to return the list alone.

        Returns:
            What `forward_features` returns, and a list of `[B, C, h, w]`.

        Raises:
            ShapeError: a stage that does not exist.
        """
        if output_fmt != "NCHW":
            raise OptionError.unknown("output_fmt", output_fmt, ("NCHW",))
        wanted = self._stages_of(indices)
        size = self._checked(x).shape[2:]
        x = self.embed(x)
        kept = []
        for index, stage in self._steps():
            x = stage(x)
            if index in wanted:
                normed = norm and self.feature_info[index]["num_chs"] == self.num_features
                kept.append(self.as_images(self.normalize(x) if normed else x, size))
            if (stop_early or intermediates_only) and index == max(wanted, default=0):
                break
        if intermediates_only:
            return kept
        whole = index == len(self.feature_info) - 1
        return self.finish(x, size) if whole else self.as_images(x, size), kept

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove what `forward_intermediates` does not need for these stages; return their numbers."""
        kept = sorted(self._stages_of(indices))
        stages = self.get_submodule(self.stage_list)
        if not kept:
            raise ShapeError(f"indices must name a stage to keep, got {indices}")
        shorter = kept[-1] + 1 < len(self.feature_info)
        narrower = self.feature_info[kept[-1]]["num_chs"] != self.num_features
        setattr(self, self.stage_list, stages[: kept[-1] + 1])  # type: ignore[index]
        if (prune_norm or narrower) and hasattr(self, "norm"):
            self.norm = nn.Identity()
        if shorter:
            self.feature_info = self.feature_info[: kept[-1] + 1]
            self.num_features = self.feature_info[-1]["num_chs"]
        if prune_head or shorter:
            self.reset_classifier(0, "")
        return kept

    @property
    def namings(self) -> tuple[Naming, ...]:
        """How others name the model's tensors."""
        return self.name_tensors(self.config)

    @property
    def head_hidden_size(self) -> int:
        """Channels that the classifier sees."""
        return self.num_features

    def get_classifier(self) -> nn.Module | tuple[nn.Module, ...]:
        """Return the classifying layer, or all of them where there are several."""
        layers = tuple(self.get_submodule(name) for name in self.classifiers)
        return layers if len(layers) > 1 else layers[0]

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier by a new one; 0 classes leave the pooled features, `global_pool=""` all of them."""
        if _whole("num_classes", num_classes) < 0:
            raise ShapeError(f"num_classes must be at least 0, got {num_classes}; 0 gives the pooled features")
        if global_pool not in (None, self.pooling, ""):
            raise OptionError.unknown("global_pool", global_pool, (self.pooling, ""))
        if global_pool == "" and num_classes:
            raise ShapeError(f"a classifier needs pooled features, got {global_pool=} and {num_classes=}")
        if global_pool is None:  # a classifier after all
            global_pool = self.pooling if num_classes else self.global_pool
        self.global_pool = global_pool
        self.num_classes = num_classes
        like = next(self.parameters())
        for name in self.classifiers:
            layer = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()
            initialize(layer, nn.Linear)
            setattr(self, name, layer.to(like.device, like.dtype).train(self.training))

    def no_weight_decay(self) -> set[str]:
        """Name the parameters that weight decay should leave alone, besides biases and norms."""
        return set()

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Say how parameters form layers, from the images to the logits, in timm's terms, for decay by layer."""
        stage = rf"^{self.stage_list}\.(\d+)"
        blocks = stage if coarse else [(rf"{stage}\.downsample", (0,)), (self.block_pattern, None), ("^norm", (99999,))]
        return {"stem": self.stem_pattern, "blocks": blocks}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trade time for memory: recompute the blocks' activations in the backward pass instead of keeping them."""
        for module in self.modules():
            if isinstance(module, Blocks):
                module.grad_checkpointing = enable

    def resized(self, name: str, tensor: Tensor) -> Tensor | None:
        """Carry a checkpoint's tensor over to this model's size; None if that cannot be done.

        The weights of the first convolution for RGB images are summed for gray ones, and else repeated and scaled to
        the number of channels, as timm does. Families add what depends on the images' size.
        """
        if name != f"{self.first_conv}.weight" or tensor.ndim != 4 or tensor.shape[1] != 3:
            return None
        if self.in_chans == 1:
            return tensor.sum(1, keepdim=True)
        repeated = tensor.repeat(1, math.ceil(self.in_chans / 3), 1, 1)[:, : self.in_chans]
        return repeated * (3 / self.in_chans)

    def _steps(self) -> list[tuple[int, Any]]:
        stages: Any = self.get_submodule(self.stage_list)
        if isinstance(stages, Blocks):
            return [(index, stages.step(stage)) for index, stage in enumerate(stages)]
        return list(enumerate(stages))

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
        reduction = self.feature_info[-1]["reduction"]
        if self.batch_norms and self.training and x.shape[0] == 1 and max(x.shape[2:]) <= reduction:
            raise ShapeError(
                f"training needs a batch of at least 2, or images over {reduction} pixels, for its batch norms, got "
                f"{shape(x)}; drop the last incomplete batch, or call model.eval()"
            )
        return x

    def _stages_of(self, indices: int | Sequence[int] | None) -> set[int]:
        count = len(self.feature_info)
        if indices is None:
            return set(range(count))
        last_ones = isinstance(indices, int)
        wanted = range(-indices, 0) if isinstance(indices, int) else indices
        whole = all(isinstance(index, int) and -count <= index < count for index in wanted)
        if not whole or (last_ones and not wanted):
            raise ShapeError(f"indices must name some of the {count} stages, got {indices}; see feature_info")
        return {index % count for index in wanted}


def _whole(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number, got {value!r}")
    return value


def pyramid(stage_list: str, dims: Sequence[int], reduction: int) -> list[dict[str, Any]]:
    """Describe stages of these channels: the first reduces images by a factor, each further one by two more."""
    return [
        {"num_chs": dim, "reduction": reduction * 2**stage, "module": f"{stage_list}.{stage}"}
        for stage, dim in enumerate(dims)
    ]


def column(stage_list: str, depth: int, dim: int, reduction: int) -> list[dict[str, Any]]:
    """Describe blocks of one number of channels and one resolution."""
    return [{"num_chs": dim, "reduction": reduction, "module": f"{stage_list}.{block}"} for block in range(depth)]


def initialize(model: nn.Module, *kinds: type[nn.Linear] | type[nn.Conv2d]) -> None:
    """Draw the weights of all layers of these kinds from a normal distribution of width 0.02; their biases are 0."""
    for module in model.modules():
        if isinstance(module, kinds):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)

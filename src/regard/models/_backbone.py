"""The common interface of all backbones, and the defaults that most families share."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Generic

from torch import Tensor, nn

from regard.attention.checks import autocasts, shape
from regard.checkpoint import Naming
from regard.errors import OptionError, ShapeError
from regard.layers import Blocks, interpolate_bias
from regard.models._variant import Variant
from regard.models.fields import ConfigT
from regard.models.preprocessing import Preprocessing

BIAS_TABLES = (".rpb", ".relative_position_bias_table")


class Backbone(nn.Module, Generic[ConfigT]):
    """Base class of the models: images `[B, C, H, W]` in, logits or a pyramid of NCHW features out.

    `embed` turns images into tokens, the stages transform them, `finish` normalizes them, `pool` returns one vector per
    image, and `classify` returns logits. A family implements `describe_features`, has its stages in one list, and ends
    its constructor with `reset_classifier`. The defaults are those of networks on a channels-last grid: a `patch_embed`
    that returns `[B, H, W, C]`, and a last `norm` over the channels.

    Attributes:
        variants: the family's models by name.
        stage_list: name of the list of stages that `feature_info` describes.
        stem_pattern: pattern of the parameters before the stages.
        block_pattern: pattern of the parameters in blocks, with groups that order them.
        first_conv: name of the first layer on images.
        classifiers: names of the classifying layers.
        feature_info: channels, reduction and module of every stage.
        num_features: input channels of the classifier.
        global_pool: pooling of the features: "avg" or "token", or "" if `reset_classifier` disabled it.
        has_batch_norms: whether training needs several values per channel, down to the last grid.
        preprocessing: preprocessing of the model's images.
    """

    variants: ClassVar[Mapping[str, Variant[Any]]]
    stage_list: ClassVar[str] = "stages"
    stem_pattern: ClassVar[str] = r"^patch_embed"
    block_pattern: ClassVar[str] = r"^stages\.(\d+)\.blocks\.(\d+)"
    first_conv: ClassVar[str] = "patch_embed.proj"
    pooling: ClassVar[str] = "avg"
    has_batch_norms: ClassVar[bool] = False
    config: ConfigT
    classifiers: tuple[str, ...]
    feature_info: list[dict[str, Any]]
    num_features: int
    preprocessing: Preprocessing
    patch_embed: nn.Module
    norm: nn.Module
    head: nn.Module

    def __init__(self, config: ConfigT, *, num_classes: int = 1000, in_chans: int = 3) -> None:
        super().__init__()
        if _require_int("in_chans", in_chans) < 1:
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
    def name_tensors(config: ConfigT) -> tuple[Naming, ...]:
        """Return the upstream namings of a model with this configuration."""
        return ()

    @staticmethod
    def name_classifiers(config: ConfigT) -> tuple[str, ...]:
        """Return the names of the classifying layers of a model with this configuration."""
        return ("head",)

    @staticmethod
    def describe_features(config: ConfigT) -> list[dict[str, Any]]:
        """Return `feature_info` of a model with this configuration: see `pyramid` and `column`."""
        raise NotImplementedError

    def embed(self, x: Tensor) -> Tensor:
        """Turn images into the input of the first stage, by default `[B, H, W, C]`."""
        return self.patch_embed(x)

    def as_images(self, x: Tensor, size: Sequence[int]) -> Tensor:
        """Return the output of a stage as `[B, C, h, w]`; `size` is the images' height and width."""
        return x.permute(0, 3, 1, 2)

    def normalize(self, x: Tensor) -> Tensor:
        """Apply the last norm to the output of a stage that has as many channels as the last."""
        return self.norm(x)

    def finish(self, x: Tensor, size: Sequence[int]) -> Tensor:
        """Return the features of `forward_features` from the output of the last stage."""
        return self.as_images(self.normalize(x), size)

    def pool(self, x: Tensor) -> Tensor:
        """Return one vector per image, `[B, C]`, from the features of `forward_features`."""
        return x.mean(dim=(2, 3))

    def classify(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return the logits of pooled features."""
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
            indices: indices of the stages, where negative ones count from the end; all stages if None, and the last n
                if one number n. The result is in the network's order.
            norm: whether to apply the last norm to the stages that have as many channels as the last.
            stop_early: whether to skip the stages after the last index; the final features are then that stage's.
            output_fmt: "NCHW", the only layout.
            intermediates_only: whether to return the list alone.

        Returns:
            The result of `forward_features`, and a list of `[B, C, h, w]`.

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
        is_complete = index == len(self.feature_info) - 1
        return self.finish(x, size) if is_complete else self.as_images(x, size), kept

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove the layers that `forward_intermediates` does not need for these stages, and return their indices."""
        kept = sorted(self._stages_of(indices))
        stages = self.get_submodule(self.stage_list)
        if not kept:
            raise ShapeError(f"indices must name a stage to keep, got {indices}; see feature_info")
        is_shorter = kept[-1] + 1 < len(self.feature_info)
        is_narrower = self.feature_info[kept[-1]]["num_chs"] != self.num_features
        setattr(self, self.stage_list, stages[: kept[-1] + 1])  # type: ignore[index]
        if (prune_norm or is_narrower) and hasattr(self, "norm"):
            self.norm = nn.Identity()
        if is_shorter:
            self.feature_info = self.feature_info[: kept[-1] + 1]
            self.num_features = self.feature_info[-1]["num_chs"]
        if prune_head or is_shorter:
            self.reset_classifier(0, "")
        return kept

    @property
    def namings(self) -> tuple[Naming, ...]:
        """The upstream namings of the model's tensors."""
        return self.name_tensors(self.config)

    @property
    def head_hidden_size(self) -> int:
        """The input channels of the classifier."""
        return self.num_features

    def get_classifier(self) -> nn.Module | tuple[nn.Module, ...]:
        """Return the classifying layer, or a tuple if there are several."""
        layers = tuple(self.get_submodule(name) for name in self.classifiers)
        return layers if len(layers) > 1 else layers[0]

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier; 0 classes give pooled features, and `global_pool=""` gives all features."""
        if _require_int("num_classes", num_classes) < 0:
            raise ShapeError(f"num_classes must be at least 0, got {num_classes}; 0 gives the pooled features")
        if global_pool not in (None, self.pooling, ""):
            raise OptionError.unknown("global_pool", global_pool, (self.pooling, ""))
        if global_pool == "" and num_classes:
            raise ShapeError(f"a classifier needs pooled features, got {global_pool=} and {num_classes=}")
        if global_pool is None:  # a classifier needs pooling
            global_pool = self.pooling if num_classes else self.global_pool
        self.global_pool = global_pool
        self.num_classes = num_classes
        like = next(self.parameters())
        for name in self.classifiers:
            layer = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()
            initialize(layer, nn.Linear)
            setattr(self, name, layer.to(like.device, like.dtype).train(self.training))

    def no_weight_decay(self) -> set[str]:
        """Return the names of the parameters without weight decay, besides biases and norms: the bias tables."""
        return {name for name, _ in self.named_parameters() if name.endswith(BIAS_TABLES)}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return the patterns by which timm groups parameters into layers, for layer-wise learning-rate decay."""
        stage = rf"^{self.stage_list}\.(\d+)"
        blocks = stage if coarse else [(rf"{stage}\.downsample", (0,)), (self.block_pattern, None), ("^norm", (99999,))]
        return {"stem": self.stem_pattern, "blocks": blocks}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Set whether the backward pass recomputes the blocks' activations, which saves memory and costs time."""
        for module in self.modules():
            if isinstance(module, Blocks):
                module.grad_checkpointing = enable

    def resized(self, name: str, tensor: Tensor) -> Tensor | None:
        """Return a checkpoint's tensor in this model's size, or None if it cannot be resized.

        As in timm, the weights of the first convolution for RGB images are summed for gray images, and repeated and
        scaled for other numbers of channels. Relative bias tables of another window are interpolated.
        """
        if name.endswith(".rpb"):
            return interpolate_bias(tensor, self.get_parameter(name).shape[1:])
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
            remedy = "permute channels-last images; build the model with in_chans for other numbers of channels"
            raise ShapeError(f"images must be [B, {self.in_chans}, H, W] and not empty, got {shape(x)}; {remedy}")
        if not x.is_floating_point():
            raise TypeError(
                f"images must be floating-point, got {x.dtype}; scale and convert them with x.float() / 255"
            )
        like = next(self.parameters(), x)
        if x.device != like.device:
            raise TypeError(f"images must be on the model's device {like.device}, got {x.device}; move one with .to()")
        if x.dtype != like.dtype and not autocasts(x):
            raise TypeError(
                f"images must have the model's dtype {like.dtype}, got {x.dtype}; convert one with .to(), or call the "
                "model under torch.autocast"
            )
        reduction = self.feature_info[-1]["reduction"]
        if self.has_batch_norms and self.training and x.shape[0] == 1 and max(x.shape[2:]) <= reduction:
            raise ShapeError(
                f"training needs a batch of at least 2, or images over {reduction} pixels, for its batch norms, got "
                f"{shape(x)}; drop the last incomplete batch, or call model.eval()"
            )
        return x

    def _stages_of(self, indices: int | Sequence[int] | None) -> set[int]:
        count = len(self.feature_info)
        if indices is None:
            return set(range(count))
        takes_last = isinstance(indices, int)
        wanted = range(-indices, 0) if isinstance(indices, int) else indices
        is_valid = all(isinstance(index, int) and -count <= index < count for index in wanted)
        if not is_valid or (takes_last and not wanted):
            raise ShapeError(f"indices must name some of the {count} stages, got {indices}; see feature_info")
        return {index % count for index in wanted}


def _require_int(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number, got {value!r}")
    return value


def pyramid(stage_list: str, dims: Sequence[int], reduction: int) -> list[dict[str, Any]]:
    """Return `feature_info` of stages with these channels; each stage halves the grid of the one before."""
    return [
        {"num_chs": dim, "reduction": reduction * 2**stage, "module": f"{stage_list}.{stage}"}
        for stage, dim in enumerate(dims)
    ]


def column(stage_list: str, depth: int, dim: int, reduction: int) -> list[dict[str, Any]]:
    """Return `feature_info` of blocks that have the same channels and resolution."""
    return [{"num_chs": dim, "reduction": reduction, "module": f"{stage_list}.{block}"} for block in range(depth)]


def initialize(model: nn.Module, *kinds: type[nn.Linear] | type[nn.Conv2d]) -> None:
    """Draw the weights of all layers of these classes from a normal distribution with std 0.02, and zero the biases."""
    for module in model.modules():
        if isinstance(module, kinds):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)

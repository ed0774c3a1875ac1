"""The last features of a model that still have places, for methods on channels such as Grad-CAM."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor, nn

from regard.attention import BackendModule
from regard.errors import UnsupportedError
from regard.explain.record import unfolding_module
from regard.explain.tokens import Tokens


@dataclass(frozen=True)
class Features:
    """Features of a layer, in the graph of gradients.

    Attributes:
        raw: as the layer returned them.
        channels: how many there are.
        size: height and width of the images.
    """

    raw: Tensor
    channels: int
    size: tuple[int, int]

    def as_images(self, tensor: Tensor) -> Tensor:
        """Return a tensor in the layout of `raw` as `[B, C, h, w]`."""
        return to_images(tensor, self.channels, self.size)


def to_images(tensor: Tensor, channels: int, size: tuple[int, int]) -> Tensor:
    """Return features `[B, N, C]`, `[B, h, w, C]` or `[B, C, h, w]` as `[B, C, h, w]`, without tokens in front."""
    if tensor.ndim == 3:
        return Tokens.of((tensor.shape[1],), size).on_grid(tensor.transpose(1, 2))
    if tensor.ndim == 4 and tensor.shape[1] != channels and tensor.shape[3] == channels:
        return tensor.permute(0, 3, 1, 2)
    if tensor.ndim == 4 and tensor.shape[1] == channels:
        return tensor
    raise UnsupportedError(f"expected features with {channels} channels on a grid, got {list(tensor.shape)}")


def cam_targets(model: nn.Module) -> list[nn.Module]:
    """Return the layers whose output Grad-CAM and its relatives should read.

    That is the last layer that has places. Where the classifier reads the class token of the last block's output, as in
    ViT, the places there have no gradient: then it is the norm before that block's attention.

    Args:
        model: of regard or timm, or one that went through `regard.surgery.adapt`.

    Raises:
        UnsupportedError: no such layer is known.

    Example: for the package pytorch-grad-cam,
        `GradCAM(model, cam_targets(model), reshape_transform=reshape_transform(model, (32, 32)))`.

        >>> import regard
        >>> type(cam_targets(regard.create_model("nat_nano"))[0]).__name__
        'Stage'
        >>> type(cam_targets(regard.create_model("vit_tiny_patch16_224"))[0]).__name__
        'LayerNorm'
    """
    last = last_layer(model)
    attentions = [path for path, module in last.named_modules() if _is_attention(module)]
    if not attentions or not _reads_class_token(model):
        return [last]
    block = last.get_submodule(attentions[-1].rpartition(".")[0])
    norms: list[nn.Module] = [module for module in block.children() if isinstance(module, nn.LayerNorm)]
    return norms[:1] if norms else [last]


def last_layer(model: nn.Module) -> nn.Module:
    """Return the last layer whose output has places.

    Raises:
        UnsupportedError: no such layer is known.
    """
    info = getattr(model, "feature_info", None)
    if isinstance(info, Sequence) and info and isinstance(info[-1].get("module"), str):
        return model.get_submodule(info[-1]["module"])
    found = [(path, module) for path, module in model.named_modules() if isinstance(module, BackendModule)]
    if not found:
        raise UnsupportedError(
            f"expected a model with a feature_info or with attention of regard, got {type(model).__name__}; call "
            "regard.surgery.adapt(model) first, or choose a layer yourself"
        )
    path, attention = found[-1]
    unfolding = unfolding_module(model, path, attention)  # inside it, features are patches
    block = model.get_submodule(path.rpartition(".")[0]) if unfolding is None else unfolding
    return attention if isinstance(block, nn.ModuleList) else block  # an adapted block, as transformers' SwinLayer


def _is_attention(module: nn.Module) -> bool:
    return isinstance(module, BackendModule) or type(module).__name__.endswith(("Attention", "Attn"))


def _reads_class_token(model: nn.Module) -> bool:
    """Whether the classifier reads a class token: regard's and timm's models say so, transformers' have a parameter."""
    pooling = getattr(model, "global_pool", None)
    if isinstance(pooling, str):
        return pooling == "token"
    names = {name.rpartition(".")[2] for name, _ in model.named_parameters()}
    return not names.isdisjoint({"cls_token", "class_token"})


def reshape_transform(model: nn.Module, size: tuple[int, int]) -> Callable[[Tensor], Tensor]:
    """Return the function that turns the output of `cam_targets` into `[B, C, h, w]`.

    Args:
        model: as in `cam_targets`.
        size: height and width of the images.

    Example:
        >>> import regard, torch
        >>> model = regard.create_model("vit_tiny_patch16_224")
        >>> reshape_transform(model, (224, 224))(torch.zeros(1, 197, 192)).shape
        torch.Size([1, 192, 14, 14])
    """
    channels = channels_of(model)
    return lambda tensor: to_images(tensor, channels, size)


def channels_of(model: nn.Module) -> int:
    """Return the channels of the last features."""
    info = getattr(model, "feature_info", None)
    if isinstance(info, Sequence) and info and "num_chs" in info[-1]:
        return int(info[-1]["num_chs"])
    for holder, name in ((model, "num_features"), (getattr(model, "config", None), "hidden_size")):
        if isinstance(getattr(holder, name, None), int):
            return int(getattr(holder, name))
    dense = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if dense:  # the classifier reads the features
        return dense[-1].in_features
    raise UnsupportedError(
        f"expected a model with num_features or a dense classifier, got {type(model).__name__}; set model.num_features "
        "to the channels of its last features"
    )


@contextmanager
def features_of(model: nn.Module, layer: nn.Module, size: tuple[int, int]) -> Iterator[list[Features]]:
    """Keep the features that a layer returns in the calls of a model."""
    kept: list[Features] = []
    channels = channels_of(model)

    def keep(_: nn.Module, inputs: object, output: Tensor | tuple[Tensor, ...]) -> None:
        kept.append(Features(output if isinstance(output, Tensor) else output[0], channels, size))

    handle = layer.register_forward_hook(keep)
    try:
        yield kept
    finally:
        handle.remove()

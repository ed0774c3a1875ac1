"""From a model to a program of `torch.export`: what leaves Python, and for which sizes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from regard.attention import decompositions
from regard.errors import OptionError, UnsupportedError
from regard.exporting.constants import fold_parameters
from regard.exporting.layout import channels_first
from regard.exporting.linear import fold_scales, split_projections
from regard.exporting.nodes import node_table
from regard.models import FAMILIES, Preprocessing

AXES = ("batch", "size")
KERNELS = ("standard", "regard")
LARGEST_BATCH, SMALLEST_SIDE, LARGEST_SIDE = 4096, 64, 4096
"""Of dynamic axes."""
UNKNOWN_STEP = 32
"""Of models that are not regard's."""


class Deployed(nn.Module):
    """A model with its normalization before it and a softmax behind it.

    Args:
        model: takes normalized images `[B, 3, H, W]` and returns logits.
        preprocessing: has the mean and the standard deviation.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 5))
        >>> pixels = torch.randint(256, (2, 8, 8, 3), dtype=torch.uint8)
        >>> torch.allclose(Deployed(model, Preprocessing(8))(pixels).sum(-1), torch.ones(2))
        True
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.model = model
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(getattr(preprocessing, name))[:, None, None])

    def forward(self, pixels: Tensor) -> Tensor:
        """Return probabilities `[B, classes]` of pixels `[B, H, W, 3]` in uint8."""
        x = pixels.permute(0, 3, 1, 2).float() / 255
        return self.model((x - self.mean) / self.std).softmax(-1)


def make_program(
    model: nn.Module, example: Tensor, *, dynamic: Sequence[str] = (), kernels: str = "standard"
) -> ExportedProgram:
    """Export a model in evaluation mode.

    Args:
        model: a model, or `Deployed`.
        example: its input.
        dynamic: "batch", "size": the axes whose lengths are chosen when the program runs. Heights and widths are
            multiples of `step_of`.
        kernels: "standard" decomposes regard's operators to PyTorch's; "regard" makes nodes of ONNX of them; "torch"
            leaves them as they are.

    Raises:
        UnsupportedError: an axis that the model fixes.
    """
    shapes = _dynamic_shapes(model, example, dynamic)
    try:
        with torch.no_grad():
            program = torch.export.export(model, (example,), dynamic_shapes=shapes)
    except (RuntimeError, ValueError, torch._dynamo.exc.TorchDynamoException) as error:
        if not dynamic:
            reason = str(error).strip().partition("\n")[0]
            raise UnsupportedError(f"torch.export cannot trace the model ({reason}); see its guide") from error
        raise UnsupportedError(
            f"expected a model whose {' and '.join(dynamic)} can be chosen later, got one that fixes it "
            f"({str(error).strip().partition(chr(10))[0]}); leave out --dynamic"
        ) from error
    if kernels == "torch":
        return program
    with torch.no_grad():  # the exporters decompose the rest as they like
        program = _functional(program)
        if kernels == "standard":
            program = split_projections(program)
        program = fold_parameters(channels_first(fold_scales(program)))
        return program.run_decompositions(dict(node_table() if kernels == "regard" else decompositions()))


def _functional(program: ExportedProgram) -> ExportedProgram:
    """Return the program without changes in place, and without views, which bind the strides of their inputs."""
    program = program.run_decompositions({})
    for node in program.graph.nodes:
        if node.target == torch.ops.aten.view.default:
            node.target = torch.ops.aten.reshape.default
    return program


def check_axes(dynamic: Sequence[str]) -> None:
    """Check names of axes.

    Raises:
        OptionError: an unknown name.
    """
    for axis in dynamic:
        if axis not in AXES:
            raise OptionError.unknown("dynamic axis", axis, AXES)


def step_of(model: nn.Module) -> int:
    """Return the number whose multiples are the heights and widths that a program with a dynamic size takes.

    Example:
        >>> from regard.models import create_model
        >>> step_of(create_model("nat_nano")), step_of(create_model("swin_tiny_patch4_window7_224"))
        (1, 224)
    """
    model = model.model if isinstance(model, Deployed) else model
    if not isinstance(model, FAMILIES):
        return UNKNOWN_STEP
    family = type(model).__name__
    config: Any = model.config
    reduction = int(model.feature_info[-1]["reduction"])
    if family in ("Cait", "Vit"):
        return int(config.patch_size)
    units = {"MobileVitV2": "patch_size", "Swin": "window_size"}
    if family in units:
        return reduction * int(getattr(config, units[family]))
    return reduction if family == "DinatS" else 1


def _dynamic_shapes(model: nn.Module, example: Tensor, dynamic: Sequence[str]) -> tuple[dict[int, Any]] | None:
    """Return the argument of `torch.export.export`; None if all is fixed."""
    if not dynamic:
        return None
    shape: dict[int, Any] = {}
    if "batch" in dynamic:
        shape[0] = Dim("batch", min=1, max=LARGEST_BATCH)
    if "size" in dynamic:
        step = step_of(model)
        first = 1 if example.dtype == torch.uint8 else 2
        for axis, name in ((first, "height"), (first + 1, "width")):
            units = Dim(
                f"{name}_units" if step > 1 else name, min=max(2, SMALLEST_SIDE // step), max=LARGEST_SIDE // step
            )
            shape[axis] = step * units if step > 1 else units
    return (shape,)

"""What else computes a mechanism: modules of other libraries, PyTorch's compilers, runtimes; all with equal weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from torch import Tensor, nn

from regard.attention import (
    Attention,
    EfficientAdditiveAttention,
    NeighborhoodAttention2d,
    SeparableAttention,
    TalkingHeadsAttention,
    WindowAttention,
    set_backend,
)
from regard.benchmark.flex import attend_neighborhoods
from regard.benchmark.race import Contender
from regard.benchmark.runtimes import RUNTIMES
from regard.errors import OptionError, UnsupportedError

Layout = Callable[[Tensor], Tensor]
Grid = tuple[int, int]
RUN = ("compiled", "compiled_freezing", "onnxruntime", "openvino")
"""The runtimes of `RUNTIMES` that run somebody else's module, or our reference where nobody has one."""


@dataclass(frozen=True)
class Form:
    """A module of somebody else that computes what ours does.

    Attributes:
        module: with our weights.
        arrange: brings `[B, H, W, C]` into the layout that the module takes.
        restore: the way back.
    """

    module: nn.Module
    arrange: Layout = Tensor.detach
    restore: Layout = Tensor.detach


def contenders(mechanism: str, ours: nn.Module, x: Tensor, names: Sequence[str]) -> tuple[list[Contender], list[str]]:
    """Return the peers of a module, and a sentence for each one that is left out.

    Args:
        mechanism: the module's.
        ours: the module, in evaluation mode.
        x: its input, `[B, H, W, C]`.
        names: of `PEERS`.

    Raises:
        OptionError: an unknown peer.
    """
    found, left_out = [], []
    for name in names:
        if name not in PEERS:
            raise OptionError.unknown("peer", name, PEERS)
        if name not in RUN and (name, mechanism) not in MODULES:
            continue
        if problem := problem_of(name, x.device.type):
            left_out.append(f"{name}: {problem}")
            continue
        try:
            one = _run(name, mechanism, ours, x) if name in RUN else _module(name, mechanism, ours, x)
        except Exception as error:  # a peer's: the others go on
            left_out.append(
                f"{name} of {mechanism}: {type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
            )
            continue
        found.append(one)
    return found, left_out


def problem_of(name: str, device: str = "cpu") -> str:
    """Return why a peer cannot be measured here, or an empty string."""
    if name in RUN and name != "compiled" and device != "cpu":
        return f"it is measured on CPUs only, not on {device}"
    if name in RUN:
        return RUNTIMES[name].problem()
    package = PACKAGES.get(name, name)
    return "" if find_spec(package) else f"{package} is not installed"


def _module(name: str, mechanism: str, ours: nn.Module, x: Tensor) -> Contender:
    """Return another library's module as a contender."""
    form = MODULES[name, mechanism](ours, (x.shape[1], x.shape[2]))
    given = form.arrange(x).detach().requires_grad_()
    return Contender(name, partial(form.module, given), [given, *form.module.parameters()], form.restore)


def _run(name: str, mechanism: str, ours: nn.Module, x: Tensor) -> Contender:
    """Return a runtime as a contender, which has no gradients except for `torch.compile`."""
    build = MODULES.get(("timm", mechanism)) if find_spec("timm") else None
    form = _reference(ours) if build is None else build(ours, (x.shape[1], x.shape[2]))
    given = form.arrange(x).detach()
    whose = "regard's reference" if build is None else "timm"
    if name == "compiled":
        given.requires_grad_()
        call, inputs = RUNTIMES[name].prepare(form.module, given), [given, *form.module.parameters()]
        return Contender(f"{whose}, {name}", call, inputs, form.restore)
    return Contender(
        f"{whose}, {name}", RUNTIMES[name].prepare(form.module.requires_grad_(False), given), (), form.restore
    )


def _reference(ours: nn.Module) -> Form:
    copy = deepcopy(ours)
    set_backend(copy, "reference")
    return Form(copy)


def _flat(grid: Grid) -> dict[str, Layout]:
    return {"arrange": lambda x: x.flatten(1, 2), "restore": lambda x: x.unflatten(1, grid)}


def _channels_first() -> dict[str, Layout]:
    return {"arrange": lambda x: x.permute(0, 3, 1, 2).contiguous(), "restore": lambda x: x.permute(0, 2, 3, 1)}


def _unfolded(grid: Grid, patch_size: int | Sequence[int]) -> dict[str, Layout]:
    """Return the layouts of tokens that are grouped by their place in the patches, `[B, C, P, N]`."""
    height, width = (patch_size, patch_size) if isinstance(patch_size, int) else patch_size
    rows, columns = grid[0] // height, grid[1] // width

    def arrange(x: Tensor) -> Tensor:
        x = x.unflatten(2, (columns, width)).unflatten(1, (rows, height))  # [B, rows, height, columns, width, C]
        return x.permute(0, 5, 2, 4, 1, 3).flatten(4, 5).flatten(2, 3).contiguous()

    def restore(x: Tensor) -> Tensor:
        x = x.unflatten(3, (rows, columns)).unflatten(2, (height, width))
        return x.permute(0, 4, 2, 5, 3, 1).flatten(3, 4).flatten(1, 2)

    return {"arrange": arrange, "restore": restore}


def _loaded(module: nn.Module, weights: dict[str, Tensor]) -> nn.Module:
    """Return a module with these weights, on their device and in their dtype."""
    module.load_state_dict(weights)
    return module.to(next(iter(weights.values()))).eval()


def _as_convolutions(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights with all matrices as kernels of 1 x 1 convolutions."""
    return {key: value[..., None, None] if value.ndim == 2 else value for key, value in weights.items()}


def _timm_softmax(ours: Attention, grid: Grid) -> Form:
    made = import_module("timm.layers").Attention(ours.proj.in_features, ours.num_heads, qkv_bias=True)
    return Form(_loaded(made, ours.state_dict()), **_flat(grid))


def _timm_talking_heads(ours: TalkingHeadsAttention, grid: Grid) -> Form:
    made = import_module("timm.models.cait").TalkingHeadAttn(ours.proj.in_features, ours.num_heads, qkv_bias=True)
    return Form(_loaded(made, ours.state_dict()), **_flat(grid))


def _timm_window(ours: WindowAttention, grid: Grid) -> Form:
    block = import_module("timm.models.swin_transformer").SwinTransformerBlock(
        ours.proj.in_features,
        grid,
        num_heads=ours.num_heads,
        window_size=tuple(ours.window_size),
        shift_size=tuple(ours.shift_size),
    )
    block.attn.load_state_dict(ours.state_dict())
    block.to(ours.proj.weight).eval()
    return Form(_AttentionOf(block.attn, block._attn))


class _AttentionOf(nn.Module):
    """The attention of a block of timm's Swin, with shift, partition and mask, without MLP, norms and residuals."""

    def __init__(self, attention: nn.Module, attend: Layout) -> None:
        super().__init__()
        self.attn, self._attend = attention, attend

    def forward(self, x: Tensor) -> Tensor:
        return self._attend(x)


def _timm_efficient_additive(ours: EfficientAdditiveAttention, grid: Grid) -> Form:
    width = ours.to_query.in_features
    made = import_module("timm.models.swiftformer").EfficientAdditiveAttention(width, width)
    return Form(_loaded(made, ours.state_dict()), **_channels_first())


def _timm_separable(ours: SeparableAttention, grid: Grid) -> Form:
    made = import_module("timm.models.mobilevit").LinearSelfAttention(ours.dim)
    return Form(_loaded(made, _as_convolutions(ours.state_dict())), **_unfolded(grid, ours.patch_size))


def _torchvision_window(ours: WindowAttention, grid: Grid) -> Form:
    made = import_module("torchvision.models.swin_transformer").ShiftedWindowAttention(
        ours.proj.in_features, list(ours.window_size), list(ours.shift_size), ours.num_heads
    )
    index = made.relative_position_index
    return Form(_loaded(made, {**ours.state_dict(), "relative_position_index": index}))


def _transformers_separable(ours: SeparableAttention, grid: Grid) -> Form:
    models = import_module("transformers.models.mobilevitv2.modeling_mobilevitv2")
    made = models.MobileViTV2LinearSelfAttention(import_module("transformers").MobileViTV2Config(), ours.dim)
    weights = _as_convolutions(ours.state_dict())
    renamed = {key.replace("_proj.", "_proj.convolution."): value for key, value in weights.items()}
    return Form(_loaded(made, renamed), **_unfolded(grid, ours.patch_size))


def _torch_softmax(ours: Attention, grid: Grid) -> Form:
    made = nn.MultiheadAttention(ours.proj.in_features, ours.num_heads, batch_first=True)
    names = {"qkv.weight": "in_proj_weight", "qkv.bias": "in_proj_bias"}
    weights = {names.get(key, f"out_{key}"): value for key, value in ours.state_dict().items()}
    return Form(_SelfAttention(_loaded(made, weights)), **_flat(grid))


class _SelfAttention(nn.Module):
    """Self-attention by `nn.MultiheadAttention`."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x, need_weights=False)[0]


class _Neighborhood(nn.Module):
    """Our projections around another implementation of neighborhood attention."""

    def __init__(self, ours: NeighborhoodAttention2d, attend: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.qkv, self.proj, self.rpb = ours.qkv, ours.proj, ours.rpb
        self.heads, self.attend = ours.num_heads, attend

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(x).unflatten(-1, (3, self.heads, -1)).unbind(-3)
        return self.proj(self.attend(query, key, value).flatten(-2))


def _flex_neighborhood(ours: NeighborhoodAttention2d, grid: Grid) -> Form:
    device = ours.qkv.weight.device.type
    return Form(_Neighborhood(ours, attend_neighborhoods(grid, ours.kernel_size, ours.rpb, device)))


def _natten_neighborhood(ours: NeighborhoodAttention2d, grid: Grid) -> Form:
    raise UnsupportedError("NATTEN's operators have no relative bias; `regard bench kernels` compares without it")


MODULES: dict[tuple[str, str], Callable[[Any, Grid], Form]] = {
    ("timm", "softmax"): _timm_softmax,
    ("timm", "talking_heads"): _timm_talking_heads,
    ("timm", "window"): _timm_window,
    ("timm", "efficient_additive"): _timm_efficient_additive,
    ("timm", "separable"): _timm_separable,
    ("torchvision", "window"): _torchvision_window,
    ("transformers", "separable"): _transformers_separable,
    ("sdpa", "softmax"): _torch_softmax,
    ("flex", "neighborhood"): _flex_neighborhood,
    ("natten", "neighborhood"): _natten_neighborhood,
}
"""By peer and mechanism: a function from our module and the grid of its tokens to the other module."""
PACKAGES = {"sdpa": "torch", "flex": "torch", "reference": "regard"}
"""Of the peers that have another name."""
PEERS = (*dict.fromkeys(name for name, _ in MODULES), *RUN)
"""The names of all peers: libraries, PyTorch's own attention, and runtimes."""

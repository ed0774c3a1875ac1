"""Attention modules and blocks of upstream libraries, one case per option that changes what they compute."""

from functools import partial

import torch
from timm.models import beit, davit, swin_transformer_v2, swin_transformer_v2_cr
from torchvision.models.swin_transformer import ShiftedWindowAttention, ShiftedWindowAttentionV2
from torchvision.models.video.swin_transformer import ShiftedWindowAttention3d

from tests.surgery.models import animate


def tensor(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2))


def plane(height=8, width=12):
    return (tensor(2, height, width, 8),)


def video(frames=4, height=4, width=6):
    return (tensor(1, frames, height, width, 8),)


def tokens(*bias):
    return (tensor(2, 7, 8), *bias)


swin = partial(ShiftedWindowAttention, 8, num_heads=2)
swin_v2 = partial(ShiftedWindowAttentionV2, 8, num_heads=2)
video_swin = partial(ShiftedWindowAttention3d, 8, num_heads=2)
timm_v2 = partial(swin_transformer_v2.SwinTransformerV2Block, 8, (8, 12), num_heads=2, window_size=4)
cr = partial(swin_transformer_v2_cr.SwinTransformerV2CrBlock, 8, 2, (8, 12), (4, 4))
spatial = partial(davit.SpatialBlock, 8, num_heads=2, window_size=3)
patches = partial(beit.Attention, 8, num_heads=2, window_size=(2, 3))

FUSED = {
    "swin": (partial(swin, [4, 4], [0, 0]), plane()),
    "swin shifted": (partial(swin, [4, 4], [2, 2]), plane()),
    "swin shifted on one axis": (partial(swin, [4, 3], [0, 1]), plane()),
    "swin padded": (partial(swin, [4, 4], [2, 2]), plane(7, 10)),
    "swin on one window": (partial(swin, [4, 4], [2, 2]), plane(4, 8)),
    "swin on less than a window": (partial(swin, [4, 4], [2, 2]), plane(3, 8)),
    "swin without biases": (partial(swin, [4, 4], [0, 0], qkv_bias=False, proj_bias=False), plane()),
    "swin v2": (partial(swin_v2, [4, 4], [0, 0]), plane()),
    "swin v2 shifted": (partial(swin_v2, [4, 4], [2, 2]), plane()),
    "swin v2 padded": (partial(swin_v2, [4, 3], [2, 1]), plane(7, 10)),
    "swin v2 without biases": (partial(swin_v2, [4, 4], [0, 0], qkv_bias=False, proj_bias=False), plane()),
    "video swin": (partial(video_swin, [2, 2, 3], [0, 0, 0]), video()),
    "video swin shifted": (partial(video_swin, [2, 2, 3], [1, 1, 1]), video()),
    "video swin padded": (partial(video_swin, [3, 2, 4], [1, 1, 2]), video()),
    "video swin with few frames": (partial(video_swin, [5, 2, 3], [2, 1, 1]), video()),
    "video swin on one window": (partial(video_swin, [2, 4, 3], [1, 2, 1]), video()),
    "video swin without biases": (partial(video_swin, [2, 2, 3], [1, 0, 1], qkv_bias=False), video()),
    "timm's swin v2": (timm_v2, plane()),
    "timm's swin v2 shifted": (partial(timm_v2, shift_size=2), plane()),
    "timm's swin v2 without bias": (partial(timm_v2, shift_size=2, qkv_bias=False), plane()),
    "timm's swin v2 with a dynamic mask": (partial(timm_v2, shift_size=2, dynamic_mask=True), plane(4, 8)),
    "timm's swin v2 always partitioned": (
        partial(timm_v2, window_size=8, shift_size=4, always_partition=True, pretrained_window_size=4),
        plane(8, 16),
    ),
    "cr": (cr, plane()),
    "cr shifted": (partial(cr, shift_size=(2, 2), extra_norm=True), plane()),
    "cr with a dynamic mask": (partial(cr, shift_size=(2, 2), dynamic_mask=True), plane(4, 8)),
    "davit": (spatial, (tensor(1, 8, 6, 9),)),
    "davit padded": (spatial, (tensor(1, 8, 7, 8),)),
    "davit on less than a window": (partial(spatial, qkv_bias=False), (tensor(1, 8, 2, 4),)),
    "davit with activated positions": (partial(spatial, cpe_act=True), (tensor(1, 8, 6, 6),)),
    "beit": (patches, tokens()),
    "beit with biases": (partial(patches, qkv_bias=True), tokens()),
    "beit with a shared bias": (partial(beit.Attention, 8, num_heads=2, qkv_bias=True), tokens(tensor(1, 2, 7, 7))),
    "beit with both biases": (partial(patches, qkv_bias=True), tokens(tensor(1, 2, 7, 7))),
    "beit with biases added later": (partial(patches, qkv_bias=True, qkv_bias_separate=True), tokens()),
    "beit without positions": (partial(beit.Attention, 8, num_heads=2, qkv_bias=True), tokens()),
}
"""Calls that regard's functions compute: the module's constructor and its inputs."""

ONE_OF_EACH = (
    "swin shifted",
    "swin v2 shifted",
    "video swin shifted",
    "timm's swin v2 shifted",
    "cr shifted",
    "davit padded",
    "beit with both biases",
)

ATTENTION = "with attention dropout 0.5"
DROPPING = (
    (partial(swin, [4, 4], [2, 2], attention_dropout=0.5), plane(), ATTENTION),
    (partial(swin_v2, [4, 4], [2, 2], attention_dropout=0.5), plane(), ATTENTION),
    (partial(video_swin, [2, 2, 3], [1, 1, 1], attention_dropout=0.5), video(), ATTENTION),
    (partial(timm_v2, attn_drop=0.5), plane(), ATTENTION),
    (partial(cr, drop_attn=0.5), plane(), ATTENTION),
    (cr, plane(), "with dropout 0.125 of its relative bias"),
)
"""Modules that run the upstream forward in training, with the note of the report."""

UPSTREAM = {
    "video swin on few rows": (partial(video_swin, [2, 5, 3], [1, 2, 1]), video(), "smaller than the window"),
    "timm's swin v2 ragged": (partial(timm_v2, shift_size=2, dynamic_mask=True), plane(7, 12), "no multiple"),
    "cr ragged": (partial(cr, shift_size=(2, 2), dynamic_mask=True), plane(7, 12), "no multiple"),
}
"""Calls that run the upstream forward, with the reason."""


def build(make):
    """Construct a module with fixed random weights; the key's bias of Swin V2 in torchvision must not count."""
    torch.manual_seed(0)
    return animate(make()).eval()

"""Small upstream models that look trained: no parameter is zero, and no layer scale is close to zero."""

import copy
import functools

import timm
import torch
import transformers
from timm.layers import Attention
from torch import nn

from budget import assert_within_budget, truth

TIMM = {
    "cait_xxs24_224": ({"depth": 3, "img_size": 64}, "TalkingHeadAttn", 10),
    "swin_tiny_patch4_window7_224": (
        {"depths": (2, 2), "img_size": 112, "embed_dim": 48, "num_heads": (3, 6)},
        "SwinTransformerBlock",
        8,
    ),
    "swinv2_tiny_window8_256": (
        {"depths": (2, 1), "img_size": 64, "embed_dim": 32, "num_heads": (2, 4)},
        "SwinTransformerV2Block",
        6,
    ),
    "beit_base_patch16_224": ({"depth": 2, "img_size": 64, "embed_dim": 48, "num_heads": 3}, "Attention", 4),
    "swiftformer_xs": ({"layers": [2, 1, 1, 1]}, "EfficientAdditiveAttention", 4),
    "mobilevitv2_050": ({}, "LinearSelfAttention", 9),
    "deit_tiny_patch16_224": ({"depth": 2, "img_size": 64}, "Attention", 4),
    "vit_tiny_patch16_224": ({"depth": 2, "img_size": 64, "init_values": 0.1, "qk_norm": True}, "Attention", 4),
}
VIT = {
    "image_size": 64,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "num_labels": 5,
}
HF = {
    "swin": (
        transformers.SwinForImageClassification,
        transformers.SwinConfig(
            image_size=100, embed_dim=24, depths=[2, 2], num_heads=[2, 3], window_size=7, num_labels=5
        ),
        "SwinLayer",
        8,
    ),
    "swiftformer": (
        transformers.SwiftFormerForImageClassification,
        transformers.SwiftFormerConfig(image_size=64, depths=[2, 1, 1, 1], embed_dims=[16, 24, 32, 48], num_labels=5),
        "SwiftFormerEfficientAdditiveAttention",
        4,
    ),
    "mobilevitv2": (
        transformers.MobileViTV2ForImageClassification,
        transformers.MobileViTV2Config(image_size=64, width_multiplier=0.5, num_labels=5),
        "MobileViTV2LinearSelfAttention",
        9,
    ),
    "vit": (transformers.ViTForImageClassification, transformers.ViTConfig(**VIT), "ViTAttention", 4),
    "beit": (
        transformers.BeitForImageClassification,
        transformers.BeitConfig(**VIT, use_relative_position_bias=True, layer_scale_init_value=0.1),
        "BeitAttention",
        4,
    ),
    "deit": (transformers.DeiTForImageClassification, transformers.DeiTConfig(**VIT), "DeiTAttention", 4),
}
MODELS = (*TIMM, *HF)
DRAWS = 4  # of simulated rounding, for whole networks


def build(name):
    """Return the model, the name of a class that `fuse` replaces, and the number of all replaced modules."""
    torch.manual_seed(0)
    if name in TIMM:
        options, kind, times = TIMM[name]
        model = timm.create_model(name, num_classes=5, **options)
    else:
        factory, config, kind, times = HF[name]
        model = factory(copy.deepcopy(config))  # models change their config
    return animate(model).eval(), kind, times


def animate(model):
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    with torch.no_grad():
        for parameter in model.parameters():
            fan = parameter[0].numel() if (parameter.ndim > 1 and parameter.shape[-1] > 1) or parameter.ndim == 4 else 0
            parameter.normal_(0, fan**-0.5) if fan else parameter.uniform_(0.2, 1.0)
    return model


def image(name, batch=2):
    size = {"swin_tiny_patch4_window7_224": 112, "swiftformer_xs": 64, "mobilevitv2_050": 64, "swin": 100}.get(name, 64)
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1))


def logits(model, *inputs):
    out = model(*inputs)
    return out if isinstance(out, torch.Tensor) else out.logits


def truth_of(model, *inputs, **options):
    """Return the exact outputs of an upstream model and their budget."""
    model = copy.deepcopy(model).double()
    return truth(lambda *inputs: logits(model, *inputs), *inputs, draws=DRAWS, **options)


@functools.cache
def truth_of_build(name):
    """Return the same for the model of that name and its image."""
    return truth_of(build(name)[0], image(name))


def assert_agrees(got, model, *inputs):
    """Hold outputs to the budget of an upstream model."""
    assert_within_budget(got, truth_of(model, *inputs))


class Pair(nn.Module):
    """Two attention modules, of which tests change the first."""

    def __init__(self, first=None, **options):
        super().__init__()
        self.first = Attention(16, num_heads=2, **options) if first is None else first
        self.second = Attention(16, num_heads=2)

    def forward(self, x):
        return self.second(self.first(x))


X = torch.randn(2, 9, 16, generator=torch.Generator().manual_seed(0))

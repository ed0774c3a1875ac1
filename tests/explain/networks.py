"""Small networks of every family, with their images."""

import torch

from regard.models import create_model

SMALL = {
    "NAT": ("nat_nano", 32, {}),
    "DiNAT": ("nat_nano", 32, {"dilations": (2, 1, 1)}),
    "Swin": (
        "swin_tiny_patch4_window7_224",
        32,
        {"img_size": 32, "patch_size": 2, "embed_dim": 16, "depths": (2, 2), "num_heads": (2, 4), "window_size": 4},
    ),
    "CaiT": (
        "cait_xxs24_224",
        32,
        {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "depth_token_only": 2, "num_heads": 2},
    ),
    "ViT": (
        "vit_tiny_patch16_224",
        32,
        {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2},
    ),
    "SwiftFormer": ("swiftformer_nano", 32, {}),
    "MobileViTv2": ("mobilevitv2_050", 64, {}),
}


def build(family, dtype=torch.float32, seed=0):
    """Return a network with lively random weights, and two images."""
    torch.manual_seed(seed)
    name, size, overrides = SMALL[family]
    model = lively(create_model(name, num_classes=5, **overrides))
    return model.to(dtype), torch.randn(2, 3, size, size, dtype=dtype)


def lively(model):
    """Return the network in evaluation mode, with weights that let every layer matter."""
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    return model.eval()

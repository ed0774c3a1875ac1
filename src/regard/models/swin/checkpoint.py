"""Upstream namings of Swin. regard's is timm's but for the classifier."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from regard.attention import WindowAttention, window_bias_index
from regard.checkpoint import Naming
from regard.checkpoint.naming import Rewrite
from regard.models.swin.variants import SwinConfig

OFFICIAL: tuple[Rewrite, ...] = (
    (r"^layers\.(\d+)\.downsample\.", lambda stage: f"layers.{int(stage[1]) - 1}.downsample."),
)
HF: tuple[Rewrite, ...] = (
    *OFFICIAL,
    (r"^layers\.", "swin.encoder.layers."),
    (r"^patch_embed\.proj\.", "swin.embeddings.patch_embeddings.projection."),
    (r"^patch_embed\.", "swin.embeddings."),
    (r"^norm\.", "swin.layernorm."),
    (r"^head\.", "classifier."),
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
)
HUB_FILES: tuple[Rewrite, ...] = (
    (r"\.attn\.qkv\.", ".attention.self.{query,key,value}."),
    (r"\.attn\.proj\.", ".attention.output.dense."),
    (r"\.attn\.relative", ".attention.self.relative"),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
)
IN_MEMORY: tuple[Rewrite, ...] = (
    (r"\.attn\.qkv\.", ".attention.{q_proj,k_proj,v_proj}."),
    (r"\.attn\.proj\.", ".attention.o_proj."),
    (r"\.attn\.relative", ".attention.relative_position_bias.relative"),
)


def name_tensors(config: SwinConfig) -> tuple[Naming, ...]:
    """Return the authors' naming, timm's, and Hugging Face's: of files, and of models since transformers 5 ("hf5")."""
    files = Naming("hf", (*HF, *HUB_FILES))

    def renamed(model: nn.Module) -> dict[str, Tensor]:
        return {files.sources(name)[0].name: index for name, index in _indices(model).items()}

    buffers = r"\.(relative_position_index|attn_mask)$"
    return (
        Naming(
            "official",
            OFFICIAL,
            derived=lambda model: _indices(model) | _masks(model, config.img_size),
            ignored=buffers,
        ),
        Naming("timm", ((r"^head\.", "head.fc."),), ignored=buffers),
        Naming("hf", files.rewrites, derived=renamed, ignored=buffers),
        Naming("hf5", (*HF, *IN_MEMORY)),
    )


def _indices(model: nn.Module) -> dict[str, Tensor]:
    """Return the indices into the bias tables for every query and key of a window, query minus key."""
    return {
        f"{name}.relative_position_index": window_bias_index(module.window_size).T
        for name, module in model.named_modules()
        if isinstance(module, WindowAttention)
    }


def _masks(model: nn.Module, img_size: int) -> dict[str, Tensor]:
    """Return the masks of the shifted blocks: -100 for tokens of a window from different sides of the image."""
    masks = {}
    for name, module in model.named_modules():
        if isinstance(module, WindowAttention) and any(module.shift_size):
            reduction = int(name.split(".")[1])
            side = img_size // model.get_submodule("patch_embed.proj").stride[0] // 2**reduction  # type: ignore[index]
            (window, _), (shift, _) = module.window_size, module.shift_size
            side = -(-side // window) * window
            places = torch.arange(side)
            region = (places >= side - window).int() + (places >= side - shift).int()
            regions = (3 * region[:, None] + region).unflatten(1, (-1, window)).unflatten(0, (-1, window))
            tokens = regions.transpose(1, 2).flatten(0, 1).flatten(1)  # [windows, T]
            apart = tokens[:, None] != tokens[:, :, None]
            masks[name.removesuffix("attn") + "attn_mask"] = -100.0 * apart.float()
    return masks

"""Upstream namings of ViT and DeiT. regard's is timm's and that of DeiT's authors."""

from __future__ import annotations

from regard.checkpoint import Naming
from regard.checkpoint.naming import Rewrite
from regard.models.vit.variants import VitConfig

EMBEDDINGS: tuple[Rewrite, ...] = (
    (r"^cls_token$", "PREFIX.embeddings.cls_token"),
    (r"^dist_token$", "PREFIX.embeddings.distillation_token"),
    (r"^pos_embed$", "PREFIX.embeddings.position_embeddings"),
    (r"^patch_embed\.proj\.", "PREFIX.embeddings.patch_embeddings.projection."),
    (r"^norm\.", "PREFIX.layernorm."),
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
)
HUB_FILES: tuple[Rewrite, ...] = (
    (r"^blocks\.", "PREFIX.encoder.layer."),
    (r"\.attn\.qkv\.", ".attention.attention.{query,key,value}."),
    (r"\.attn\.proj\.", ".attention.output.dense."),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
)
IN_MEMORY: tuple[Rewrite, ...] = (
    (r"^blocks\.", "PREFIX.layers."),
    (r"\.attn\.qkv\.", ".attention.{q_proj,k_proj,v_proj}."),
    (r"\.attn\.proj\.", ".attention.o_proj."),
)
CLASSIFIER: tuple[Rewrite, ...] = ((r"^PREFIX\.", "vit."), (r"^head\.", "classifier."))
CLASSIFIERS: tuple[Rewrite, ...] = (
    (r"^PREFIX\.", "deit."),
    (r"^head\.", "cls_classifier."),
    (r"^head_dist\.", "distillation_classifier."),
)


def name_tensors(config: VitConfig) -> tuple[Naming, ...]:
    """Return the authors' naming, timm's, and Hugging Face's: of files, and of models since transformers 5 ("hf5").

    In transformers, DeiT without distillation is a ViT.
    """
    ends = CLASSIFIERS if config.distilled else CLASSIFIER
    return (
        Naming("official"),
        Naming("timm"),
        Naming("hf", (*EMBEDDINGS, *HUB_FILES, *ends)),
        Naming("hf5", (*EMBEDDINGS, *IN_MEMORY, *ends)),
    )

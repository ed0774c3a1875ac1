"""Upstream namings of SwiftFormer. regard's is timm's."""

from __future__ import annotations

from regard.checkpoint import Naming
from regard.checkpoint.naming import Rewrite
from regard.models.swiftformer.variants import SwiftFormerConfig

POINTWISE = r"(pwconv[12]|fc[12])\.weight$|\.gamma$"

OFFICIAL: tuple[Rewrite, ...] = (
    (r"^stem\.", "patch_embed."),
    (r"^head_dist\.", "dist_head."),
    (r"^stages\.(\d+)\.blocks\.", lambda stage: f"network.{2 * int(stage[1])}."),
    (r"^stages\.(\d+)\.downsample\.", lambda stage: f"network.{2 * int(stage[1]) - 1}."),
    (r"\.gamma$", ""),
)
HF: tuple[Rewrite, ...] = (
    *OFFICIAL,
    (r"^patch_embed\.", "swiftformer.patch_embed.patch_embedding."),
    (r"^network\.(\d*[02468])\.", r"swiftformer.encoder.network.\1.blocks."),
    (r"^network\.", "swiftformer.encoder.network."),
    (r"\.dwconv\.", ".depth_wise_conv."),
    (r"\.pwconv([12])\.", r".point_wise_conv\1."),
)


def name_tensors(config: SwiftFormerConfig) -> tuple[Naming, ...]:
    """Return the authors' naming, timm's and Hugging Face's.

    Hugging Face has attention and weights of the authors' first release, whose token weights are all one. timm has
    those of the second release.
    """
    return (
        Naming("official", (*OFFICIAL, (r"\.attn\.proj\.", ".attn.Proj.")), POINTWISE),
        Naming("timm", (), POINTWISE, requires={"token_norm": "l2"}),
        Naming("hf", HF, POINTWISE, requires={"token_norm": "ones"}),
    )

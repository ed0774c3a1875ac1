"""How the authors of SwiftFormer name its tensors. Ours are timm's names, up to the shapes that loading flattens."""

from __future__ import annotations

import re

from regard.checkpoint import Naming


def _authors(name: str) -> tuple[str, ...]:
    name = re.sub(r"^stem\.", "patch_embed.", name)
    name = re.sub(r"^head_dist\.", "dist_head.", name)
    name = re.sub(r"^stages\.(\d+)\.blocks\.", lambda stage: f"network.{2 * int(stage[1])}.", name)
    name = re.sub(r"^stages\.(\d+)\.downsample\.", lambda stage: f"network.{2 * int(stage[1]) - 1}.", name)
    return (name.replace(".attn.proj.", ".attn.Proj.").removesuffix(".gamma"),)


NAMINGS = (Naming("the authors", _authors),)

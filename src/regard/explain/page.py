"""One self-contained page: a click picks the token, sliders pick layer and head."""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from string import Template

import torch
from torch import Tensor

from regard.explain.maps import AttentionMap
from regard.explain.tokens import Tokens
from regard.extras import require

MAX_WEIGHTS = 24_000_000
"""A page holds at most this many weights, one byte each; of larger models it shows every second, third, ... layer."""


def write_page(file: str | Path, image: Tensor, maps: Sequence[AttentionMap], title: str) -> Path:
    """Write a page that shows the attention of one image; it needs no network.

    Args:
        file: where to write it.
        image: `[3, H, W]` or `[1, H, W]`, values from 0 to 1.
        maps: of the layers, for a batch of this one image.
        title: of the page.

    Precision:
        Weights are rounded to 1/127 of the largest of their query.

    Raises:
        UnsupportedError: the layers' tokens form no grid over the image.
        OSError: the file cannot be written.
    """
    size = (image.shape[1], image.shape[2])
    every = 1
    while sum(_shown(one).numel() for one in maps[::every]) > MAX_WEIGHTS and every < len(maps):
        every += 1
    data = {
        "width": size[1],
        "height": size[0],
        "image": f"data:image/png;base64,{_png(image)}",
        "layers": [_layer(one, size) for one in maps[::every]],
    }
    template = Template(files("regard.explain").joinpath("page.html").read_text("utf-8"))
    text = json.dumps(data).replace("<", "\\u003c")
    path = Path(file)
    path.write_text(template.substitute(title=html.escape(title), data=text), "utf-8")
    return path


def _shown(attention: AttentionMap) -> Tensor:
    """Return the weights of the first image, `[nh, N, K]`; of one query where all queries share them."""
    weights = attention.weights[0]
    is_shared = attention.keys is None and weights.shape[1] > 1 and weights.stride(1) == 0
    return weights[:, :1] if is_shared else weights


def _layer(attention: AttentionMap, size: tuple[int, int]) -> dict[str, object]:
    weights = _shown(attention).float().cpu()
    tokens = Tokens.of(attention.key_grid, size)
    largest = weights.abs().amax(-1).clamp_min(torch.finfo(torch.float32).tiny)
    codes = (128 + 127 * weights / largest.unsqueeze(-1)).round().to(torch.uint8)
    keys = None if attention.keys is None else _encode(attention.keys.int())
    return {
        "name": attention.layer,
        "mechanism": attention.mechanism.replace("_", " "),
        "heads": weights.shape[0],
        "queries": weights.shape[1],
        "count": weights.shape[2],
        "prefix": tokens.prefix,
        "grid": tokens.grid,
        "whose": "the class token" if attention.query_grid == (1,) else "the context of all tokens",
        "keys": keys,
        "weights": _encode(codes),
        "scales": [round(value, 6) for value in largest.flatten().tolist()],
    }


def _encode(tensor: Tensor) -> str:
    return base64.b64encode(tensor.contiguous().cpu().numpy().tobytes()).decode()


def _png(image: Tensor) -> str:
    pixels = (image.expand(3, -1, -1).permute(1, 2, 0).clamp(0, 1) * 255).round().to(torch.uint8)
    buffer = io.BytesIO()
    require("PIL.Image", extra="look").fromarray(pixels.cpu().numpy()).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()

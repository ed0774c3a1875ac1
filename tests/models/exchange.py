"""Exchange of weights with the networks of timm and transformers: `python tests/models/exchange.py` prints a table.

Each pair is a model of regard and the same upstream network. The upstream network gets random weights that make every
branch count, regard's model loads its state dict, and another upstream network loads regard's.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from budget import Truth, error
from golden import weights
from models.networks import draw, logits, truth_of
from regard.checkpoint import export_state
from regard.models import MODELS, create_model


@dataclass(frozen=True)
class Pair:
    """A model of regard and the same upstream network, which `build` returns."""

    name: str
    naming: str
    build: Callable[[], torch.nn.Module]
    size: int = 224
    overrides: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        return f"{self.name}-{self.naming}-{self.size}"


def timm_pair(name: str, size: int | None = None, **overrides: Any) -> Pair:
    def build():
        import timm

        return timm.create_model(name, **overrides)

    return Pair(name, "timm", build, MODELS[name].image_size if size is None else size, tuple(overrides.items()))


def hf_pair(name: str, kind: str, naming: str, size: int | None = None, overrides=(), **config: Any) -> Pair:
    def build():
        import transformers

        owner = kind.removesuffix("ForImageClassificationWithTeacher").removesuffix("ForImageClassification")
        return getattr(transformers, kind)(getattr(transformers, f"{owner}Config")(num_labels=1000, **config))

    return Pair(name, naming, build, MODELS[name].image_size if size is None else size, overrides)


TINY_SWIN = {"embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24]}
TINY_VIT = {
    "hidden_size": 192,
    "num_hidden_layers": 12,
    "num_attention_heads": 3,
    "intermediate_size": 768,
    "layer_norm_eps": 1e-6,  # the published weights' where transformers' default is another
}
SWIN, VIT = "swin_tiny_patch4_window7_224", "deit_tiny_patch16_224"
PAIRS = [
    timm_pair("swiftformer_xs"),
    timm_pair("swiftformer_l1"),
    hf_pair(
        "swiftformer_xs",
        "SwiftFormerForImageClassification",
        "hf",
        depths=[3, 3, 6, 4],
        embed_dims=[48, 56, 112, 220],
        drop_path_rate=0.0,
    ),
    timm_pair("mobilevitv2_050", 96),
    timm_pair("mobilevitv2_100"),
    hf_pair("mobilevitv2_100", "MobileViTV2ForImageClassification", "hf"),
    timm_pair("cait_xxs24_224"),
    timm_pair("cait_xs24_384"),
    timm_pair(SWIN),
    timm_pair(SWIN, 448, img_size=448),
    timm_pair("swin_base_patch4_window12_384"),
    hf_pair(SWIN, "SwinForImageClassification", "hf5", **TINY_SWIN),
    hf_pair(SWIN, "SwinForImageClassification", "hf5", 256, (("img_size", 256),), **TINY_SWIN, image_size=256),
    timm_pair(VIT),
    timm_pair("deit_tiny_distilled_patch16_224"),
    timm_pair("vit_tiny_patch16_224"),
    timm_pair("vit_small_patch16_224", 384, img_size=384),
    hf_pair(VIT, "ViTForImageClassification", "hf5", **TINY_VIT),
    hf_pair(
        "deit_tiny_distilled_patch16_224",
        "DeiTForImageClassificationWithTeacher",
        "hf5",
        **TINY_VIT,
    ),
]


def exchange(pair: Pair, seed: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, Truth]:
    """Load an upstream network's weights into regard's, and regard's into another upstream network.

    Returns:
        The logits of the upstream network, of regard's, and of the second upstream network, and their budget.
    """
    upstream = draw(pair.build(), seed)
    x = weights.image([1, 3, pair.size, pair.size], seed=4)
    ours = create_model(pair.name, weights=upstream.state_dict(), **dict(pair.overrides)).eval()
    again = draw(pair.build(), seed + 2)
    again.load_state_dict(export_state(ours, pair.naming))
    with torch.no_grad():
        outputs = [logits(network, x) for network in (upstream, ours, again)]
    return *outputs, truth_of(ours, x, draws=2)


def main() -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("model", "naming", "pixels", "upstream", "regard", "upstream again", "budget")
    for pair in PAIRS:
        *outputs, expected = exchange(pair)
        size = expected.exact[0].abs().max().item()
        errors = (error(output, expected.exact[0]) / size for output in outputs)
        figures = (f"{value:.1e}" for value in (*errors, expected.allowed[0] / size))
        table.add_row(pair.name, pair.naming, str(pair.size), *figures)
    Console().print(table)


if __name__ == "__main__":
    main()

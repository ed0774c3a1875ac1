"""`regard info`: the layers of a model."""

import re

import pytest

from regard.cli.info import trace
from regard.models import MODELS, create_model

from .test_cli import call, one_error

SMALLEST = [
    "swiftformer_nano",
    "mobilevitv2_050",
    "nat_nano",
    "dinat_s_tiny",
    "vitrpb_small",
    "swin_tiny_patch4_window7_224",
    "deit_tiny_distilled_patch16_224",
    "cait_xxs24_224",
]


def rows(name, *options):
    """Return the cells of the table by layer, and the last line."""
    _, *printed, total = call("info", name, *options).stdout.splitlines()
    cells = (line.split("\t") for line in printed)
    return {row[0]: row[1:] for row in cells}, total


@pytest.mark.one_parameter
@pytest.mark.parametrize("name", SMALLEST)
def test_rows_add_up(name):
    table, total = rows(name)
    counts = {layer: int(row[2].replace(",", "")) for layer, row in table.items()}
    stages = {layer for layer, row in table.items() if row[0] in ("Stage", "Blocks")}
    blocks = {layer for layer in counts if any(layer.startswith(f"{stage}.") for stage in stages)}
    assert sum(counts[layer] for layer in counts if layer not in blocks) == MODELS[name].parameters
    for stage in stages & set(counts):
        inside = [counts[layer] for layer in blocks if layer.startswith(f"{stage}.")]
        assert not inside or sum(inside) == counts[stage]
    assert all(re.fullmatch(r"\[1(, \d+)*\]", row[1]) for row in table.values())
    assert total.startswith(f"{MODELS[name].parameters:,} parameters, ")
    published = MODELS[name].gmacs
    found = float(re.search(r"([\d.]+) G multiply-adds", total)[1])
    assert abs(found - published) <= max(0.01 * published, 0.051)


def test_shapes():
    table, _ = rows("swin_tiny_patch4_window7_224")
    assert table["patch_embed"][:2] == ["PatchEmbed", "[1, 56, 56, 96]"]
    assert table["layers.3.downsample"][:2] == ["PatchMerging", "[1, 7, 7, 768]"]
    assert table["layers.2.blocks.5"][:2] == ["TransformerBlock", "[1, 14, 14, 384]"]
    assert table["head"] == ["Linear", "[1, 1000]", "769,000"]
    assert "layers.0.downsample" not in table


def test_tokens_are_shown():
    table, _ = rows("deit_tiny_distilled_patch16_224")
    assert table["pos_embed"] == ["Parameter", "[1, 198, 192]", "38,016"]
    assert table["dist_token"] == ["Parameter", "[1, 1, 192]", "192"]


def test_image_size():
    table, total = rows("mobilevitv2_050", "--image-size", 512)
    assert table["stages.4"][1] == "[1, 256, 16, 16]"
    assert float(re.search(r"([\d.]+) G", total)[1]) == pytest.approx(4 * 0.465, rel=0.01)


def test_hooks_are_removed():
    model = create_model("nat_nano").to("meta")
    trace(model, 8)
    assert not any(module._forward_hooks for module in model.modules())


def test_errors(tmp_path):
    assert "did you mean 'nat_nano'" in one_error(call("info", "nat_nono", code=2))
    assert "did you mean 'swin_tiny_patch4_window7_224'" in one_error(call("info", "swin_tiny", code=2))
    assert f"got the path {tmp_path}" in one_error(call("info", tmp_path, code=2))
    assert "multiples of 16" in one_error(call("info", "vit_tiny_patch16_224", "--image-size", 100, code=2))
    assert "--image-size" in call("info", "nat_nano", "--image-size", 0, code=2).stderr


def test_help():
    assert "Example: regard info" in call("info", "--help").stdout

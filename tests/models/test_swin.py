"""What is particular to Swin and DiNAT_s."""

import pytest
import timm
import torch
import transformers

from budget import assert_within_budget
from golden import weights
from regard.errors import ShapeError
from regard.models import create_model, save_weights

from .networks import assert_same, draw, everything, logits, truth_of

TINY = "swin_tiny_patch4_window7_224"


@pytest.mark.one_parameter
@pytest.mark.parametrize("training", [False, True], ids=["eval", "training"])
def test_equals_timm(training):
    options = {"depths": (2, 2, 2), "num_heads": (1, 2, 4), "embed_dim": 32, "img_size": 112, "drop_path_rate": 0.0}
    upstream = draw(timm.create_model(TINY, **options), seed=3).train(training)
    ours = create_model(TINY, weights=upstream.state_dict(), **options).train(training)
    assert_same(ours, upstream, weights.image([1, 3, 112, 112], seed=4), everything)


@pytest.mark.exhaustive
def test_folder_for_transformers(tmp_path):
    """A file in the naming of the hub, whose tensors transformers renames when it loads them."""
    ours = draw(create_model(TINY), seed=5)
    transformers.SwinConfig(num_labels=1000).save_pretrained(tmp_path)
    save_weights(ours, tmp_path / "model.safetensors", naming="hf")
    upstream, found = transformers.SwinForImageClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not found["missing_keys"] and not found["mismatched_keys"]
    x = weights.image([1, 3, 224, 224], seed=6)
    with torch.no_grad():
        assert_within_budget(logits(upstream.eval(), x), truth_of(ours, x, draws=2))


def shifts(model):
    return [[(b.attn.window_size[0], b.attn.shift_size[0]) for b in stage.blocks] for stage in model.layers]


def test_windows_fit_the_grid():
    """Every second block is shifted, but not where one window covers the grid."""
    with torch.device("meta"):
        assert shifts(create_model(TINY)) == [[(7, 0), (7, 3)]] * 2 + [[(7, 0), (7, 3)] * 3, [(7, 0)] * 2]
        assert shifts(create_model(TINY, img_size=96))[2:] == [[(6, 0)] * 6, [(3, 0)] * 2]


@pytest.mark.parametrize("size", [(30, 41), (3, 3)], ids=str)
def test_images_with_incomplete_patches(size):
    """Zeros on the right and at the bottom complete the patches."""
    model = draw(create_model(TINY, depths=(1, 1), num_heads=(3, 6)), seed=7)
    x = torch.randn(1, 3, *size)
    padded = torch.zeros(1, 3, -(-size[0] // 4) * 4, -(-size[1] // 4) * 4)
    padded[..., : size[0], : size[1]] = x
    assert torch.equal(model(x), model(padded))


def test_bias_tables_are_not_decayed():
    with torch.device("meta"):
        assert len(create_model(TINY).no_weight_decay()) == len(create_model("dinat_s_tiny").no_weight_decay()) == 12


def test_dinat_s_with_one_window_is_swin():
    """With a window as large as the grid, both compute full attention; their bias tables are mirror images."""
    options = {"embed_dim": 32, "depths": (2,), "num_heads": (2,), "num_classes": 10}
    swin = draw(create_model(TINY, img_size=28, **options), seed=8)
    dinat = create_model("dinat_s_tiny", dilations=(1,), **options).eval()
    state = swin.state_dict()
    for name in [name for name in state if name.endswith("bias_table")]:
        table = state.pop(name).T.unflatten(1, (13, 13)).flip(1, 2)
        state[name.replace("relative_position_bias_table", "rpb")] = table
    dinat.load_state_dict(state)
    x = weights.image([2, 3, 28, 28], seed=9)
    assert_same(dinat, swin, x)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"img_size": 16}, "img_size must be at least 32 for 4 stages, got 16"),
        ({"window_size": 0}, "window_size must be at least 1, got 0"),
        ({"num_heads": (5, 6, 12, 24)}, "multiple of num_heads"),
    ],
    ids=str,
)
def test_sizes_that_do_not_fit(overrides, message):
    with pytest.raises(ShapeError, match=message), torch.device("meta"):
        create_model(TINY, **overrides)

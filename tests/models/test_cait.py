"""CaiT against timm's, and what is particular to it."""

import pytest
import timm
import torch
from timm.models._manipulate import group_parameters

from golden import weights
from regard.checkpoint import export_state
from regard.errors import ShapeError
from regard.layers import interpolate_position
from regard.models import create_model, load_weights

from .networks import assert_same, draw

NAME = "cait_xxs24_224"
SIZES = {"embed_dim": 48, "depth": 4, "num_heads": 3, "img_size": 64}


def small(**options):
    torch.manual_seed(0)
    return create_model(NAME, **{"num_classes": 10} | SIZES | options)


def timms(seed=3):
    """timm's network under random weights."""
    return draw(timm.create_model(NAME, num_classes=10, **SIZES), seed)


@pytest.mark.one_parameter
@pytest.mark.parametrize("training", [False, True], ids=["eval", "training"])
def test_equals_timm(training):
    upstream = timms()
    ours = small(weights=upstream.state_dict())
    x = weights.image([2, 3, 64, 64], seed=4)
    assert_same(ours.train(training), upstream.train(training), x)
    again = timms(seed=5)
    again.load_state_dict(export_state(ours, "timm"))
    with torch.no_grad():
        assert torch.equal(again(x), upstream.eval()(x))


@pytest.mark.parametrize("norm", [False, True], ids=["raw", "normed"])
def test_features_equal_timm(norm):
    upstream = timms()
    ours = small(weights=upstream.state_dict()).eval()
    assert [info["module"] for info in ours.feature_info] == [info["module"] for info in upstream.feature_info]

    def features(model, x):
        tokens, images = model.forward_intermediates(x, norm=norm)
        return (tokens, *images, model.forward_head(tokens, pre_logits=True))

    assert_same(ours, upstream, weights.image([1, 3, 64, 64], seed=5), features)


def test_authors_file():
    """Their files have the names of a network that several processes trained."""
    upstream = timms()
    ours = small(weights={"model": {f"module.{name}": tensor for name, tensor in upstream.state_dict().items()}}).eval()
    assert_same(ours, upstream, weights.image([1, 3, 64, 64], seed=6))
    assert export_state(ours, "official").keys() == upstream.state_dict().keys()


def test_position_embedding_of_another_size():
    state = timms().state_dict()
    ours, other = small(weights=state).eval(), small(img_size=96).eval()
    assert load_weights(other, state).resized == ("pos_embed",)
    assert torch.equal(other.pos_embed, interpolate_position(state["pos_embed"], (4, 4), (6, 6)))
    x = weights.image([1, 3, 96, 96], seed=6)
    with torch.no_grad():
        assert torch.equal(ours(x), other(x))
        assert ours(x[..., :32]).shape == (1, 10)


def test_only_the_class_token_changes_in_the_last_blocks():
    model = small().eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        tokens, images = model.forward_intermediates(x, 1)
        assert tokens.shape == (2, 17, 48)
        patches = model.norm(images[0].flatten(2).transpose(1, 2))
        assert torch.equal(tokens[:, 1:], patches)
        token = model.norm(model.cls_token).expand(2, -1, -1)
        assert not torch.allclose(tokens[:, :1], token, atol=1e-7)


def test_drop_path_is_constant():
    model = small(drop_path_rate=0.5)
    assert [block.drop_path.rate for block in model.blocks] == [0.5] * 4
    assert not any(hasattr(block, "drop_path") for block in model.blocks_token_only)


@pytest.mark.parametrize(("name", "start"), [(NAME, 1e-5), ("cait_xxs36_224", 1e-5), ("cait_s36_384", 1e-6)])
def test_layer_scale(name, start):
    model = create_model(name, embed_dim=32, num_heads=2, depth=1)
    assert model.blocks[0].ls1.gamma.unique().item() == model.blocks_token_only[1].ls2.gamma.unique().item()
    assert model.blocks[0].ls1.gamma[0].item() == pytest.approx(start)


def test_groups():
    """The blocks on the class token are layers of their own; the last norm belongs to the last of them."""
    model = small()
    groups = group_parameters(model, model.group_matcher())
    assert len(groups) == 1 + 4 + 2 + 1
    assert groups[0] == ["cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias"]
    assert {name.split(".")[1] for name in groups[4]} == {"3"}
    assert groups[5][0] == "blocks_token_only.0.norm1.weight" and groups[6][-1] == "norm.bias"
    assert groups[7] == ["head.weight", "head.bias"]
    assert model.no_weight_decay() == {"cls_token", "pos_embed"}


def test_grad_checkpointing():
    gradients = []
    for enable in (False, True):
        model = small(drop_path_rate=0.5).train()
        model.set_grad_checkpointing(enable)
        torch.manual_seed(2)
        model(weights.image([2, 3, 64, 64], seed=8)).square().sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.equal(plain, again) for plain, again in zip(*gradients, strict=True))


def test_reset_classifier():
    model = small().eval()
    x = torch.randn(2, 3, 64, 64)
    tokens = model.forward_features(x)
    model.reset_classifier(0)
    assert torch.equal(model(x), tokens[:, 0])
    model.reset_classifier(0, "")
    assert torch.equal(model(x), tokens)
    model.reset_classifier(3, "token")
    assert model(x).shape == (2, 3)


def test_pruned():
    """Without a classifier the class token goes too, so that every parameter counts."""
    model = small()
    x = torch.randn(1, 3, 64, 64)
    expected = model.forward_intermediates(x, [1], intermediates_only=True)
    assert model.prune_intermediate_layers([1], prune_norm=True) == [1]
    got = model.forward_intermediates(x, 1, intermediates_only=True)
    assert torch.equal(got[0], expected[0]) and model(x).shape == (1, 16, 48)
    got[0].sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_images_that_patches_do_not_fill():
    with pytest.raises(ShapeError, match="multiples of 16, the patch size, got 64 x 40; resize or pad the images"):
        small()(torch.zeros(1, 3, 64, 40))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"img_size": 70}, "img_size must be a multiple of patch_size, got 70 and 16"),
        ({"depth_token_only": 0}, "depth_token_only must be at least 1, got 0"),
        ({"num_heads": 5}, "dim must be a multiple of num_heads"),
        ({"drop_path_rate": 1.0}, r"drop_path_rate must be in \[0, 1\)"),
    ],
    ids=str,
)
def test_sizes_that_do_not_fit(options, message):
    with pytest.raises(ShapeError, match=message):
        small(**options)

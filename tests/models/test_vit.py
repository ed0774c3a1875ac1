"""ViT and DeiT against timm's and transformers', and what is particular to them."""

import pytest
import timm
import torch
import transformers
from timm.models._manipulate import group_parameters
from timm.models.vision_transformer import checkpoint_filter_fn
from torch import nn

from budget import assert_within_budget
from golden import weights
from regard.checkpoint import export_state
from regard.errors import CheckpointError, OptionError, ShapeError
from regard.models import create_model, load_weights, save_weights
from regard.models.vit import VARIANTS

from .networks import assert_same, draw, truth_of

PLAIN, DISTILLED = "deit_tiny_patch16_224", "deit_tiny_distilled_patch16_224"
SIZES = {"embed_dim": 48, "depth": 3, "num_heads": 3, "img_size": 64}
HF_SIZES = {
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 192,
    "image_size": 64,
    "layer_norm_eps": 1e-6,
    "num_labels": 10,
}

both = pytest.mark.parametrize("name", [PLAIN, DISTILLED], ids=["plain", "distilled"])


def small(name=PLAIN, **options):
    torch.manual_seed(0)
    return create_model(name, **{"num_classes": 10, "drop_path_rate": 0.0} | SIZES | options)


def timms(name, seed=3, **options):
    """timm's network under random weights."""
    return draw(timm.create_model(name, **{"num_classes": 10} | SIZES | options), seed)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "training"])
@both
def test_equals_timm(name, training):
    upstream = timms(name)
    ours = small(name, weights=upstream.state_dict())
    x = weights.image([2, 3, 64, 64], seed=4)
    assert_same(ours.train(training), upstream.train(training), x)
    again = timms(name, seed=5)
    again.load_state_dict(export_state(ours, "timm"))
    with torch.no_grad():
        assert torch.equal(again(x), upstream.eval()(x))


@pytest.mark.parametrize("norm", [False, True], ids=["raw", "normed"])
@both
def test_features_equal_timm(name, norm):
    upstream = timms(name)
    ours = small(name, weights=upstream.state_dict()).eval()
    assert [info["module"] for info in ours.feature_info] == [info["module"] for info in upstream.feature_info]

    def features(model, x):
        tokens, images = model.forward_intermediates(x, norm=norm)
        return (tokens, *images, model.forward_head(tokens, pre_logits=True))

    assert_same(ours, upstream, weights.image([1, 3, 64, 64], seed=5), features)


@both
def test_other_images_equal_timm(name):
    upstream = timms(name, dynamic_img_size=True)
    ours = small(name, weights=upstream.state_dict()).eval()
    x = weights.image([1, 3, 96, 48], seed=6)
    expected = truth_of(ours, x)
    with torch.no_grad():
        assert_within_budget(upstream(x), expected)
        assert_within_budget(ours(x), expected)


@both
def test_position_embedding_of_another_size(name):
    state = timms(name).state_dict()
    upstream = timm.create_model(name, num_classes=10, **SIZES | {"img_size": 96}).eval()
    upstream.load_state_dict(checkpoint_filter_fn(dict(state), upstream))
    ours = small(name, img_size=96).eval()
    assert load_weights(ours, state).resized == ("pos_embed",)
    assert_same(ours, upstream, weights.image([1, 3, 96, 96], seed=6))


@pytest.mark.parametrize("tokens", [1, 12], ids=["none", "no_square"])
def test_position_embedding_of_no_square_grid(tokens):
    state = small().state_dict() | {"pos_embed": torch.zeros(1, tokens, 48)}
    with pytest.raises(CheckpointError, match=r"pos_embed \(expected \[1, 17, 48\], got \[1, \d+, 48\]\)"):
        load_weights(small(), state)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("vit_tiny_patch16_224", "ViT"), (PLAIN, "ViT"), (DISTILLED, "DeiT")],
    ids=["vit", "plain", "distilled"],
)
def test_equals_transformers(name, kind, tmp_path):
    """In memory, and through a folder that transformers reads, whose files have other names."""
    network = getattr(transformers, f"{kind}ForImageClassification{'WithTeacher' if kind == 'DeiT' else ''}")
    config = getattr(transformers, f"{kind}Config")(**HF_SIZES)
    upstream = draw(network(config), seed=3)
    ours = small(name, weights=upstream.state_dict()).eval()
    x = weights.image([2, 3, 64, 64], seed=7)
    assert_same(ours, upstream, x)
    save_weights(ours, tmp_path / "model.safetensors", naming="hf")
    config.save_pretrained(tmp_path)
    again, info = network.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    assert export_state(ours, "hf5").keys() == again.state_dict().keys()
    reread = small(name, weights=tmp_path / "model.safetensors").eval()
    with torch.no_grad():
        assert torch.equal(again.eval()(x).logits, upstream(x).logits)
        assert torch.equal(reread(x), ours(x))


def test_names_of_hub_files():
    names = {each for name in (PLAIN, DISTILLED) for each in export_state(small(name), "hf")}
    assert {
        "vit.encoder.layer.2.attention.attention.query.weight",
        "vit.encoder.layer.0.attention.output.dense.bias",
        "deit.embeddings.distillation_token",
        "deit.encoder.layer.0.intermediate.dense.weight",
        "deit.encoder.layer.0.layernorm_after.weight",
        "classifier.bias",
        "distillation_classifier.weight",
    } <= names


def test_distilled_training_returns_both():
    model = small(DISTILLED)
    x = torch.randn(2, 3, 64, 64)
    assert model(x).shape == (2, 10)
    model.distilled_training = True
    logits, distilled = model(x)
    assert logits.shape == distilled.shape == (2, 10) and not torch.equal(logits, distilled)
    model.eval()
    assert torch.equal(model(x), (logits + distilled) / 2)


@both
def test_reset_classifier(name):
    model = small(name).eval()
    x = torch.randn(2, 3, 64, 64)
    tokens = model.forward_features(x)
    pooled = model.forward_head(tokens, pre_logits=True)
    assert pooled.shape == (2, 48)
    model.reset_classifier(7)
    assert model(x).shape == (2, 7)
    model.reset_classifier(0)
    assert torch.equal(model(x), pooled)
    model.reset_classifier(0, "")
    assert torch.equal(model(x), tokens)
    model.reset_classifier(3, "token")
    assert model(x).shape == (2, 3)
    with pytest.raises(OptionError, match="unknown global_pool 'avg'; valid: token"):
        model.reset_classifier(3, "avg")


def test_new_classifiers():
    model = small(DISTILLED, num_classes=3)
    assert all(isinstance(layer, nn.Linear) for layer in model.get_classifier())
    report = load_weights(model, timms(DISTILLED).state_dict(), new_classifier=True)
    assert set(report.kept) == {"head.weight", "head.bias", "head_dist.weight", "head_dist.bias"}


@both
def test_groups_equal_timm(name):
    upstream, ours = timms(name), small(name)
    got, expected = (group_parameters(model, model.group_matcher()) for model in (ours, upstream))
    assert {key: set(names) for key, names in got.items()} == {key: set(names) for key, names in expected.items()}
    assert ours.no_weight_decay() == upstream.no_weight_decay() & {key for key, _ in ours.named_parameters()}


@both
def test_grad_checkpointing(name):
    gradients = []
    for enable in (False, True):
        model = small(name, drop_path_rate=0.5).train()
        model.set_grad_checkpointing(enable)
        torch.manual_seed(2)
        model(weights.image([2, 3, 64, 64], seed=8)).square().sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.equal(plain, again) for plain, again in zip(*gradients, strict=True))


def test_drop_path_rises_over_the_blocks():
    assert [block.drop_path.rate for block in small(drop_path_rate=0.5).blocks] == [0.0, 0.25, 0.5]
    assert [VARIANTS[name].config.drop_path_rate for name in ("vit_tiny_patch16_224", PLAIN)] == [0.0, 0.1]


@both
def test_pruned(name):
    model = small(name).eval()
    x = torch.randn(1, 3, 64, 64)
    expected = model.forward_intermediates(x, [1], intermediates_only=True)
    assert model.prune_intermediate_layers([1], prune_norm=True) == [1]
    assert torch.equal(model.forward_intermediates(x, 1, intermediates_only=True)[0], expected[0])
    assert model(x).shape == (1, 18 if name == DISTILLED else 17, 48)


@pytest.mark.parametrize("size", [(72, 64), (64, 8), (16, 17)], ids=str)
def test_images_that_patches_do_not_fill(size):
    model = small()
    for call in (model, model.forward_features, model.forward_intermediates):
        with pytest.raises(ShapeError, match=rf"multiples of 16, the patch size, got {size[0]} x {size[1]}; resize"):
            call(torch.zeros(1, 3, *size))
    assert model(torch.zeros(1, 3, 16, 16)).shape == (1, 10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"img_size": 70}, "img_size must be a multiple of patch_size, got 70 and 16"),
        ({"depth": 0}, "depth must be at least 1, got 0"),
        ({"num_heads": 5}, "dim must be a multiple of num_heads"),
        ({"mlp_ratio": 0}, "mlp_ratio must be positive"),
        ({"drop_path_rate": 1.0}, r"drop_path_rate must be in \[0, 1\)"),
    ],
    ids=str,
)
def test_sizes_that_do_not_fit(options, message):
    with pytest.raises(ShapeError, match=message):
        small(**options)


def test_preprocessing():
    assert VARIANTS["vit_base_patch16_224"].preprocessing.mean == (0.5, 0.5, 0.5)
    weights_of = VARIANTS["deit_base_distilled_patch16_384"].weights
    assert [each.preprocessing.crop_pct for each in weights_of.values()] == [0.875, 1.0, 0.875]
    assert {each.preprocessing.image_size for each in weights_of.values()} == {384}

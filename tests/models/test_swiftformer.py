"""SwiftFormer against timm's, and what is particular to it."""

import pytest
import timm
import torch

from golden import weights
from regard.checkpoint import detect_namings
from regard.errors import OptionError, ShapeError
from regard.models import create_model, load_weights
from regard.models.swiftformer.model import ConvBlock

from .networks import assert_same, draw, intermediates


@pytest.fixture
def pair():
    """timm's network under random weights, and regard's, loaded from its state dict."""
    upstream = draw(timm.create_model("swiftformer_xs"), seed=3)
    return upstream, create_model("swiftformer_xs", weights=upstream.state_dict())


@pytest.mark.one_parameter
@pytest.mark.parametrize("training", [False, True], ids=["eval", "training"])
def test_equals_timm(pair, training):
    upstream, ours = (model.train(training) for model in pair)
    assert_same(ours, upstream, weights.image([2, 3, 96, 64], seed=4))


@pytest.mark.exhaustive
def test_features_equal_timm(pair):
    upstream, ours = (model.eval() for model in pair)
    assert_same(ours, upstream, weights.image([1, 3, 64, 64], seed=5), intermediates)


@pytest.mark.parametrize(("name", "count"), [("xs", 316), ("s", 376), ("l1", 388), ("l3", 436)])
def test_authors_names(name, count):
    with torch.device("meta"):
        model = create_model(f"swiftformer_{name}")
    naming = model.namings[0]
    names = {source.name for key in model.state_dict() for source in naming.sources(key)}
    assert len(names) == len(model.state_dict()) == count
    last = model.config.depths[-1] - 1
    assert {
        "patch_embed.0.weight",
        "network.0.0.layer_scale",
        "network.1.proj.weight",
        f"network.6.{last}.attn.Proj.weight",
        f"network.6.{last}.local_representation.layer_scale",
        f"network.6.{last}.layer_scale_1",
        "dist_head.bias",
        "norm.running_var",
    } <= names
    assert detect_namings(dict.fromkeys(names), model)[0].name == "official"
    assert detect_namings(dict.fromkeys(model.state_dict()), model)[0].name == "regard"


def nano(**options):
    torch.manual_seed(0)
    return create_model("swiftformer_nano", num_classes=10, **options)


def test_distilled_training_returns_both():
    model = nano()
    x = torch.randn(2, 3, 16, 16)
    assert model(x).shape == (2, 10)
    model.distilled_training = True
    logits, distilled = model(x)
    assert logits.shape == distilled.shape == (2, 10) and not torch.equal(logits, distilled)
    pooled = model.eval().forward_head(model.forward_features(x), pre_logits=True)
    assert torch.equal(model(x), (model.head(pooled) + model.head_dist(pooled)) / 2)


def test_token_norm_is_an_option():
    x = torch.randn(2, 3, 16, 16)
    logits = [nano(token_norm=norm).eval()(x) for norm in ("l2", "ones", "softmax")]
    assert not torch.equal(logits[0], logits[1]) and not torch.equal(logits[0], logits[2])
    with pytest.raises(OptionError, match="unknown token_norm 'l1'; did you mean 'l2'"):
        nano(token_norm="l1")


def test_training_on_one_value_per_channel():
    model = nano()
    with pytest.raises(ShapeError, match="training needs a batch of at least 2, or images over 4 pixels"):
        model(torch.randn(1, 3, 4, 4))
    assert model(torch.randn(1, 3, 4, 5)).shape == (1, 10)
    assert model.eval()(torch.randn(1, 3, 1, 1)).shape == (1, 10)


def test_misfit_names_the_variant():
    with pytest.raises(ValueError, match=r"does not fit this SwiftFormer in the naming of regard:\n  - \d+ missing"):
        load_weights(nano(), create_model("nat_nano").state_dict())


def test_stem_needs_two_channels():
    with pytest.raises(ShapeError, match="embed_dims must start with at least 2 channels, got 1"):
        nano(embed_dims=(1, 1, 1))


def test_convolutional_blocks_drop_their_branch():
    torch.manual_seed(0)
    block = ConvBlock(4, 8, drop_path_rate=0.9).train()
    x = torch.randn(200, 4, 3, 3)
    kept = (block(x) == x).flatten(1).all(1).sum().item()
    assert abs(kept - 180) <= 5 * (200 * 0.9 * 0.1) ** 0.5
    assert not (block.eval()(x) == x).flatten(1).all(1).any()


def test_convolutional_blocks_have_their_rates():
    rates = [stage.blocks[0].drop_path.rate for stage in nano(drop_path_rate=0.5).stages]
    assert rates == pytest.approx([0.0, 0.2, 0.4])  # blocks 0, 2 and 4 of 6

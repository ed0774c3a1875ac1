"""MobileViTv2 against timm's and Hugging Face's, and what is particular to it."""

import copy

import pytest
import timm
import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

from budget import assert_definition, assert_within_budget
from golden import weights
from regard.checkpoint import detect_namings, export_state
from regard.errors import OptionError, ShapeError
from regard.models import MODELS, create_model, list_models, load_weights
from regard.models.mobilevitv2.model import AttentionBlock, GridNorm
from regard.models.mobilevitv2.variants import MobileVitV2Config, round_channels

from .networks import assert_same, draw, everything, logits, truth_of

NAMES = [f"mobilevitv2_{width}" for width in ("050", "075", "100", "125", "150", "175", "200")]


def build_timm(name="mobilevitv2_050"):
    return timm.create_model(name)


def build_hf(name="mobilevitv2_050"):
    config = transformers.MobileViTV2Config(width_multiplier=MODELS[name].config.width, num_labels=1000)
    return transformers.MobileViTV2ForImageClassification(config)


@pytest.fixture(scope="module")
def pair():
    """timm's network under random weights, and regard's, loaded from its state dict."""
    upstream = draw(build_timm(), seed=3)
    return create_model("mobilevitv2_050", weights=upstream.state_dict()).eval(), upstream


@pytest.mark.one_parameter
@pytest.mark.parametrize(
    ("naming", "build", "size"),
    [
        ("timm", build_timm, (96, 96)),
        ("timm", build_timm, (80, 80)),
        ("timm", build_timm, (33, 65)),
        ("hf", build_hf, (64, 64)),
    ],
)
def test_exchange(naming, build, size):
    upstream, again = draw(build(), seed=3), draw(build(), seed=5)
    ours = create_model("mobilevitv2_050", weights=upstream.state_dict()).eval()
    again.load_state_dict(export_state(ours, naming))
    x = weights.image([2, 3, *size], seed=4)
    expected = truth_of(ours, x, draws=4)
    with torch.no_grad():
        for network in (upstream, again, ours):
            assert_within_budget(logits(network, x), expected)


@pytest.mark.parametrize(
    "size", [(33, 65), *(pytest.param(s, marks=pytest.mark.exhaustive) for s in ((64, 64), (17, 100), (1, 1)))], ids=str
)
def test_equals_timm(pair, size):
    assert_same(*pair, weights.image([2, 3, *size], seed=5), everything)


@pytest.mark.exhaustive
def test_training_equals_timm():
    upstream = draw(build_timm(), seed=3).train()
    ours = create_model("mobilevitv2_050", weights=upstream.state_dict()).train()
    assert_same(ours, upstream, weights.image([2, 3, 96, 64], seed=6), with_statistics)


def with_statistics(network, x):
    """The logits in training, and the running statistics after it."""
    network = copy.deepcopy(network)
    out = network(x)
    statistics = (buffer for name, buffer in network.named_buffers() if name.endswith(("mean", "var")))
    return (out, *statistics)


@pytest.mark.parametrize("name", [NAMES[0], *(pytest.param(name, marks=pytest.mark.exhaustive) for name in NAMES[1:])])
def test_sizes_are_as_published(name):
    """The published multiplications count the norms too: 2 for each value of a batch norm, 5 of a group norm."""
    with torch.device("meta"):
        model = create_model(name).eval()
        upstream = [("timm", build_timm(name)), ("hf", build_hf(name))]
    for naming, network in upstream:
        shapes = {key: tensor.shape for key, tensor in export_state(model, naming).items()}
        assert shapes == {key: tensor.shape for key, tensor in network.state_dict().items()}
    assert sum(parameter.numel() for parameter in model.parameters()) == MODELS[name].parameters
    costs = {torch.nn.BatchNorm2d: 2, GridNorm: 5}
    norms = []
    for module in model.modules():
        if type(module) in costs:
            module.register_forward_hook(lambda module, _, out: norms.append(costs[type(module)] * out.numel()))
    with FlopCounterMode(display=False) as counter:
        model(torch.empty(1, 3, 256, 256, device="meta"))
    dense = counter.get_total_flops() / 2
    assert (dense + sum(norms)) / 1e9 == pytest.approx(MODELS[name].gmacs, rel=0.01)
    with FlopCounterMode(display=False) as counter:
        upstream[0][1].eval()(torch.empty(1, 3, 256, 256, device="meta"))
    assert dense == pytest.approx(counter.get_total_flops() / 2, rel=0.01)  # regard's products have even widths


def test_weights():
    assert list_models("mobilevitv2_*") == NAMES
    found = MODELS["mobilevitv2_175"].weights
    assert list(found) == [
        *("official", "official_384", "timm", "hf"),
        *("official_in22k", "timm_in22k", "official_in22k_384", "timm_in22k_384"),
    ]
    assert found["official"].source.endswith("/mobilevitv2/imagenet1k/256x256/mobilevitv2-1.75.pt")
    assert found["official_in22k_384"].source.endswith("/imagenet21k_to_1k/384x384/mobilevitv2-1.75.pt")
    assert found["timm_in22k_384"].source == "hf://timm/mobilevitv2_175.cvnets_in22k_ft_in1k_384"
    assert MODELS["mobilevitv2_050"].weights["timm"].source == "hf://timm/mobilevitv2_050.cvnets_in1k"
    assert MODELS["mobilevitv2_200"].weights["hf"].source == "hf://apple/mobilevitv2-2.0-imagenet1k-256"
    assert "official_in22k" not in MODELS["mobilevitv2_125"].weights
    for word, weight in found.items():
        preprocessing = weight.preprocessing
        size, resized = (384, 384) if word.endswith("384") else (256, 288)
        assert preprocessing.image_size == size and int(size / preprocessing.crop_pct) == resized
        assert preprocessing.mean == (0, 0, 0) and preprocessing.std == (1, 1, 1)


@pytest.mark.parametrize(("depths", "count"), [((2, 4, 3), 269), ((1, 2, 1), 209)])
def test_authors_names(depths, count):
    with torch.device("meta"):
        model = create_model("mobilevitv2_050", depths=depths)
    state = export_state(model, "official")
    assert len(state) == len(model.state_dict()) == count
    last = depths[1]
    assert {
        "conv_1.block.conv.weight",
        "conv_1.block.norm.running_var",
        "layer_1.0.block.exp_1x1.block.conv.weight",
        "layer_2.1.block.red_1x1.block.norm.bias",
        "layer_3.0.block.conv_3x3.block.conv.weight",
        "layer_4.1.local_rep.0.block.conv.weight",
        "layer_4.1.local_rep.0.block.norm.weight",
        "layer_4.1.local_rep.1.block.conv.weight",
        f"layer_4.1.global_rep.{last - 1}.pre_norm_attn.0.weight",
        f"layer_4.1.global_rep.{last - 1}.pre_norm_attn.1.qkv_proj.block.conv.bias",
        f"layer_4.1.global_rep.{last - 1}.pre_norm_attn.1.out_proj.block.conv.weight",
        f"layer_4.1.global_rep.{last - 1}.pre_norm_ffn.0.bias",
        f"layer_4.1.global_rep.{last - 1}.pre_norm_ffn.1.block.conv.weight",
        f"layer_4.1.global_rep.{last - 1}.pre_norm_ffn.3.block.conv.weight",
        f"layer_4.1.global_rep.{last}.weight",
        "layer_5.1.conv_proj.block.conv.weight",
        "layer_5.1.conv_proj.block.norm.num_batches_tracked",
        "classifier.1.weight",
    } <= set(state)
    assert state["layer_4.1.global_rep.0.pre_norm_attn.1.qkv_proj.block.conv.weight"].shape == (193, 96, 1, 1)
    assert detect_namings(state, model)[0].name == "official"


def test_authors_names_round_trip():
    ours, again = (draw(create_model("mobilevitv2_050", num_classes=10), seed) for seed in (1, 2))
    assert load_weights(again, export_state(ours, "official")).naming == "official"
    x = weights.image([1, 3, 64, 64], seed=3)
    with torch.no_grad():
        assert torch.equal(again(x), ours(x))


def test_grids_are_enlarged():
    with torch.device("meta"):
        model = create_model("mobilevitv2_050", patch_size=3).eval()
    features = model.forward_intermediates(torch.empty(1, 3, 96, 65, device="meta"), intermediates_only=True)
    assert [tuple(each.shape[2:]) for each in features] == [(48, 33), (24, 17), (12, 9), (6, 6), (3, 3)]


def test_one_memory_layout():
    block = AttentionBlock(MobileVitV2Config(0.5), 0, drop_path_rate=0.0).eval()
    x = torch.randn(2, 128, 8, 6).contiguous(memory_format=torch.channels_last)
    tensors = []
    for module in block.modules():
        if not list(module.children()):
            module.register_forward_hook(lambda _, inputs, out: tensors.extend((inputs[0], out)))
    block(x)
    assert tensors
    for tensor in tensors:
        assert tensor.stride()[1 if tensor.shape[1] in (64, 128) else -1] == 1


def test_grid_norm():
    norm, x = GridNorm(4).double(), torch.randn(2, 3, 5, 4, dtype=torch.float64)
    with torch.no_grad():
        norm.weight.uniform_()
        norm.bias.normal_()
        centered = x - x.mean((1, 2, 3), keepdim=True)
        expected = centered / (centered.square().mean((1, 2, 3), keepdim=True) + 1e-5).sqrt() * norm.weight + norm.bias
        assert_definition(norm, x, exact=expected)


def test_stochastic_depth_rises():
    with torch.device("meta"):
        model = create_model("mobilevitv2_050", drop_path_rate=0.8)
    assert model.stages[1][1].drop_path.rate == pytest.approx(0.2)
    rates = [[unit.drop_path.rate for unit in stage[1].transformer] for stage in model.stages[2:]]
    assert rates == [pytest.approx([0.4] * 2), pytest.approx([0.6] * 4), pytest.approx([0.8] * 3)]


@pytest.mark.parametrize("channels", [7, 8, 35, 37, 100, 336])
@pytest.mark.parametrize("divisor", [8, 16])
def test_round_channels(channels, divisor):
    rounded = round_channels(channels, divisor)
    assert rounded % divisor == 0 and rounded >= 0.9 * channels and rounded - channels < divisor


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        ({"depths": (2, 4)}, ShapeError, r"depths must hold 3 numbers, got depths=\(2, 4\)"),
        ({"width": 0}, ShapeError, "width must be positive, got 0"),
        ({"mlp_ratio": -1.0}, ShapeError, "mlp_ratio must be positive"),
        ({"expand_ratio": 0.0}, ShapeError, "expand_ratio must be positive"),
        ({"patch_size": 0}, ShapeError, "patch_size must be at least 1, got 0"),
        ({"patch_size": 2.0}, OptionError, "patch_size must be a whole number"),
        ({"drop_path_rate": 1.0}, ShapeError, r"drop_path_rate must be in \[0, 1\)"),
    ],
    ids=str,
)
def test_bad_configurations(overrides, error, message):
    with pytest.raises(error, match=message):
        create_model("mobilevitv2_050", **overrides)


def test_training_on_one_value_per_channel():
    model = create_model("mobilevitv2_050", num_classes=10)
    with pytest.raises(ShapeError, match="training needs a batch of at least 2, or images over 32 pixels"):
        model(torch.randn(1, 3, 32, 32))
    assert model(torch.randn(1, 3, 32, 33)).shape == (1, 10)
    assert model.eval()(torch.randn(1, 3, 1, 1)).shape == (1, 10)
    assert model(torch.randn(0, 3, 33, 33)).shape == (0, 10)


def test_layers_in_order():
    model = create_model("mobilevitv2_050", num_classes=10)
    groups = timm.models.group_parameters(model, model.group_matcher(), reverse=True)
    assert groups["stem.conv.weight"] == 0
    assert groups["stages.0.0.conv1_1x1.conv.weight"] == 1
    assert groups["stages.4.1.transformer.2.attn.qkv_proj.weight"] == 9 == groups["stages.4.1.norm.weight"]
    assert groups["head.weight"] == 10

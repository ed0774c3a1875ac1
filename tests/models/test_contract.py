"""One contract for all models: sizes and names are frozen, and the surface is the same whatever the family."""

import copy
import math
import zlib

import pytest
import torch
from timm.models import group_parameters
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from budget import assert_within_budget
from regard.attention import set_backend
from regard.errors import CheckpointError, OptionError, ShapeError
from regard.models import MODELS, create_model, list_models, load_weights, save_weights

# tensors of the state dict, checksum of their names and shapes
FROZEN = {
    "swiftformer_nano": (169, "8c3c7b0a"),
    "swiftformer_xs": (316, "197d133e"),
    "swiftformer_s": (376, "b222f54f"),
    "swiftformer_l1": (388, "2669cdd4"),
    "swiftformer_l3": (436, "7f79ee23"),
    "mobilevitv2_050": (269, "1127334e"),
    "mobilevitv2_075": (269, "315530e5"),
    "mobilevitv2_100": (269, "21a3addd"),
    "mobilevitv2_125": (269, "4896d63b"),
    "mobilevitv2_150": (269, "ea55c6bd"),
    "mobilevitv2_175": (269, "9e26b9a0"),
    "mobilevitv2_200": (269, "d26e2039"),
    "nat_nano": (94, "5cc15f3e"),
    "nat_mini": (253, "ca6c8def"),
    "nat_tiny": (409, "010a6d19"),
    "nat_small": (469, "d20464fc"),
    "nat_base": (469, "1732d438"),
    "dinat_mini": (253, "ca6c8def"),
    "dinat_tiny": (409, "010a6d19"),
    "dinat_small": (409, "52385e14"),
    "dinat_base": (469, "1732d438"),
    "dinat_large": (409, "d3f5011b"),
    "dinat_large_384": (409, "d3f5011b"),
    "dinat_large_384_11x11": (409, "8cbabc08"),
    "dinat_large_21k": (409, "c63cf1c1"),
    "dinat_large_21k_11x11": (409, "1203202d"),
    "dinat_s_tiny": (173, "8c30cb66"),
    "dinat_s_small": (329, "226262be"),
    "dinat_s_base": (329, "1f0a2e21"),
    "dinat_s_large": (329, "48187b4d"),
    "dinat_s_large_384": (329, "48187b4d"),
    "nat_isotropic_small": (164, "378da796"),
    "nat_isotropic_base": (164, "10f0ee50"),
    "dinat_isotropic_small": (164, "378da796"),
    "dinat_isotropic_base": (164, "10f0ee50"),
    "vitrpb_small": (164, "1d4d9453"),
    "vitrpb_base": (164, "3a30dd95"),
    "swin_tiny_patch4_window7_224": (173, "22551520"),
    "swin_small_patch4_window7_224": (329, "498e2f53"),
    "swin_base_patch4_window7_224": (329, "07268881"),
    "swin_base_patch4_window12_384": (329, "ec5ee92f"),
    "swin_large_patch4_window7_224": (329, "867e9daf"),
    "swin_large_patch4_window12_384": (329, "d88fa115"),
    "vit_tiny_patch16_224": (152, "a0093b39"),
    "vit_small_patch16_224": (152, "f7f4bd77"),
    "vit_base_patch16_224": (152, "bfb0c60e"),
    "deit_tiny_patch16_224": (152, "a0093b39"),
    "deit_small_patch16_224": (152, "f7f4bd77"),
    "deit_base_patch16_224": (152, "bfb0c60e"),
    "deit_base_patch16_384": (152, "819213f4"),
    "deit_tiny_distilled_patch16_224": (155, "25a66783"),
    "deit_small_distilled_patch16_224": (155, "30115a18"),
    "deit_base_distilled_patch16_224": (155, "5387b2c5"),
    "deit_base_distilled_patch16_384": (155, "dad9ee43"),
    "cait_xxs24_224": (476, "c3686bc8"),
    "cait_xxs24_384": (476, "2454dc83"),
    "cait_xxs36_224": (692, "d50c8556"),
    "cait_xxs36_384": (692, "33895dbb"),
    "cait_xs24_384": (476, "6831203c"),
    "cait_s24_224": (476, "00906c74"),
    "cait_s24_384": (476, "c46993b1"),
    "cait_s36_384": (692, "db0ab2c3"),
    "cait_m36_384": (692, "ef030b7c"),
    "cait_m48_448": (908, "04ae0245"),
}
# checksums of what was published
FIGURES = {
    "swiftformer_nano": "c32aafe2",
    "swiftformer_xs": "aeedb3fd",
    "swiftformer_s": "3c4df436",
    "swiftformer_l1": "321b5ca5",
    "swiftformer_l3": "9787f2b1",
    "mobilevitv2_050": "2ffe753c",
    "mobilevitv2_075": "f3aa18ba",
    "mobilevitv2_100": "636d8724",
    "mobilevitv2_125": "922ac255",
    "mobilevitv2_150": "2fe37c99",
    "mobilevitv2_175": "76c47a5a",
    "mobilevitv2_200": "01e027f1",
    "nat_nano": "d257c59b",
    "nat_mini": "39dcc628",
    "nat_tiny": "bfd560ad",
    "nat_small": "85b56344",
    "nat_base": "107b5a10",
    "dinat_mini": "98bd030e",
    "dinat_tiny": "37b24d8e",
    "dinat_small": "fc3c368a",
    "dinat_base": "fd26454e",
    "dinat_large": "2b79a243",
    "dinat_large_384": "5894b075",
    "dinat_large_384_11x11": "0f08cc34",
    "dinat_large_21k": "800043d4",
    "dinat_large_21k_11x11": "ddc70525",
    "dinat_s_tiny": "daf1c97c",
    "dinat_s_small": "3da72e05",
    "dinat_s_base": "f5602daf",
    "dinat_s_large": "894e955c",
    "dinat_s_large_384": "d3df11d8",
    "nat_isotropic_small": "245d4003",
    "nat_isotropic_base": "9340afac",
    "dinat_isotropic_small": "90cf349a",
    "dinat_isotropic_base": "ea6d88d6",
    "vitrpb_small": "c5ce3d13",
    "vitrpb_base": "90a38dfb",
    "swin_tiny_patch4_window7_224": "5a450657",
    "swin_small_patch4_window7_224": "51f280ae",
    "swin_base_patch4_window7_224": "8e743554",
    "swin_base_patch4_window12_384": "8441b77b",
    "swin_large_patch4_window7_224": "a79f1c81",
    "swin_large_patch4_window12_384": "27908685",
    "vit_tiny_patch16_224": "7b0accc0",
    "vit_small_patch16_224": "45d6e106",
    "vit_base_patch16_224": "ffd669a1",
    "deit_tiny_patch16_224": "3553eb46",
    "deit_small_patch16_224": "89af1b2d",
    "deit_base_patch16_224": "caf5aac3",
    "deit_base_patch16_384": "ecb89da7",
    "deit_tiny_distilled_patch16_224": "53a5af6c",
    "deit_small_distilled_patch16_224": "b1db4882",
    "deit_base_distilled_patch16_224": "6283b612",
    "deit_base_distilled_patch16_384": "1cf46d2c",
    "cait_xxs24_224": "18095dff",
    "cait_xxs24_384": "0e363c33",
    "cait_xxs36_224": "5f0d18ba",
    "cait_xxs36_384": "2a049e18",
    "cait_xs24_384": "324bfd19",
    "cait_s24_224": "e63cfdf6",
    "cait_s24_384": "a7c9598c",
    "cait_s36_384": "7f7486d3",
    "cait_m36_384": "8700622b",
    "cait_m48_448": "36d969bf",
}
# every family, small: a model and what makes it small
SMALL = {
    "swiftformer_nano": {},
    "nat_nano": {},
    "dinat_s_tiny": {
        "embed_dim": 16,
        "depths": (2, 2, 2),
        "num_heads": (1, 2, 4),
        "kernel_size": 3,
        "dilations": (2, 1, 1),
        "patch_size": 2,
    },
    "nat_isotropic_small": {
        "embed_dim": 32,
        "depth": 3,
        "num_heads": 2,
        "kernel_size": 3,
        "dilation": 2,
        "patch_size": 4,
    },
    "swin_tiny_patch4_window7_224": {
        "embed_dim": 16,
        "depths": (2, 2, 2),
        "num_heads": (1, 2, 4),
        "window_size": 3,
        "img_size": 24,
        "patch_size": 2,
    },
    "deit_tiny_distilled_patch16_224": {"embed_dim": 32, "depth": 3, "num_heads": 2, "img_size": 16, "patch_size": 4},
    "cait_xxs24_224": {"embed_dim": 32, "depth": 3, "num_heads": 2, "img_size": 16, "patch_size": 4},
    "mobilevitv2_050": {"depths": (1, 1, 1)},
}
PYRAMIDS = ["swiftformer_nano", "nat_nano"]
SIZES = [(16, 16), (33, 33), (64, 64), (16, 40)]


def sizes():
    """Every family and every size, except those that are no whole patches where these are asked for."""
    whole = ("deit", "cait")
    return [(name, size) for name in SMALL for size in SIZES if not (name.startswith(whole) and size[0] % 4)]


def on_meta(name, **options):
    with torch.device("meta"):
        return create_model(name, **options)


def small(name, **options):
    torch.manual_seed(0)
    return create_model(name, **{"num_classes": 10} | SMALL[name] | options)


def images(*size, batch=2):
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(1))


def test_every_model_is_frozen():
    assert list(MODELS) == list(FROZEN)


@pytest.mark.parametrize("name", MODELS)
def test_parameters_and_names(name):
    model = on_meta(name)
    state = model.state_dict()
    names = "\n".join(f"{key} {list(tensor.shape)}" for key, tensor in state.items())
    assert (len(state), f"{zlib.crc32(names.encode()):08x}") == FROZEN[name]
    assert sum(parameter.numel() for parameter in model.parameters()) == MODELS[name].parameters


@pytest.mark.parametrize("name", [name for name in MODELS if not name.startswith("mobilevitv2")])
def test_multiplications(name):
    """The published figures are given to two or three digits; those of MobileViTv2 count norms, see its own test."""
    size = MODELS[name].image_size
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        on_meta(name).eval()(torch.empty(1, 3, size, size, device="meta"))
    published = MODELS[name].gmacs
    last_digit = 10.0 ** -len(f"{published}".partition(".")[2])
    assert abs(counter.get_total_flops() / 2e9 - published) <= max(0.01 * published, last_digit / 2)


@pytest.mark.parametrize("name", MODELS)
def test_shapes(name):
    model = on_meta(name).eval()
    x = images(64, 128).to("meta")
    features, pyramid = model.forward_intermediates(x)
    for stage, info in zip(pyramid, model.feature_info, strict=True):
        assert stage.shape == (2, info["num_chs"], 64 // info["reduction"], 128 // info["reduction"])
        assert isinstance(model.get_submodule(info["module"]), nn.Module)
    assert features.shape == model.forward_features(x).shape
    assert model.forward_head(features).shape == (2, MODELS[name].num_classes)
    assert model.get_submodule(model.first_conv).weight.shape[1] == 3


def test_published_figures_are_frozen():
    """Sources, accuracies, licenses and preprocessing, as they were compared with the authors' pages."""
    frozen = {
        name: f"{zlib.crc32(repr((v.gmacs, v.image_size, v.num_classes, sorted(v.weights.items()))).encode()):08x}"
        for name, v in MODELS.items()
    }
    assert frozen == FIGURES


@pytest.mark.parametrize("name", MODELS)
def test_published_weights(name):
    variant = MODELS[name]
    for word, weights in variant.weights.items():
        assert word.split("_")[0] in ("official", "timm", "hf")
        assert weights.source.startswith(("https://", "hf://", "drive://")) and weights.license
        assert weights.top1 is None or 60 < weights.top1 < 90
        assert weights.preprocessing.image_size in (224, 256, 384, 448)
    assert name.endswith("_nano") or variant.weights
    assert on_meta(name).num_classes == variant.num_classes
    assert variant.preprocessing.image_size == variant.image_size


@pytest.mark.parametrize("name", SMALL)
def test_small_models_are_small(name):
    assert sum(parameter.numel() for parameter in small(name).parameters()) < 1_000_000


@pytest.mark.parametrize(("name", "size"), sizes(), ids=str)
def test_forward_and_backward(name, size):
    model = small(name)
    logits = model(images(*size))
    assert logits.shape == (2, 10)
    logits.square().sum().backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key


@pytest.mark.parametrize(("name", "size"), sizes(), ids=str)
def test_images_do_not_see_each_other(name, size):
    model = small(name).eval()
    x = images(*size)
    with torch.no_grad():
        exact = copy.deepcopy(model).double()(x.double())
        assert_within_budget(torch.cat([model(x[:1]), model(x[1:])]), plain=model(x), exact=exact)
        assert model(x[:0]).shape == (0, 10)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", SMALL)
def test_dtypes(name, dtype):
    logits = small(name).to(dtype).eval()(images(16, 16).to(dtype))
    assert logits.dtype == dtype and logits.isfinite().all()


@pytest.mark.parametrize("name", SMALL)
def test_memory_layout_does_not_matter(name):
    model = small(name).eval()
    x = images(16, 16)
    with torch.no_grad():
        assert torch.equal(model(x), model(x.contiguous(memory_format=torch.channels_last)))


@pytest.mark.parametrize("name", SMALL)
def test_export_with_a_dynamic_batch(name):
    model = small(name).eval()
    batch = torch.export.Dim("batch", min=2, max=8)
    program = torch.export.export(model, (images(16, 16, batch=3),), dynamic_shapes=({0: batch},))
    assert program.module()(images(16, 16, batch=5)).shape == (5, 10)


@pytest.mark.parametrize("wrap", [lambda m: torch.compile(m, backend="eager"), nn.DataParallel], ids=["compiled", "dp"])
@pytest.mark.parametrize("name", SMALL)
def test_wrapped_models_are_saved_and_loaded(name, wrap, tmp_path):
    model, other = small(name), small(name)
    nn.init.constant_(model.head.bias, 3.0)
    save_weights(wrap(model), tmp_path / "model.safetensors", naming="official")
    load_weights(wrap(other), tmp_path / "model.safetensors")
    assert all(torch.equal(tensor, other.state_dict()[key]) for key, tensor in model.state_dict().items())


@pytest.mark.parametrize("name", SMALL)
def test_grad_checkpointing(name):
    gradients = []
    for enable in (False, True):
        model = small(name, drop_path_rate=0.5).train()
        model.set_grad_checkpointing(enable)
        torch.manual_seed(2)
        model(images(16, 16)).square().sum().backward()
        gradients.append({key: parameter.grad for key, parameter in model.named_parameters()} | model.state_dict())
    plain, recomputed = gradients
    for key, tensor in plain.items():
        assert torch.equal(tensor, recomputed[key]), key


@pytest.mark.parametrize("name", SMALL)
def test_compile(name):
    torch.compiler.reset()
    model = small(name).eval()
    x = images(16, 16)
    with torch.no_grad():
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager", dynamic=False)(x)
        assert_within_budget(compiled, plain=model(x), exact=copy.deepcopy(model).double()(x.double()))


@pytest.mark.parametrize("name", SMALL)
def test_intermediates(name):
    model = small(name).eval()
    x = images(16, 16)
    last = len(model.feature_info) - 1
    with torch.no_grad():
        features, every = model.forward_intermediates(x)
        assert torch.equal(features, model.forward_features(x))
        wanted = ((1, [last]), (2, [last - 1, last]), ([0, -1], [0, last]), ((2, 0), [0, 2]), ([], []))
        for indices, expected in wanted:
            for options in ({}, {"stop_early": True}):
                got = model.forward_intermediates(x, indices, intermediates_only=True, **options)
                assert len(got) == len(expected)
                assert all(torch.equal(stage, every[index]) for stage, index in zip(got, expected, strict=True))
        normed = model.forward_intermediates(x, [0, last], norm=True, intermediates_only=True)
        assert normed[-1].shape == every[last].shape
        assert torch.equal(normed[-1], every[last]) == (not hasattr(model, "norm"))
    for indices in ([last + 1], [-last - 2], last + 2, 0, -1, [1.5]):
        with pytest.raises(ShapeError, match=f"indices must name some of the {last + 1} stages"):
            model.forward_intermediates(x, indices)
    with pytest.raises(OptionError, match="unknown output_fmt 'NHWC'"):
        model.forward_intermediates(x, output_fmt="NHWC")


@pytest.mark.parametrize("name", SMALL)
def test_prune_intermediate_layers(name):
    model = small(name).eval()
    x = images(16, 16)
    with torch.no_grad():
        expected = model.forward_intermediates(x, [0, 1], intermediates_only=True)
        assert model.prune_intermediate_layers([0, 1], prune_norm=True) == [0, 1]
        got = model.forward_intermediates(x, [0, 1], intermediates_only=True)
    assert all(torch.equal(one, other) for one, other in zip(got, expected, strict=True))
    assert len(model.feature_info) == 2 and model.num_features == model.feature_info[-1]["num_chs"]
    for indices in ([], 0):
        with pytest.raises(ShapeError, match="indices must name"):
            model.prune_intermediate_layers(indices)


@pytest.mark.parametrize("name", SMALL)
def test_pruning_keeps_a_norm_that_fits(name):
    """Blocks of one width can be normed wherever they are; a narrower stage cannot."""
    model = small(name).eval()
    x = images(16, 16)
    with torch.no_grad():
        expected = model.forward_intermediates(x, [1], norm=True, intermediates_only=True)
        model.prune_intermediate_layers([1])
        got = model.forward_intermediates(x, [1], norm=True, intermediates_only=True)
    assert torch.equal(got[0], expected[0])


@pytest.mark.parametrize("name", SMALL)
def test_layer_groups(name):
    """timm's decay by layer gives every parameter a place, from the images to the logits."""
    model = small(name)
    for coarse in (False, True):
        groups = group_parameters(model, model.group_matcher(coarse), reverse=True)
        assert set(groups) == {key for key, _ in model.named_parameters()}
        assert groups[f"{model.first_conv}.weight"] == 0
        last = max(groups.values())
        assert groups["head.weight"] == last and last >= len(model.feature_info)
        places = [groups[key] for key in groups if key.startswith(f"{model.stage_list}.") and key.endswith(".weight")]
        assert places == sorted(places)


@pytest.mark.parametrize("name", SMALL)
def test_reset_classifier(name):
    model = small(name).eval().double()
    classifier = model.get_classifier()
    assert all(
        isinstance(layer, nn.Linear) for layer in (classifier if isinstance(classifier, tuple) else [classifier])
    )
    x = images(16, 16).double()
    features = model.forward_head(model.forward_features(x), pre_logits=True)
    model.reset_classifier(7)
    assert model(x).shape == (2, 7) and model.num_classes == 7
    model.reset_classifier(0)
    assert torch.equal(model(x), features)
    model.reset_classifier(0, "")
    assert torch.equal(model(x), model.forward_features(x))
    model.reset_classifier(7, model.pooling)
    assert model(x).shape == (2, 7)
    with pytest.raises(OptionError, match="unknown global_pool 'max'"):
        model.reset_classifier(7, "max")
    with pytest.raises(ShapeError, match="a classifier needs pooled features"):
        model.reset_classifier(7, "")
    model.reset_classifier(0, "")
    model.reset_classifier(7)  # a classifier after all
    assert model(x).shape == (2, 7)
    with pytest.raises(TypeError, match=r"num_classes must be a whole number, got 2\.5"):
        model.reset_classifier(2.5)
    assert model.num_classes == 7
    with pytest.raises(ShapeError, match="num_classes must be at least 0"):
        model.reset_classifier(-1)


@pytest.mark.parametrize("name", SMALL)
def test_round_trip(name, tmp_path):
    model = small(name).eval()
    model(images(16, 16))
    save_weights(model, tmp_path / "model.safetensors")
    again = small(name, weights=tmp_path / "model.safetensors").eval()
    assert torch.equal(model(images(16, 16)), again(images(16, 16)))


@pytest.mark.parametrize("name", SMALL)
def test_another_class_count_does_not_load(name):
    model = small(name)
    with pytest.raises(CheckpointError, match=r"head\.weight \(expected \[10, \d+\], got \[5, \d+\]\)"):
        load_weights(model, small(name, num_classes=5).state_dict())


@pytest.mark.parametrize("name", SMALL)
def test_weight_decay_names_exist(name):
    model = small(name)
    assert model.no_weight_decay() <= {key for key, _ in model.named_parameters()}


@pytest.mark.parametrize("name", SMALL)
def test_channels(name):
    assert small(name, in_chans=1).eval()(images(16, 16)[:, :1]).shape == (2, 10)
    with pytest.raises(ShapeError, match="in_chans must be at least 1"):
        small(name, in_chans=0)


@pytest.mark.parametrize(
    "x",
    [torch.zeros(3, 16, 16), torch.zeros(1, 16, 16, 3), torch.zeros(1, 1, 16, 16), torch.zeros(1, 3, 0, 16)],
    ids=["no_batch", "channels_last", "gray", "empty"],
)
@pytest.mark.parametrize("name", SMALL)
def test_bad_images(name, x):
    model = small(name)
    for call in (model, model.forward_features, model.forward_intermediates):
        with pytest.raises(ShapeError, match=r"images must be \[B, 3, H, W\] and not empty, got \["):
            call(x)


@pytest.mark.parametrize("name", SMALL)
def test_integer_images(name):
    with pytest.raises(TypeError, match=r"images must be floating-point, got torch\.uint8"):
        small(name)(torch.zeros(1, 3, 16, 16, dtype=torch.uint8))


@pytest.mark.parametrize("name", SMALL)
def test_images_unlike_the_weights(name):
    model = small(name)
    x = images(16, 16)
    with pytest.raises(TypeError, match=r"images must be a tensor, got list"):
        model(x.tolist())
    with pytest.raises(TypeError, match=r"model's dtype torch\.float32, got torch\.float64; convert one with"):
        model(x.double())
    with pytest.raises(TypeError, match=r"model's device cpu, got meta; move one with"):
        model(x.to("meta"))
    with torch.autocast("cpu", torch.bfloat16):
        assert model(x.bfloat16()).isfinite().all()


@pytest.mark.parametrize("value", ["x", math.nan, math.inf, True, (1.0,)], ids=str)
@pytest.mark.parametrize("field", ["mlp_ratio", "layer_scale", "drop_path_rate"])
@pytest.mark.parametrize("name", PYRAMIDS)
def test_fields_that_are_no_numbers(name, field, value):
    with pytest.raises(OptionError, match=f"{field} must be a finite number"):
        small(name, **{field: value})


@pytest.mark.parametrize("name", PYRAMIDS)
def test_bad_overrides(name):
    with pytest.raises(OptionError, match=f"unknown option of {name} 'drop_path'; did you mean 'drop_path_rate'"):
        small(name, drop_path=0.1)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"depths": (1, 1)}, r"one number per stage each; change them together, got .*depths=\(1, 1\)"),
        ({"depths": (1, 0, 1)}, r"whole numbers of at least 1, got .*depths=\(1, 0, 1\)"),
        ({"depths": (1, 1.5, 1)}, "whole numbers of at least 1"),
        ({"depths": 2}, "must be tuples of whole numbers, got .*depths=2"),
        ({"depths": ()}, "must be tuples of whole numbers"),
        ({"stem_strides": (2,)}, r"stem_strides must hold 2 numbers, got stem_strides=\(2,\)"),
        ({"mlp_ratio": 0}, "mlp_ratio must be positive, got 0"),
        ({"depths": (1, True, 1)}, "whole numbers of at least 1"),
        ({"stem_strides": (1, 1, 1)}, "stem_strides must hold 2 numbers"),
        ({"mlp_ratio": -1}, "mlp_ratio must be positive, got -1"),
        ({"drop_path_rate": 1.0}, r"drop_path_rate must be in \[0, 1\), got 1.0"),
        ({"drop_path_rate": -0.5}, r"drop_path_rate must be in \[0, 1\), got -0.5"),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", PYRAMIDS)
def test_sizes_that_do_not_fit(name, overrides, message):
    with pytest.raises(ShapeError, match=message):
        small(name, **overrides)


@pytest.mark.parametrize("name", SMALL)
def test_set_backend(name):
    model = small(name)
    modules = [module for module in model.modules() if hasattr(module, "backend")]
    assert len(modules) >= 3 and all(module.backend is None for module in modules)
    set_backend(model, "reference")
    assert all(module.backend == "reference" for module in modules)
    with pytest.raises(OptionError, match="unknown backend 'fusd'; did you mean 'fused'"):
        set_backend(model, "fusd")


def test_unknown_model():
    with pytest.raises(OptionError, match="unknown model 'swiftformer_xl'; did you mean 'swiftformer_"):
        create_model("swiftformer_xl")


def test_list_models():
    assert list_models() == list(MODELS)
    assert list_models("nat_?????") == ["nat_small"]
    assert list_models("nat_????") == ["nat_nano", "nat_mini", "nat_tiny", "nat_base"]
    assert list_models("resnet*") == []

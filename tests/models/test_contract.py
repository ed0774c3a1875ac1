"""One contract for all models: sizes and names are frozen, and the surface is the same whatever the family."""

import copy
import math
import zlib

import pytest
import torch
from torch import nn

from budget import assert_within_budget
from regard.attention import set_backend
from regard.errors import CheckpointError, OptionError, ShapeError
from regard.models import MODELS, create_model, list_models, load_weights, save_weights

# parameters, tensors of the state dict, checksum of their names and shapes
FROZEN = {
    "swiftformer_nano": (839_792, 169, 0x8C3C7B0A),
    "swiftformer_xs": (3_475_360, 316, 0x197D133E),
    "swiftformer_s": (6_092_128, 376, 0xB222F54F),
    "swiftformer_l1": (12_057_920, 388, 0x2669CDD4),
    "swiftformer_l3": (28_494_736, 436, 0x7F79EE23),
    "nat_nano": (576_644, 94, 0x83AD6027),
    "nat_mini": (19_984_174, 253, 0x9AE369F9),
    "nat_tiny": (27_901_582, 409, 0x94BB28B1),
    "nat_small": (50_743_297, 469, 0xEC83EC91),
    "nat_base": (89_769_652, 469, 0x057C229A),
    "dinat_mini": (19_984_174, 253, 0x9AE369F9),
    "dinat_tiny": (27_901_582, 409, 0x94BB28B1),
    "dinat_small": (50_719_681, 409, 0x0FDE41D2),
    "dinat_base": (89_769_652, 469, 0x057C229A),
    "dinat_large": (200_943_514, 409, 0xA15A8AF6),
    "dinat_large_384": (200_943_514, 409, 0xA15A8AF6),
    "dinat_large_384_11x11": (201_144_250, 409, 0xFE1537E5),
    "dinat_large_21k": (200_943_514, 409, 0xA15A8AF6),
    "dinat_large_21k_11x11": (201_144_250, 409, 0xFE1537E5),
}
SMALL = [name for name in MODELS if name.endswith("_nano")]
SIZES = [(8, 8), (9, 9), (33, 33), (64, 64), (8, 33)]


def on_meta(name, **options):
    with torch.device("meta"):
        return create_model(name, **options)


def small(name, **options):
    torch.manual_seed(0)
    return create_model(name, num_classes=10, **options)


def images(*size, batch=2):
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(1))


def test_every_model_is_frozen():
    assert list(MODELS) == list(FROZEN)


@pytest.mark.parametrize("name", MODELS)
def test_parameters_and_names(name):
    model = on_meta(name)
    state = model.state_dict()
    names = "\n".join(f"{key} {list(tensor.shape)}" for key, tensor in state.items())
    count = sum(parameter.numel() for parameter in model.parameters())
    assert (count, len(state), zlib.crc32(names.encode())) == FROZEN[name]


@pytest.mark.parametrize("name", MODELS)
def test_shapes(name):
    model = on_meta(name).eval()
    pyramid = model.forward_intermediates(images(32, 64).to("meta"))
    for features, info in zip(pyramid, model.feature_info, strict=True):
        assert features.shape == (2, info["num_chs"], 32 // info["reduction"], 64 // info["reduction"])
        assert isinstance(model.get_submodule(info["module"]), nn.Module)
    features = model.finish(pyramid[-1])
    assert features.shape == pyramid[-1].shape
    assert model.forward_head(features, pre_logits=True).shape == (2, model.num_features)
    assert model.forward_head(features).shape == (2, 1000)


@pytest.mark.parametrize("name", SMALL)
def test_small_models_are_small(name):
    assert sum(parameter.numel() for parameter in small(name).parameters()) < 1_000_000


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", SMALL)
def test_forward_and_backward(name, size):
    model = small(name)
    logits = model(images(*size))
    assert logits.shape == (2, 10)
    logits.square().sum().backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", SMALL)
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
    with torch.no_grad():
        every = model.forward_intermediates(x)
        for indices, expected in ((1, [2]), (2, [1, 2]), ([0, -1], [0, 2]), ((2, 0), [0, 2]), ([], [])):
            got = model.forward_intermediates(x, indices)
            assert len(got) == len(expected)
            assert all(torch.equal(features, every[stage]) for features, stage in zip(got, expected, strict=True))
        assert torch.equal(model.finish(every[-1]), model.forward_features(x))
    for indices in ([3], [-4], 4):
        with pytest.raises(ShapeError, match="indices must name some of the 3 stages"):
            model.forward_intermediates(x, indices)


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
    with pytest.raises(ShapeError, match="num_classes must be at least 0"):
        model.reset_classifier(-1)


@pytest.mark.parametrize("name", SMALL)
def test_round_trip(name, tmp_path):
    model = small(name).eval()
    model(images(16, 16))
    save_weights(model, tmp_path / "model.safetensors")
    again = create_model(name, num_classes=10, weights=tmp_path / "model.safetensors").eval()
    assert torch.equal(model(images(16, 16)), again(images(16, 16)))


@pytest.mark.parametrize("name", SMALL)
def test_another_class_count_does_not_load(name):
    model = small(name)
    with pytest.raises(CheckpointError, match=r"head\.weight \(expected \[10, 128\], got \[5, 128\]\)"):
        load_weights(model, create_model(name, num_classes=5).state_dict())


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
    ids=["no_batch", "channels_last", "grey", "empty"],
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
@pytest.mark.parametrize("name", SMALL)
def test_fields_that_are_no_numbers(name, field, value):
    with pytest.raises(OptionError, match=f"{field} must be a finite number"):
        small(name, **{field: value})


@pytest.mark.parametrize("name", SMALL)
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
@pytest.mark.parametrize("name", SMALL)
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
    assert list_models("nat_*") == ["nat_nano", "nat_mini", "nat_tiny", "nat_small", "nat_base"]
    assert list_models("resnet*") == []

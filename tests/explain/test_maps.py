"""Maps are the weights that the fused calls apply, each at the position of its key."""

from dataclasses import replace

import pytest
import torch

from explain.networks import SMALL, build, lively
from regard import MECHANISMS, NeighborhoodAttention2d, WindowAttention
from regard.attention import neighborhood_keys, window_tokens
from regard.errors import UnsupportedError
from regard.explain import attention_maps, class_attention, explain, record
from regard.explain.weight_gradients import output_of
from regard.models import create_model
from regard.surgery import adapt, fuse

SAMPLES = [
    pytest.param(sample, id=f"{mechanism.name}-{place}")
    for mechanism in MECHANISMS
    for place, sample in enumerate(mechanism.module_samples)
    if "relative_distance" not in sample.arguments  # its values also depend on the pair
]
LOCAL = ("softmax", "talking_heads", "window", "neighborhood")


def call_of(sample):
    torch.manual_seed(0)
    module = sample.build().eval()
    with record(module) as calls, torch.no_grad():
        module(torch.randn(sample.shape))
    (call,) = calls
    return call


@pytest.mark.parametrize("sample", SAMPLES)
def test_weights_times_values_are_the_output(sample):
    """The map, as a dense matrix, applied to the values gives what the fused call returned."""
    call = call_of(sample)
    weights = call.map().dense()
    output = output_of(call)
    if call.mechanism.name in LOCAL:
        value = call.arguments["value"].flatten(1, -3)
        expected = torch.einsum("bhnm,bmhd->bnhd", weights, value).reshape(output.shape)
    else:
        expected = pooled(call, weights)
    torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("sample", [one for one in SAMPLES if one.id.startswith("talking_heads")])
def test_heads_before_and_after_the_second_mix(sample):
    """Unmixed rows are softmax rows; mixed with the layer's own factors, they give the fused call's output."""
    call = call_of(sample)
    given = call.arguments
    unmixed, mixed = call.map(mixed=False), call.map()
    assert unmixed.weights.shape[1] == len(given["logits_mix"])
    assert bool((unmixed.weights >= 0).all())
    torch.testing.assert_close(unmixed.weights.sum(-1), torch.ones(unmixed.weights.shape[:-1]))
    query, key = (given[name].flatten(1, -3) for name in ("query", "key"))
    logits = torch.einsum("bnhd,bmhd->bhnm", query, key) * query.shape[-1] ** -0.5
    expected = torch.einsum("gh,bhnm->bgnm", given["logits_mix"], logits).softmax(-1)
    torch.testing.assert_close(unmixed.weights, expected)
    again = torch.einsum("vh,bhnm->bvnm", given["weights_mix"], unmixed.weights)
    if given["weights_bias"] is not None:
        again = again + given["weights_bias"][:, None, None]
    torch.testing.assert_close(mixed.weights, again)
    out = torch.einsum("bhnm,bmhd->bnhd", again, given["value"].flatten(1, -3))
    torch.testing.assert_close(call.output, out.reshape(call.output.shape), rtol=1e-4, atol=1e-5)


def test_only_talking_heads_have_unmixed_maps():
    """In CaiT, the maps before the mix are softmax rows in every layer; class attention has one kind of map."""
    model, images = build("CaiT")
    mixed, unmixed = attention_maps(model, images), attention_maps(model, images, mixed=False)
    for before, after in zip(unmixed, mixed, strict=True):
        torch.testing.assert_close(before.weights.sum(-1), torch.ones(before.weights.shape[:-1]))
        assert torch.equal(before.weights, after.weights) == (before.mechanism != "talking_heads")


@pytest.mark.parametrize(("family", "first"), [("CaiT", 2), ("ViT", 0)])
def test_the_class_token(family, first):
    """Its maps are the first rows of the layers that have one, without the class token's own column."""
    model, images = build(family)
    maps, found = attention_maps(model, images)[first:], class_attention(model, images)
    assert list(found) == [one.layer for one in maps]
    for one, image in zip(maps, found.values(), strict=True):
        assert image.shape == (2, 2, 4, 4)
        assert torch.equal(image.flatten(2), one.dense()[:, :, 0, 1:])


@pytest.mark.parametrize("family", ["NAT", "Swin", "MobileViTv2"])
def test_no_class_token(family):
    with pytest.raises(UnsupportedError, match="expected a model with a class token"):
        class_attention(*build(family))


@pytest.mark.parametrize(
    "module",
    [WindowAttention(8, 2, 4, shift_size=2), NeighborhoodAttention2d(8, 2, 7, small_grid="pad")],
    ids=["window", "neighborhood"],
)
def test_padding_is_left_out_of_maps(module):
    """A map has the rows and columns of the real tokens, out of a padded one that gives the call's output."""
    with record(module) as calls, torch.no_grad():
        module(torch.randn(2, 5, 6, 8))
    (call,) = calls
    padded, cropped = replace(call, grid=()).map(), call.map()
    assert cropped.query_grid == cropped.key_grid == (5, 6) != padded.query_grid
    value = call.arguments["value"].flatten(1, -3)
    torch.testing.assert_close(
        torch.einsum("bhnm,bmhd->bnhd", padded.dense(), value), call.output.flatten(1, 2), rtol=1e-4, atol=1e-5
    )
    real = torch.arange(len(value[0])).reshape(padded.query_grid)[:5, :6].flatten()
    assert torch.equal(cropped.dense(), padded.dense()[:, :, real][..., real])


def pooled(call, weights):
    """The definition of the pooled mechanisms, with weights from a map."""
    given = call.arguments
    normalize = torch.nn.functional.normalize
    if call.mechanism.name == "efficient_additive":
        context = weights[:, 0] @ normalize(given["query"], dim=-1).flatten(1, -2)  # one row serves all queries
        return (context.mean(1, keepdim=True) * normalize(given["key"], dim=-1).flatten(1, -2)).reshape(
            given["key"].shape
        )
    if call.mechanism.name == "separable":
        context = weights[:, 0] @ given["key"].flatten(1, -2)
        return (context * given["value"].relu().flatten(1, -2)).reshape(given["value"].shape)
    query, key = (given[name].flatten(1, -3) for name in ("query", "key"))  # [B, N, nh, hd]
    alpha = call.mechanism.weights(**{name: value for name, value in given.items() if name != "backend"})[0]
    products = key * torch.einsum("bnh,bnhd->bhd", alpha.flatten(1, -2), query).unsqueeze(1)
    return (query * torch.einsum("bhnm,bmhd->bnhd", weights, products)).reshape(given["query"].shape)


@pytest.mark.parametrize("family", SMALL)
def test_softmax_rows_sum_to_one(family):
    model, images = build(family)
    for attention in attention_maps(model, images):
        if attention.mechanism in ("softmax", "window", "neighborhood", "separable"):
            torch.testing.assert_close(attention.weights.sum(-1), torch.ones(attention.weights.shape[:-1]))


def test_neighbors_are_the_nearest():
    """Brute force: of a query's dilation group, the keys in the window that NATTEN defines."""
    keys = neighborhood_keys(3, (7, 8), dilation=2)
    for row in range(7):
        for column in range(8):
            seen = {divmod(int(place), 8) for place in keys[row, column]}
            rows, columns = {place[0] for place in seen}, {place[1] for place in seen}
            assert len(seen) == 9
            assert {place % 2 for place in rows} == {row % 2}
            assert {place % 2 for place in columns} == {column % 2}
            assert row in rows
            assert column in columns
            assert max(rows) - min(rows) == max(columns) - min(columns) == 4


def test_padded_positions_are_marked():
    keys = neighborhood_keys(3, (2, 5), small_grid="pad")
    assert keys.shape == (2, 5, 9)
    assert set(keys.flatten().tolist()) == {-1, *range(10)}
    tokens = window_tokens(4, (5, 6), shift_size=1)
    assert sorted(tokens[tokens >= 0].tolist()) == list(range(30))
    assert (tokens == -1).sum() == 8 * 8 - 30


@pytest.mark.parametrize("shift", [0, 2])
def test_windows_hold_neighbors(shift):
    tokens = window_tokens(4, (8, 8), shift_size=shift)
    assert tokens.shape == (2, 2, 16)
    first = tokens[0, 0].reshape(4, 4)
    assert first[0].tolist() == [place + shift * 8 + shift for place in range(4)]


@pytest.mark.parametrize("family", SMALL)
def test_recording_changes_nothing(family):
    """The outputs keep their bits, and hooks are gone."""
    model, images = build(family)
    with torch.no_grad():
        expected = model(images)
        with record(model) as calls:
            observed = model(images)
    assert torch.equal(expected, observed)
    assert calls
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_fused_kernels_stay_on():
    model, images = build("NAT")
    operators = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            operators.append(str(function))
            return function(*args, **({} if kwargs is None else kwargs))

    with record(model) as calls, torch.no_grad(), Watch():
        model(images)
    assert sum(name.startswith("regard.neighborhood") for name in operators) == len(calls) > 0


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "deit_tiny_patch16_224", "cait_xxs24_224"])
def test_attention_of_timm_is_seen(name):
    """A fused model of timm has the maps of our model with the same weights."""
    import timm

    torch.manual_seed(0)
    theirs = timm.create_model(name).eval()
    ours = create_model(name, weights=theirs.state_dict()).eval()
    images = torch.randn(1, 3, 224, 224)
    expected, got = attention_maps(ours, images), attention_maps(adapt(theirs), images)
    assert len(expected) == len(got)
    for one, other in zip(expected, got, strict=True):
        torch.testing.assert_close(one.of_query(0), other.of_query(0), rtol=1e-3, atol=1e-5)


def mobilevitv2_of(library):
    if library == "timm":
        import timm

        return timm.create_model("mobilevitv2_050")
    from transformers import MobileViTV2Config, MobileViTV2ForImageClassification

    return MobileViTV2ForImageClassification(MobileViTV2Config(width_multiplier=0.5, num_labels=1000))


@pytest.mark.parametrize("library", ["timm", "transformers"])
def test_unfolded_patches_are_at_their_places(library):
    """timm's and transformers' MobileViTv2 unfold patches; their maps, and what follows from them, equal ours."""
    torch.manual_seed(0)
    theirs = lively(mobilevitv2_of(library))
    ours = create_model("mobilevitv2_050", weights=theirs.state_dict()).eval()
    images = torch.randn(2, 3, 64, 128)
    adapted = adapt(theirs)
    expected, got = attention_maps(ours, images), attention_maps(adapted, images)
    assert len(expected) == len(got) == 9
    for one, other in zip(expected, got, strict=True):
        assert one.query_grid == other.query_grid
        assert one.key_grid == other.key_grid
        assert torch.equal(one.keys, other.keys)
        torch.testing.assert_close(one.weights, other.weights, rtol=1e-4, atol=1e-6)
    for method in ("attention-gradient", "sensitivity", "grad-cam"):
        maps = [explain(model, images, method, 3) for model in (ours, adapted)]
        assert float(maps[0].max()) > 0
        torch.testing.assert_close(*(one / one.max() for one in maps), rtol=1e-3, atol=1e-4)
    with record(adapted) as calls, torch.no_grad():
        adapted(images)
    output = calls[0].on_grid(output_of(calls[0]))
    torch.testing.assert_close(output, pooled(calls[0], calls[0].map().dense()), rtol=1e-4, atol=1e-5)


def test_patches_that_do_not_fill_the_grid():
    """transformers' MobileViTv2 drops what its patches do not fill."""
    with pytest.raises(UnsupportedError, match="change the size of the images"):
        attention_maps(adapt(mobilevitv2_of("transformers").eval()), torch.randn(1, 3, 64, 96))


def test_the_grid_of_a_fused_model():
    """`fuse(inference=True)` lets timm's MobileViTv2 attend on the image; channels in front are no grid."""
    theirs = lively(mobilevitv2_of("timm"))
    maps = attention_maps(fuse(theirs, inference=True, measure=False), torch.randn(1, 3, 64, 128))
    assert [one.key_grid for one in maps] == [(8, 16)] * 2 + [(4, 8)] * 4 + [(2, 4)] * 3
    for one in maps:
        torch.testing.assert_close(one.weights.sum(-1), torch.ones(one.weights.shape[:-1]))


def davit():
    import timm

    return timm.create_model("davit_tiny")


def torchvision_swin():
    import torchvision

    return torchvision.models.swin_t()


def transformers_swin():
    from transformers import SwinConfig, SwinForImageClassification

    return SwinForImageClassification(SwinConfig(image_size=256, depths=[1, 1, 1, 1], num_labels=5))


@pytest.mark.parametrize("build", [davit, torchvision_swin, transformers_swin])
def test_upstream_padding_is_left_out(build):
    """64 tokens become 70 in windows of 7: the maps have the grid of the image, whatever the layout of the input."""
    torch.manual_seed(0)
    model, images = adapt(lively(build())), torch.randn(1, 3, 256, 224)
    maps = attention_maps(model, images)
    assert {one.key_grid for one in maps} == {(64, 56), (32, 28), (16, 14), (8, 7)}
    for one in maps:
        assert one.weights.shape[2] == len(one.keys) == one.key_grid[0] * one.key_grid[1]
        assert bool((one.keys < len(one.keys)).all())
    assert explain(model, images, "grad-cam").shape == (1, 8, 7)


def test_a_model_without_our_attention():
    with pytest.raises(UnsupportedError, match=r"call regard\.surgery\.adapt"):
        attention_maps(torch.nn.Conv2d(3, 3, 1), torch.randn(1, 3, 8, 8))

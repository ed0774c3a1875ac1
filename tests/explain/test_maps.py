"""Maps are the weights that the fused calls apply, each at the position of its key."""

from dataclasses import replace

import pytest
import torch

from explain.networks import SMALL, build
from regard import MECHANISMS, NeighborhoodAttention2d, WindowAttention
from regard.attention import neighborhood_keys, window_tokens
from regard.explain import attention_maps, record
from regard.explain.weight_gradients import output_of
from regard.surgery import adapt

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

    from regard.models import create_model

    torch.manual_seed(0)
    theirs = timm.create_model(name).eval()
    ours = create_model(name, weights=theirs.state_dict()).eval()
    images = torch.randn(1, 3, 224, 224)
    expected, got = attention_maps(ours, images), attention_maps(adapt(theirs), images)
    assert len(expected) == len(got)
    for one, other in zip(expected, got, strict=True):
        torch.testing.assert_close(one.of_query(0), other.of_query(0), rtol=1e-3, atol=1e-5)


def test_a_model_without_our_attention():
    from regard import UnsupportedError

    with pytest.raises(UnsupportedError, match=r"call regard\.surgery\.adapt"):
        attention_maps(torch.nn.Conv2d(3, 3, 1), torch.randn(1, 3, 8, 8))

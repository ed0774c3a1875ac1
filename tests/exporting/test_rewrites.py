"""What `make_program` rewrites for other runtimes keeps its values, and has the operators that are fast there."""

from collections import Counter

import pytest
import torch
from torch import nn

from regard.exporting import make_program
from regard.exporting.constants import fold_parameters
from regard.exporting.layout import channels_first
from regard.exporting.linear import fold_scales, split_projections
from regard.layers import PositionEmbedding
from regard.models import create_model

GRID = (2, 6, 5, 5)  # images [B, C, H, W]


class Model(nn.Module):
    def __init__(self, run, **layers):
        super().__init__()
        self.run, self.layers = run, nn.ModuleDict(layers)
        self.scale = nn.Parameter(torch.randn(6))

    def forward(self, x):
        return self.run(self, x, **self.layers)


class CheckShapes(torch.fx.Interpreter):
    """Compares the shapes that the nodes promise to passes after this one."""

    def run_node(self, node):
        value = super().run_node(node)
        if node.op == "call_function" and isinstance(value, torch.Tensor):
            assert value.shape == node.meta["val"].shape, node
        return value


def rewritten(rewrite, model, x):
    """Return how often the rewritten program has each operator, after a check that it computes the same."""
    with torch.no_grad():
        program = torch.export.export(model.eval(), (x,))
        expected = model(x)
        program = rewrite(program)
        torch.testing.assert_close(program.module()(x), expected)
        CheckShapes(program.module()).run(x)
        return Counter(node.target._opname for node in program.graph.nodes if hasattr(node.target, "_opname"))


def pointwise(model, x, first, second):
    x = x.permute(0, 2, 3, 1)
    return x + second(torch.nn.functional.gelu(first(x))) * model.scale


def test_transpositions_that_cancel():
    model = Model(lambda *given, **layers: pointwise(*given, **layers).permute(0, 3, 1, 2), **two_layers())
    found = rewritten(channels_first, model, torch.randn(GRID))
    assert found["conv2d"] == 2 and not found["linear"] and not found["permute"]


@pytest.mark.parametrize(
    "end",
    [lambda x: x, lambda x: x.softmax(-1).permute(0, 3, 1, 2), lambda x: x.permute(0, 3, 1, 2) + x.mean(-1)[:, None]],
    ids=["last", "softmax", "both"],
)
def test_transpositions_that_stay(end):
    """A convolution between two transpositions would be slower than the dense layer."""
    model = Model(lambda *given, **layers: end(pointwise(*given, **layers)), **two_layers())
    found = rewritten(channels_first, model, torch.randn(GRID))
    assert found["linear"] == 2 and not found["conv2d"]


def two_layers():
    return {"first": nn.Linear(6, 8), "second": nn.Linear(8, 6, bias=False)}


@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize(
    "split",
    [
        lambda x: x.unflatten(-1, (3, 2, 4)).unbind(-3),
        lambda x: x.unflatten(-1, (3, 2, 4)).unbind(x.ndim - 1),
        lambda x: x.view(*x.shape[:-1], 3, 8).unbind(-2),
        lambda x: x.reshape(*x.shape[:-1], 6, 4).split([2, 1, 3], -2),
        lambda x: x.unflatten(-1, (6, 4)).split([2, 1, 3], -2)[::2],  # one is not used
    ],
    ids=["unbind", "positive", "view", "split", "unused"],
)
def test_projections(split, has_bias):
    model = Model(lambda model, x, linear: torch.cat([one.flatten() for one in split(linear(x))]), **packed(has_bias))
    found = rewritten(split_projections, model, torch.randn(2, 5, 6))
    assert found["linear"] in (2, 3) and not found["unbind"] + found["split_with_sizes"]


@pytest.mark.parametrize(
    "split",
    [
        lambda y: y.unflatten(-1, (4, 6)).unbind(-1),  # every sixth row
        lambda y: y.unflatten(-1, (3, 8)).unbind(0),  # the images
        lambda y: y.view(10, 3, 8).unbind(1),
        lambda y: [*y.unflatten(-1, (3, 8)).unbind(-2), y],  # the whole is read, too
    ],
    ids=["inner", "batch", "merged", "shared"],
)
def test_other_splits_stay(split):
    model = Model(lambda model, x, linear: torch.cat([one.flatten() for one in split(linear(x))]), **packed(True))
    assert rewritten(split_projections, model, torch.randn(2, 5, 6))["linear"] == 1


def packed(has_bias):
    return {"linear": nn.Linear(6, 24, bias=has_bias)}


@pytest.mark.parametrize("has_bias", [True, False])
def test_scales(has_bias):
    model = Model(lambda model, x, linear: linear(x) * model.scale, linear=nn.Linear(6, 6, bias=has_bias))
    program = torch.export.export(model.eval(), (torch.randn(2, 5, 6),))
    last = next(node for node in reversed(fold_scales(program).graph.nodes) if node.op == "call_function")
    assert last.target == torch.ops.aten.linear.default
    rewritten(fold_scales, model, torch.randn(2, 5, 6))


@pytest.mark.parametrize(
    "scaled",
    [
        lambda y, scale: y * 2,
        lambda y, scale: y * y,
        lambda y, scale: y * scale + y,
        lambda y, scale: y * scale[:, None],
    ],
    ids=["number", "product", "shared", "rows"],
)
def test_other_products_stay(scaled):
    model = Model(lambda model, x, linear: scaled(linear(x), model.scale), linear=nn.Linear(6, 6))
    program = torch.export.export(model.eval(), (torch.randn(2, 6, 6),))
    before = Counter(str(node.target) for node in program.graph.nodes)
    assert Counter(str(node.target) for node in fold_scales(program).graph.nodes) == before


def positioned():
    return nn.Sequential(PositionEmbedding(8, (4, 4)), nn.Linear(8, 3)).eval()


def test_resized_positions_are_constants(tmp_path):
    model, x = positioned(), torch.randn(1, 6, 5, 8)
    found = rewritten(fold_parameters, model, x)
    assert not any("bicubic" in name for name in found)
    program = make_program(model, x)
    assert program.constants and not any("bicubic" in str(node.target) for node in program.graph.nodes)
    torch.export.save(program, tmp_path / "a.pt2")
    torch.testing.assert_close(torch.export.load(tmp_path / "a.pt2").module()(x), model(x))


def test_positions_of_unknown_sizes_stay():
    sizes = {1: torch.export.Dim("height", min=2, max=9), 2: torch.export.Dim("width", min=2, max=9)}
    model, x = positioned(), torch.randn(1, 6, 5, 8)
    program = fold_parameters(torch.export.export(model, (x,), dynamic_shapes=(sizes,)))
    assert any("bicubic" in str(node.target) for node in program.graph.nodes)


def scaled_after_a_change(model, x, linear):
    x = x.clone()
    y = linear(x)
    x += 1
    return y * model.scale + x


def resized_and_changed(model, x, linear):
    positions = nn.functional.interpolate(model.scale[None, None], 12, mode="linear")
    table = nn.functional.interpolate(positions[None], (6, 6), mode="bicubic", antialias=True)
    table[:, :, 0] = 0
    return linear(x) + table[0, 0, 0]


def viewed(model, x, linear):
    y = linear(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    return y.permute(0, 2, 3, 1).view(2, -1)


def split_first(model, x, linear):
    return torch.cat(linear(x.mean((2, 3))).view(2, 2, 3)[0].split([1, 1]), 1)


@pytest.mark.parametrize(
    "run", [scaled_after_a_change, resized_and_changed, viewed, split_first], ids=lambda one: one.__name__
)
def test_programs_that_change_tensors_in_place_or_view_them(run):
    channels_last = run in (scaled_after_a_change, resized_and_changed)
    x = torch.randn(2, 5, 5, 6) if channels_last else torch.randn(2, 6, 5, 5)
    model = Model(run, linear=nn.Linear(6, 6)).eval()
    torch.testing.assert_close(make_program(model, x).module()(x), model(x))


def test_scales_of_another_dtype_and_sizes_as_numbers():
    model = Model(lambda model, x, linear: linear(x) * model.scale, linear=nn.Linear(6, 6)).eval()
    model.scale.data = model.scale.data.double()
    x = torch.randn(2, 5, 6)
    torch.testing.assert_close(make_program(model, x).module()(x), model(x))
    model = Model(
        lambda model, x, linear: (linear(x.permute(0, 2, 3, 1)) * x.shape[0]).permute(0, 3, 1, 2),
        linear=nn.Linear(6, 6),
    ).eval()
    x = torch.randn(GRID)
    torch.testing.assert_close(make_program(model, x, dynamic=["batch"]).module()(x), model(x))


@pytest.mark.parametrize("name", ["swiftformer_xs", "cait_xxs24_224", "nat_mini", "swin_tiny_patch4_window7_224"])
def test_models(name):
    model, x = create_model(name).eval(), torch.randn(2, 3, 224, 224)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.05) if parameter.ndim == 1 else None  # scales that matter
    program = make_program(model, x, dynamic=["batch"])
    counts = Counter(str(node.target) for node in program.graph.nodes)
    assert not counts["aten.unbind.int"] + counts["aten.split_with_sizes.default"]
    with torch.no_grad():
        expected = model(x[:1])
        error = (program.module()(x[:1]) - expected).abs().max() / expected.abs().max()
    assert error < 1e-4

"""Checkpoints are read safely, converted totally, and a failure leaves the model as it was."""

import argparse
import copy
import re

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from regard.checkpoint import Naming, convert, detect_naming, load_state, load_weights, save_weights
from regard.errors import CheckpointError


class Net(nn.Module):
    """One of each: a dense layer, a convolution and a norm with buffers."""

    namings = (Naming("others", lambda name: (name.replace("dense.", "their_dense."),)),)

    def __init__(self):
        super().__init__()
        self.dense = nn.Linear(3, 4)
        self.conv = nn.Conv2d(2, 2, 1)
        self.norm = nn.BatchNorm2d(2)


@pytest.fixture
def model():
    return Net()


def state_of(seed=1):
    torch.manual_seed(seed)
    net = Net()
    return {name: torch.rand_like(tensor) if tensor.ndim else tensor + 7 for name, tensor in net.state_dict().items()}


def assert_holds(model, state):
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[name]), name


def test_state_dict(model):
    load_weights(model, state_of())
    assert_holds(model, state_of())


def test_round_trip_of_files(model, tmp_path):
    load_weights(model, state_of())
    save_weights(model, tmp_path / "net.safetensors")
    other = Net()
    load_weights(other, tmp_path / "net.safetensors")
    assert_holds(other, state_of())
    assert [path.name for path in tmp_path.iterdir()] == ["net.safetensors"]


@pytest.mark.parametrize("suffix", ["pth", "pt", "bin"])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"model": state, "epoch": 3, "args": argparse.Namespace(lr=0.1)},
        lambda state: {"state_dict": state},
        lambda state: {"model": {"module." + name: tensor for name, tensor in state.items()}},
    ],
    ids=["plain", "model", "state_dict", "module"],
)
def test_wrapped_files(model, tmp_path, wrap, suffix):
    path = tmp_path / f"net.{suffix}"
    torch.save(wrap(state_of()), path)
    load_weights(model, str(path))
    assert_holds(model, state_of())


def test_other_naming(model):
    theirs = {name.replace("dense.", "their_dense."): tensor for name, tensor in state_of().items()}
    assert detect_naming(theirs, model).name == "others"
    load_weights(model, theirs)
    assert_holds(model, state_of())


def test_dense_layers_stored_as_convolutions(model):
    state = state_of()
    state["dense.weight"] = state["dense.weight"][..., None, None]
    state["norm.weight"] = state["norm.weight"][:, None, None]
    load_weights(model, state)
    assert_holds(model, state_of())


def test_several_sources_are_stacked():
    dense = nn.Linear(3, 4)
    naming = Naming("split", lambda name: (f"first.{name}", f"second.{name}"))
    parts = {
        f"{part}.{name}": torch.rand(2, *tensor.shape[1:])
        for name, tensor in dense.state_dict().items()
        for part in ("first", "second")
    }
    converted = convert(parts, dense, naming)
    assert torch.equal(converted["weight"], torch.cat([parts["first.weight"], parts["second.weight"]]))


def test_half_precision_is_converted(model):
    load_weights(model, {name: tensor.bfloat16() if tensor.ndim else tensor for name, tensor in state_of().items()})
    assert model.dense.weight.dtype == torch.float32
    assert torch.equal(model.dense.weight, state_of()["dense.weight"].bfloat16().float())


def without(name):
    return lambda state: {key: tensor for key, tensor in state.items() if key != name}


def changed(name, change):
    return lambda state: state | {name: change(state[name])}


BROKEN = {
    "missing": (without("dense.bias"), r"1 missing: dense\.bias"),
    "left_over": (lambda state: state | {"extra": torch.zeros(1)}, "1 left over: extra"),
    "misshapen": (
        changed("dense.weight", lambda w: w[:2]),
        r"1 of another shape: dense\.weight \(expected \[4, 3\], got \[2, 3\]\)",
    ),
    "transposed": (changed("dense.weight", torch.t), r"expected \[4, 3\], got \[3, 4\]"),
    "nan": (changed("conv.bias", lambda b: b * torch.nan), r"1 not finite in the model's dtype: conv\.bias"),
    "inf": (
        changed("norm.running_var", lambda v: v + torch.inf),
        r"1 not finite in the model's dtype: norm\.running_var",
    ),
    "meta": (changed("conv.bias", lambda b: b.to("meta")), r"1 without values, on the meta device: conv\.bias"),
    "integers": (
        changed("conv.bias", torch.Tensor.long),
        r"1 not of floating-point numbers: conv\.bias \(expected torch\.float32, got torch\.int64\)",
    ),
    "bools": (changed("conv.bias", torch.Tensor.bool), r"conv\.bias \(expected torch\.float32, got torch\.bool\)"),
    "complex": (
        changed("conv.bias", lambda b: b + 1j),
        r"conv\.bias \(expected torch\.float32, got .*complex64\)",
    ),
    "empty": (lambda state: {}, "should map names to tensors"),
    "no_tensors": (lambda state: {"epoch": 3}, "these are something else: epoch"),
    "mixed": (lambda state: state | {"epoch": 3}, "these are something else: epoch"),
    "another_model": (lambda state: {"layers.0.weight": torch.zeros(1)}, r"It holds 1 tensors: layers\.0\.weight"),
}


@pytest.mark.parametrize(("breakage", "message"), BROKEN.values(), ids=BROKEN)
def test_refused_and_unchanged(model, breakage, message):
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(CheckpointError, match=message):
        load_weights(model, breakage(state_of()))
    assert_holds(model, before)


def test_overflow_of_the_models_dtype(model):
    model.half()
    with pytest.raises(CheckpointError, match=r"1 not finite in the model's dtype: dense\.bias"):
        load_weights(model, state_of() | {"dense.bias": torch.full((4,), 1e6)})


def test_long_lists_are_cut(model):
    with pytest.raises(CheckpointError, match="and 5 more"):
        load_weights(model, {"alone": torch.zeros(1)})


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.99])
def test_truncated_file(model, tmp_path, suffix, kept):
    path = tmp_path / f"net.{suffix}"
    (save_file if suffix == "safetensors" else torch.save)(state_of(), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(CheckpointError, match=f"{re.escape(str(path))} cannot be read"):
        load_weights(model, path)
    assert_holds(model, before)


class Payload:
    def __reduce__(self):
        return (print, ("code of the file ran",))


def test_code_in_a_file_does_not_run(tmp_path, capsys):
    torch.save({"model": state_of(), "payload": Payload()}, tmp_path / "net.pth")
    with pytest.raises(CheckpointError, match="cannot be read as plain tensors"):
        load_state(tmp_path / "net.pth")
    assert "code of the file ran" not in capsys.readouterr().out


def test_no_file(tmp_path):
    with pytest.raises(CheckpointError, match="there is no file"):
        load_state(tmp_path / "net.pth")


def test_unknown_suffix(tmp_path):
    with pytest.raises(CheckpointError, match=r"expected a \.safetensors, \.pth, \.pt or \.bin file"):
        load_state(tmp_path / "net.onnx")


def test_meta_model_cannot_be_filled():
    with torch.device("meta"):
        model = Net()
    with pytest.raises(CheckpointError, match="to_empty"):
        load_weights(model, state_of())


def test_save_refuses(model, tmp_path):
    with pytest.raises(CheckpointError, match="change the suffix"):
        save_weights(model, tmp_path / "net.pth")
    with pytest.raises(CheckpointError, match="cannot be written"):
        save_weights(model, tmp_path / "no_such_folder" / "net.safetensors")

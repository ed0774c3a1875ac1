"""Checkpoints are read safely, converted totally, and a failure leaves the model as it was."""

import argparse
import copy
import re

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from regard.checkpoint import (
    Naming,
    Source,
    convert_state,
    detect_namings,
    export_state,
    load_state,
    load_state_into,
    rename_tensors,
    save_state,
    unwrap,
)
from regard.errors import CheckpointError, OptionError
from regard.models import load_weights, save_weights


class Declared(nn.Module):
    """A module that declares namings, and nothing else about its checkpoints."""

    config = None
    classifiers = ()

    def resized(self, name, tensor):
        return None


class Net(Declared):
    """One of each: a dense layer, a convolution and a norm with buffers."""

    namings = (
        Naming("others", ((r"^dense\.", "their_dense."),)),
        Naming("split", ((r"^dense\.", "{first,second}."),), pointwise=r"^first\.weight$"),
    )

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


def prefixed(prefix, state):
    return {prefix + name: tensor for name, tensor in state.items()}


@pytest.mark.parametrize("suffix", ["pth", "pt", "bin"])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"model": state, "epoch": 3, "args": argparse.Namespace(lr=0.1)},
        lambda state: {"state_dict": state},
        lambda state: {"module": state, "lr": 0.1},
        lambda state: {"model_ema": state, "epoch": 3},
        lambda state: {"model": prefixed("module.", state)},
        lambda state: prefixed("_orig_mod.", state),
        lambda state: prefixed("module._orig_mod.", state),
        lambda state: prefixed("_orig_mod.module.", state),
    ],
    ids=["plain", "model", "state_dict", "module", "ema", "ddp", "compiled", "compiled_in_ddp", "ddp_compiled"],
)
def test_wrapped_files(model, tmp_path, wrap, suffix):
    path = tmp_path / f"net.{suffix}"
    torch.save(wrap(state_of()), path)
    load_weights(model, str(path))
    assert_holds(model, state_of())


@pytest.mark.parametrize("word", ["model_ema", "state_dict_ema", "ema"])
def test_averaged_weights_are_taken_when_asked_for(tmp_path, word):
    torch.save({"model": state_of(1), word: state_of(2)}, tmp_path / "net.pth")
    for ema, seed in ((False, 1), (True, 2)):
        state = load_state(tmp_path / "net.pth", ema=ema)
        assert all(torch.equal(tensor, state[name]) for name, tensor in state_of(seed).items())


def test_averaged_weights_that_are_not_there(model, tmp_path):
    torch.save({"model": state_of()}, tmp_path / "net.pth")
    before = copy.deepcopy(model.state_dict())
    for source in (tmp_path / "net.pth", state_of()):
        with pytest.raises(CheckpointError, match=r"holds no averaged weights \(model_ema, state_dict_ema, ema\)"):
            load_weights(model, source, ema=True)
    assert_holds(model, before)


def test_names_that_only_some_share_a_prefix_with_stay():
    state = {"module.a": torch.zeros(1), "b": torch.zeros(1)}
    assert unwrap(state) == state


def test_sources():
    naming = Naming("theirs", ((r"^qkv\.", "{q,k,v}."), (r"^gamma(\d)$", r"gammas[\1]")))
    assert naming.sources("qkv.bias") == (Source("q.bias"), Source("k.bias"), Source("v.bias"))
    assert naming.sources("gamma1") == (Source("gammas", 1),)
    assert naming.sources("other") == (Source("other"),)


@pytest.mark.parametrize("naming", ["regard", "others", "split"])
def test_there_and_back(model, naming):
    load_weights(model, state_of())
    state = export_state(model, naming)
    other = Net()
    report = load_state_into(other, state)
    assert (report.naming, report.tensors) == (naming, len(state_of()))
    assert_holds(other, state_of())


def test_one_tensor_of_ours_is_several_of_theirs(model):
    load_weights(model, state_of())
    state = export_state(model, "split")
    assert state["first.weight"].shape == (2, 3) and "dense.weight" not in state
    assert torch.equal(torch.cat([state["first.bias"], state["second.bias"]]), model.dense.bias)


def test_pointwise_layers_get_their_axes_back(model):
    naming = Naming("convolutions", pointwise=r"^dense\.weight$")
    assert rename_tensors(model, naming)["dense.weight"].shape == (4, 3, 1, 1)


class Scaled(Declared):
    """Two vectors that others hold as rows of one, an index that follows from the rest, and a configuration."""

    namings = (
        Naming(
            "rows",
            ((r"^gamma(\d)$", r"gammas[\1]"),),
            derived=lambda model: {"index": torch.arange(3)},
            ignored="^index$",
            requires={"norm": "ones"},
        ),
    )

    def __init__(self, norm="ones"):
        super().__init__()
        self.config = argparse.Namespace(norm=norm)
        self.gamma0 = nn.Parameter(torch.rand(3))
        self.gamma1 = nn.Parameter(torch.rand(3))


def test_rows_and_derived_tensors():
    model, other = Scaled(), Scaled()
    state = export_state(model, "rows")
    assert set(state) == {"gammas", "index"} and state["gammas"].shape == (2, 3)
    report = load_state_into(other, state, "theirs")
    assert_holds(other, model.state_dict())
    assert str(report) == "2 tensors from theirs in the naming of rows; 1 ignored: index"
    load_state_into(other, {"gammas": state["gammas"]})  # they need not be there


def test_rows_too_few():
    with pytest.raises(CheckpointError, match=r"gamma1 \(expected \[3\], got"):
        load_state_into(Scaled(), {"gammas": torch.rand(1, 3)})


def test_what_a_naming_requires():
    model = Scaled(norm="l2")
    with pytest.raises(CheckpointError, match="compute norm='ones', this model computes 'l2'"):
        export_state(model, "rows")
    with pytest.warns(UserWarning, match="trained with norm='ones'; the model has 'l2'"):
        load_state_into(model, {"gammas": torch.rand(2, 3)})


def test_unknown_naming(model):
    with pytest.raises(OptionError, match="unknown naming of Net 'other'; did you mean 'others'"):
        export_state(model, "other")


def test_kept_tensors(model):
    before = copy.deepcopy(model.state_dict())
    state = {name: tensor for name, tensor in state_of().items() if name != "dense.bias"}
    own, report = convert_state(model, state, keep=["dense.weight", "dense.bias"])
    assert report.kept == ("dense.weight", "dense.bias")
    assert torch.equal(own["dense.weight"], before["dense.weight"]) and torch.equal(
        own["conv.bias"], state["conv.bias"]
    )
    assert_holds(model, before)  # converting alone changes nothing


def test_resized_tensors(model):
    model.resized = lambda name, tensor: tensor[:2] if name == "conv.bias" else None
    report = load_state_into(model, state_of() | {"conv.bias": torch.arange(3.0)})
    assert report.resized == ("conv.bias",) and model.conv.bias.tolist() == [0.0, 1.0]


def test_other_naming(model):
    theirs = {name.replace("dense.", "their_dense."): tensor for name, tensor in state_of().items()}
    assert detect_namings(theirs, model)[0].name == "others"
    load_weights(model, theirs)
    assert_holds(model, state_of())


def test_dense_layers_stored_as_convolutions(model):
    state = state_of()
    state["dense.weight"] = state["dense.weight"][..., None, None]
    state["norm.weight"] = state["norm.weight"][:, None, None]
    load_weights(model, state)
    assert_holds(model, state_of())


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
    "empty": (lambda state: {}, "must map names to tensors, got an empty dict"),
    "no_tensors": (lambda state: {"epoch": 3}, "these values are not tensors: epoch"),
    "mixed": (lambda state: state | {"epoch": 3}, "these values are not tensors: epoch"),
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
    with pytest.raises(CheckpointError, match=r"expected one of the suffixes \.safetensors, .*, got .*net\.onnx"):
        load_state(tmp_path / "net.onnx")


def test_meta_model_cannot_be_filled():
    with torch.device("meta"):
        model = Net()
    with pytest.raises(CheckpointError, match="to_empty"):
        load_weights(model, state_of())


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_files_of_split_tensors(model, tmp_path, suffix):
    """The parts of a tensor share its memory, which not every file format takes."""
    load_weights(model, state_of())
    save_weights(model, tmp_path / f"net.{suffix}", naming="split")
    other = Net()
    load_weights(other, tmp_path / f"net.{suffix}")
    assert_holds(other, state_of())


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_files_may_be_read_by_those_who_read_others(model, tmp_path, suffix):
    (tmp_path / "other").touch()
    save_weights(model, tmp_path / f"net.{suffix}")
    assert (tmp_path / f"net.{suffix}").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_save_refuses(model, tmp_path):
    with pytest.raises(CheckpointError, match="change the suffix"):
        save_weights(model, tmp_path / "net.onnx")
    with pytest.raises(CheckpointError, match="cannot be written"):
        save_state(model.state_dict(), tmp_path / "no_such_folder" / "net.safetensors")
    with pytest.raises(OptionError, match="unknown naming"):
        save_weights(model, tmp_path / "net.pth", naming="timm")
    assert not list(tmp_path.iterdir())

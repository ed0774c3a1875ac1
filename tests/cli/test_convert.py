"""`regard convert`: other names, equal bits."""

import pytest
import torch

from regard.checkpoint import load_state
from regard.cli.options import parse_override
from regard.models import create_model, load_weights, save_weights

from .test_cli import call, one_error

SMALL_SWIN = ("embed_dim=16", "depths=2,2", "num_heads=1,2", "window_size=3", "img_size=24", "patch_size=2")
SMALL_VIT = ("embed_dim=32", "depth=2", "num_heads=2", "img_size=16", "patch_size=4")
SMALL_NAT = ("embed_dim=16", "depths=1,2", "num_heads=1,2", "dilations=1,1", "kernel_size=3", "layer_scale=0.5")
# a model, the fields that make it small, and the namings to go through
CASES = {
    "swiftformer_xs": ((), ("official", "timm", "regard")),
    "mobilevitv2_050": ((), ("official", "timm", "hf", "regard")),
    "nat_base": (SMALL_NAT, ("official", "hf", "regard")),
    "swin_tiny_patch4_window7_224": (SMALL_SWIN, ("official", "timm", "hf", "hf5", "regard")),
    "deit_tiny_distilled_patch16_224": (SMALL_VIT, ("official", "timm", "hf", "hf5", "regard")),
    "cait_xxs24_224": (SMALL_VIT, ("official", "timm", "regard")),
}


def assert_equal(state, expected):
    assert set(state) == set(expected)
    for name, tensor in expected.items():
        assert tensor.dtype == state[name].dtype and torch.equal(tensor, state[name]), name


def written(folder, name, naming="regard", **options):
    torch.manual_seed(0)
    model = create_model(name, **options)
    save_weights(model, folder / "net.pth", naming=naming)
    return folder / "net.pth"


@pytest.mark.one_parameter
@pytest.mark.parametrize("name", CASES)
def test_there_and_back(name, tmp_path):
    fields, namings = CASES[name]
    file = written(tmp_path, name, num_classes=7, **dict(map(parse_override, fields)))
    before = load_state(file)
    how = (() if not fields else ("--model", name)) + tuple(part for field in fields for part in ("--set", field))
    at = file
    for naming in namings:
        line = call("convert", at, "--to", naming, "--out", tmp_path / f"{naming}.safetensors", *how).stdout
        assert line.count("\n") == 1 and line.startswith(f"{name}: {len(before)} tensors from {at} in the naming of ")
        at = tmp_path / f"{naming}.safetensors"
    assert_equal(load_state(at), before)


def test_classes_and_channels_of_the_checkpoint(tmp_path):
    file = written(tmp_path, "swiftformer_xs", num_classes=3, in_chans=1)
    call("convert", file, "--to", "official")
    model = create_model("swiftformer_xs", num_classes=3, in_chans=1)
    load_weights(model, tmp_path / "net.official.safetensors")
    assert_equal(model.state_dict(), load_state(file))


def test_without_classifier(tmp_path):
    file = written(tmp_path, "nat_nano", num_classes=0)
    call("convert", file, "--to", "official", "--model", "nat_nano")
    assert "head.weight" not in load_state(tmp_path / "net.official.safetensors")


@pytest.mark.exhaustive
def test_first_generation_of_swiftformer(tmp_path):
    """Hugging Face's weights compute another normalizer than the others' code."""
    file = written(tmp_path, "swiftformer_xs", naming="hf", token_norm="ones")
    call("convert", file, "--to", "official")
    again = tmp_path / "net.official.safetensors"  # it remembers the normalizer
    call("convert", again, "--to", "hf", "--out", tmp_path / "hf.safetensors")
    assert_equal(load_state(tmp_path / "hf.safetensors"), load_state(file))
    torch.save(load_state(again), tmp_path / "authors.pth")  # the authors' own file cannot
    error = one_error(call("convert", tmp_path / "authors.pth", "--to", "hf", code=2))
    assert "compute token_norm='ones', this model computes 'l2'" in error
    call("convert", tmp_path / "authors.pth", "--to", "hf", "--set", "token_norm=ones")
    assert_equal(load_state(tmp_path / "authors.hf.safetensors"), load_state(file))


def test_first_generation_of_swiftformer_is_not_timms(tmp_path):
    file = written(tmp_path, "swiftformer_xs", naming="hf", token_norm="ones")
    assert "token_norm" in one_error(call("convert", file, "--to", "timm", code=2))


@pytest.mark.exhaustive
def test_models_of_equal_shapes(tmp_path):
    """NAT and DiNAT differ in Hugging Face's names only."""
    file = written(tmp_path, "nat_mini", num_classes=2)
    assert call("convert", file, "--to", "official").stdout.startswith("nat_mini: ")
    error = one_error(call("convert", file, "--to", "hf", code=2))
    assert "nat_mini or dinat_mini" in error and "--model" in error
    assert not (tmp_path / "net.hf.safetensors").exists()
    call("convert", file, "--to", "hf", "--model", "dinat_mini")
    assert "dinat.layernorm.weight" in load_state(tmp_path / "net.hf.safetensors")


def test_averaged_weights(tmp_path):
    model = create_model("nat_nano", num_classes=2)
    averaged = {name: tensor + 1 for name, tensor in model.state_dict().items()}
    torch.save({"model": model.state_dict(), "model_ema": averaged}, tmp_path / "run.pth")
    call("convert", tmp_path / "run.pth", "--to", "regard", "--ema")
    assert_equal(load_state(tmp_path / "run.regard.safetensors"), averaged)
    save_weights(model, tmp_path / "plain.pth")
    assert "no averaged weights" in one_error(
        call("convert", tmp_path / "plain.pth", "--to", "regard", "--ema", code=2)
    )


def test_nothing_is_replaced(tmp_path):
    file = written(tmp_path, "nat_nano", num_classes=2)
    (tmp_path / "net.official.safetensors").write_text("precious")
    assert "exists and is not replaced" in one_error(call("convert", file, "--to", "official", code=2))
    assert (tmp_path / "net.official.safetensors").read_text() == "precious"


def test_errors(tmp_path):
    file = written(tmp_path, "nat_nano", num_classes=2)
    assert "valid: regard, official, hf" in one_error(call("convert", file, "--to", "timm", code=2))
    assert "there is no file" in one_error(call("convert", tmp_path / "no.pth", "--to", "hf", code=2))
    assert "did you mean 'nat_nano'" in one_error(call("convert", file, "--to", "hf", "--model", "nat_nono", code=2))
    other = one_error(call("convert", file, "--to", "official", "--model", "swiftformer_nano", code=2))
    assert "This is a Nat checkpoint in the naming of regard and official" in other
    torch.save({"weight": torch.zeros(2, 2)}, tmp_path / "alien.pth")
    assert "of no model here" in one_error(call("convert", tmp_path / "alien.pth", "--to", "hf", code=2))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alien.pth", "net.pth"]


def test_help():
    assert "Example: regard convert" in call("convert", "--help").stdout

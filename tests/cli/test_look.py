"""`regard look`: pictures, pages, and errors before the long work."""

import sys

import pytest
import timm
import torch
from PIL import Image
from typer.testing import CliRunner

from regard.cli import app
from regard.models import create_model, save_weights


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("look")
    torch.manual_seed(0)
    save_weights(create_model("nat_nano", num_classes=3), root / "nat.safetensors")
    save_weights(create_model("swiftformer_nano", num_classes=3), root / "swift.safetensors")
    torch.save(timm.create_model("deit_tiny_patch16_224").state_dict(), root / "deit.pth")
    Image.effect_noise((60, 40), 80).convert("RGB").save(root / "photo.png")
    (root / "no.png").write_text("no image")
    (root / "empty.png").touch()
    (root / "folder.png").mkdir()
    (root / "names.txt").write_text("cat\ndog\nowl\n")
    return root


def call(*arguments, code=0):
    result = CliRunner().invoke(app, ["look", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result


def nat(place):
    return ("--model", "nat_nano", "--weights", place / "nat.safetensors")


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_a_picture_of_every_format(place, tmp_path, ending):
    out = tmp_path / f"look.{ending}"
    assert f"wrote {out}" in call(place / "photo.png", *nat(place), "--at", "19,20", "--out", out).stdout
    assert out.read_bytes().startswith({"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[ending])


@pytest.mark.parametrize("method", ["rollout", "attention-gradient", "sensitivity", "grad-cam", "input-gradient"])
def test_methods(place, tmp_path, method):
    call(place / "photo.png", *nat(place), "--method", method, "--target", "2", "--out", tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        assert len(picture.getcolors(1 << 24)) > 100


def test_heads_of_cait(place, tmp_path):
    """The class token's panels are those of the class-attention layers; unmixed heads draw another picture."""
    name, weights = "cait_xxs24_224", tmp_path / "cait.pth"
    torch.save(timm.create_model(name).state_dict(), weights)
    model = (place / "photo.png", "--model", name, "--weights", weights)
    call(*model, "--method", "class-token", "--out", tmp_path / "a.svg", "--html", tmp_path / "a.html")
    assert (tmp_path / "a.html").read_text().count('"mechanism": "talking heads"') == 24
    for unmixed, out in (((), "b.png"), (("--unmixed",), "c.png")):
        call(*model, "--at", "30,20", "--layer", 3, *unmixed, "--out", tmp_path / out)
    assert (tmp_path / "b.png").read_bytes() != (tmp_path / "c.png").read_bytes()
    result = call(*model, "--method", "class-token", "--layer", 3, "--out", tmp_path / "d.png", code=2)
    assert "layer must be one with a class token, 24 to 25, got 3" in result.stderr


def test_rollout_from_a_point(place, tmp_path):
    for at, out in ((("--at", "19,20"), "a.png"), ((), "b.png")):
        call(place / "photo.png", *nat(place), "--method", "rollout", *at, "--out", tmp_path / out)
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "b.png").read_bytes()


def test_token_weights_of_swiftformer(place, tmp_path):
    model = ("--model", "swiftformer_nano", "--weights", place / "swift.safetensors")
    call(place / "photo.png", *model, "--method", "pooled", "--out", tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 5000


def test_scores_have_baselines(place, tmp_path):
    result = call(place / "photo.png", *nat(place), "--method", "rollout", "--score", "--out", tmp_path / "a.png")
    assert [line.split()[0] for line in result.stdout.splitlines()[:3]] == ["rollout", "center", "random"]


def test_a_model_that_only_timm_has(place, tmp_path):
    """Its attention is adapted, and the page holds all of its layers."""
    name = "vit_tiny_r_s16_p8_224"
    torch.save(timm.create_model(name).state_dict(), tmp_path / "vit.pth")
    arguments = (place / "photo.png", "--model", name, "--weights", tmp_path / "vit.pth", "--method", "rollout")
    call(*arguments, "--out", tmp_path / "a.png", "--html", tmp_path / "a.html")
    assert (tmp_path / "a.html").read_text().count('"mechanism": "softmax"') == 12


def test_bias_grids(place, tmp_path):
    call("bias", "--kernel", 3, "--grid", "6x6", "--query", "5,0", "--wrong", "--out", tmp_path / "a.png")
    call("bias", *nat(place), "--out", tmp_path / "b.png")
    assert (tmp_path / "a.png").stat().st_size > 5000
    assert (tmp_path / "b.png").stat().st_size > 5000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("photo.png",), "expected a model, got none"),
        (("photo.png", "nat", "--at", "60,5"), "in the image, 0 <= X < 60 and 0 <= Y < 40, got 60,5"),
        (("photo.png", "nat", "--at", "-3,5"), "in the image, 0 <= X < 60 and 0 <= Y < 40, got -3,5"),
        (("photo.png", "nat", "--at", "nan,5"), "in the image, 0 <= X < 60"),
        (("photo.png", "nat", "--at", "2,5"), "expected a pixel that the model sees, got 2,5"),
        (("photo.png", "nat", "--at", "5"), "expected two numbers for --at, as in 3,4, got '5'"),
        (("photo.png", "nat", "--at", "25,5", "--layer", "6"), "layer must be one of the 6 of this model"),
        (("photo.png", "nat", "--at", "25,5", "--head", "99"), "head must be one of the 2 of this layer"),
        (("photo.png", "nat", "--at", "25,5", "--head", "-3"), "head must be one of the 2"),
        (("photo.png", "nat", "--method", "token"), "add --at X,Y"),
        (("photo.png", "nat", "--method", "class-token"), "expected a model with a class token"),
        (("photo.png", "nat", "--method", "pooled"), "has none; use --at X,Y"),
        (("photo.png", "nat", "--at", "25,5", "--unmixed"), "expected a model with talking heads"),
        (("photo.png", "nat", "--unmixed"), "expected a method that --unmixed affects"),
        (("photo.png", "nat", "--layer", "1"), "add --method token or --method class-token"),
        (("photo.png", "nat", "--at", "25,5", "--method", "grad-cam"), "expected a method that --at affects"),
        (("photo.png", "nat", "--at", "25,5", "--score"), "expected a method that --score affects"),
        (("photo.png", "nat", "--method", "rolout"), "did you mean 'rollout'"),
        (("photo.png", "nat", "--target", "7"), "unknown class '7'"),
        (("photo.png", "nat", "--out", "a.bmp"), "unknown format of a picture '.bmp'"),
        (("photo.png", "nat", "--out", "missing/a.png"), "expected a file that can be written"),
        (("photo.png", "nat", "--html", "missing/a.html"), "expected a file that can be written"),
        (("photo.png", "nat", "--out", "."), "unknown format of a picture ''"),
        (("photo.png", "nat", "--out", "folder.png"), "got the folder 'folder.png'; add a file name"),
        (("photo.png", "nat", "--out", "no.png/a.png"), "'no.png' is no folder"),
        (("photo.png", "nat", "--out", "/proc/x.png"), "expected a file that can be written"),
        (("photo.png", "nat", "--html", "folder.png"), "got the folder 'folder.png'; add a file name"),
        (("photo.png", "nat", "--html", "/proc/x.html"), "expected a file that can be written"),
        (("photo.png", "nat", "--html", "look.png"), "expected two files for --out and --html"),
        (("folder.png", "nat"), "which is a folder"),
        (("empty.png", "nat"), "is empty (0 bytes)"),
        (("photo.png", "--model", "nat_nano", "--weights", "gone.pth"), "there is no file gone.pth"),
        (("photo.png", "nat", "--kernel", "3"), "expected bias with --kernel"),
        (("bias", "--at", "3,4"), "expected an image with --at"),
        (("bias", "nat", "--grid", "3x4"), "expected bias without a model with --grid"),
        (("bias", "--kernel", "0"), "expected a kernel size from 1"),
        (("bias", "--grid", "100000x100000"), "a grid up to 64"),
        (("bias", "--query", "1.5,2"), "expected two whole numbers for --query"),
        (("bias", "--query", "9,9"), "must fit the grid"),
        (("no.png", "nat"), "has no known image format"),
        (("gone.png", "nat"), "does not exist"),
        (("photo.png", "--model", "nat_nano", "--weights", "swift.safetensors"), "nat_nano"),
        (("photo.png", "--model", "resnet18", "--weights", "resnet.pth"), "attention that regard knows"),
        (("bias", "--grid", "3x3", "--kernel", "4"), "must fit the grid"),
        (("bias", "--grid", "3"), "expected two numbers for --grid"),
        (("bias", "--model", "swiftformer_nano", "--weights", "swift.safetensors"), "which has none"),
    ],
)
def test_errors(place, monkeypatch, arguments, message):
    monkeypatch.chdir(place)
    if "resnet18" in arguments:
        torch.save(timm.create_model("resnet18").state_dict(), "resnet.pth")
    expanded = [part for one in arguments for part in (nat(place) if one == "nat" else (one,))]
    result = call(*expanded, code=2)
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert not (place / "look.png").exists()


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (2000, 5)])
def test_small_and_flat_images(place, tmp_path, size):
    """They are enlarged and cropped like any image."""
    Image.new("RGB", size).save(tmp_path / "photo.png")
    call(tmp_path / "photo.png", *nat(place), "--method", "rollout", "--out", tmp_path / "a.png")


def test_a_missing_package_is_an_error_before_the_work(place, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    result = call(place / "gone.png", *nat(place), "--out", tmp_path / "a.png", code=2)
    assert "pip install 'regard[look]'" in result.stderr

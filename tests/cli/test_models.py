"""`regard models`: what is known of the models, without building one."""

import json

import pytest
from typer.testing import CliRunner

import regard.models
from regard.cli import app
from regard.models import MODELS, Backbone

from .test_cli import call, one_error


@pytest.fixture
def unbuildable(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a model was built")

    monkeypatch.setattr(Backbone, "__init__", refuse)


def row(name):
    (line,) = (line for line in call("models").stdout.splitlines() if f" {name} " in line)
    return " ".join(line.split())


@pytest.mark.usefixtures("unbuildable")
def test_every_model_has_a_row():
    printed = call("models").stdout
    assert all(f" {name} " in printed for name in MODELS)
    assert row("nat_mini") == "nat_mini 19.98 M 2.7 G 224 px 81.8 % official hf"
    assert row("cait_m48_448") == "cait_m48_448 356.46 M 329.41 G 448 px 86.5 % official timm"
    assert row("nat_nano") == "nat_nano 0.58 M 0.005 G 8 px"


def test_narrow_terminal():
    printed = CliRunner().invoke(app, ["models"], env={"COLUMNS": "80"}).stdout
    lines = printed.splitlines()
    assert max(map(len, lines)) <= 80 and "…" not in printed
    assert all(any(f" {name} " in line for line in lines) for name in MODELS)


def test_one_model_shows_all():
    printed = call("models", "deit_tiny_distilled*").stdout
    config = MODELS["deit_tiny_distilled_patch16_224"].config
    assert all(field in printed for field in config.__dataclass_fields__)
    assert "https://dl.fbaipublicfiles.com/deit/deit_tiny_distilled_patch16_224-b40b3cf7.pth" in "".join(
        part for line in printed.splitlines() for part in line.split("│")[4:5] for part in part.split()
    )
    assert "apache-2.0" in printed and "hf://timm/" in printed
    assert "0.875" in printed and "bicubic" in printed and "squash" in printed


def test_one_model_without_weights():
    printed = call("models", "nat_nano").stdout
    assert "config of nat_nano" in printed and "weights of" not in printed


@pytest.mark.usefixtures("unbuildable")
def test_json():
    records = json.loads(call("models", "swin_*", "--json").stdout)
    assert [each["name"] for each in records] == regard.models.list_models("swin_*")
    first = records[0]
    variant = MODELS[first["name"]]
    assert (first["parameters"], first["gmacs"], first["top1"]) == (variant.parameters, variant.gmacs, variant.top1)
    assert first["config"]["window_size"] == 7
    assert first["weights"]["timm"]["source"] == variant.weights["timm"].source
    assert first["weights"]["timm"]["preprocessing"]["crop_pct"] == 0.9


def test_unknown_model():
    assert "did you mean 'nat_nano'" in one_error(call("models", "nat_nono", "--json", code=2))


def test_help():
    assert "Example: regard models" in call("models", "--help").stdout

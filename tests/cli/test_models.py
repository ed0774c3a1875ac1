"""`regard models`: the details of the models, without building one."""

import json

import pytest

import regard.models
from regard.models import MODELS, Backbone

from .test_cli import call, one_error


@pytest.fixture
def unbuildable(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a model was built")

    monkeypatch.setattr(Backbone, "__init__", refuse)


def row(name):
    (cells,) = (cells for cells in map(split, call("models").stdout.splitlines()) if cells[0] == name)
    return cells


def split(line):
    return line.split("\t")


@pytest.mark.usefixtures("unbuildable")
def test_every_model_has_a_row():
    assert [split(line)[0] for line in call("models").stdout.splitlines()[1:]] == list(MODELS)
    assert row("nat_mini") == ["nat_mini", "19.98", "2.7", "224", "81.8", "official hf"]
    assert row("cait_m48_448") == ["cait_m48_448", "356.46", "329.41", "448", "86.5", "official timm"]
    assert row("nat_nano") == ["nat_nano", "0.58", "0.005", "8", "", ""]


def test_one_model_shows_all():
    listing, config, weights = call("models", "deit_tiny_distilled*").stdout.split("\n\n")
    expected = MODELS["deit_tiny_distilled_patch16_224"]
    assert len(listing.splitlines()) == 2
    assert dict(map(split, config.splitlines()[1:])) == {
        field: str(getattr(expected.config, field)) for field in expected.config.__dataclass_fields__
    }
    rows = {cells[0]: cells for cells in map(split, weights.splitlines()[1:])}
    assert rows.keys() == expected.weights.keys()
    assert rows["official"][1:4] == [
        "74.5",
        "apache-2.0",
        "https://dl.fbaipublicfiles.com/deit/deit_tiny_distilled_patch16_224-b40b3cf7.pth",
    ]
    assert "crop 0.875 squash, bicubic" in rows["hf"][4]


def test_one_model_without_weights():
    assert len(call("models", "nat_nano").stdout.split("\n\n")) == 2  # the listing and the config


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

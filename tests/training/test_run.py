import json
from dataclasses import asdict, replace

import pytest
import torch
from PIL import Image

from regard.errors import DataError
from regard.models import MODELS
from regard.training import Run, TrainConfig, train


def state(run):
    return run.load_model().state_dict()


def contents(path):
    return {file.name: file.read_bytes() for file in path.iterdir() if file.is_file()}


def test_files(run):
    assert set(contents(run.path)) == {
        ".lock",
        "config.json",
        "curve.png",
        "metrics.jsonl",
        "split.json",
        "weights.safetensors",
    }


def test_config_is_complete(run, folder):
    fields = json.loads((run.path / "config.json").read_text())
    assert fields["model"] == "nat_nano" and fields["classes"] == ["blue", "green", "red"]
    assert fields["data"] == str(folder) and fields["recipe"]["seed"] == 0
    assert fields["model_config"] == json.loads(json.dumps(asdict(MODELS["nat_nano"].config)))
    assert fields["preprocessing"]["image_size"] == 8 and len(fields["preprocessing"]["mean"]) == 3
    assert fields["versions"]["torch"] and fields["versions"]["timm"]


def test_opens_as_it_was_created(config):
    run = train(TrainConfig(**config, overrides={"depths": (1, 1), "num_heads": (2, 2), "dilations": (1, 1)}))
    opened = Run.open(run.path)
    assert opened.config == run.config and opened.config.model_config["depths"] == (1, 1)
    assert len(opened.load_model().levels) == 2


def test_stays_usable_when_the_variant_changes(run, monkeypatch):
    before = state(run)
    variant = MODELS["nat_nano"]
    config = replace(variant.config, embed_dim=64, depths=(1, 1, 1))
    monkeypatch.setitem(MODELS, "nat_nano", replace(variant, config=config))
    after = state(Run.open(run.path))
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_curve_is_an_image(run):
    with Image.open(run.path / "curve.png") as image:
        colors = image.convert("RGB").getcolors(maxcolors=1 << 20)
    assert image.size == (1200, 480) and len(colors) > 50  # something is drawn


def test_earlier_run_is_refused(run, config):
    before = contents(run.path)
    with pytest.raises(DataError, match=r"which holds a finished run; replace it with --overwrite"):
        train(TrainConfig(**config))
    assert contents(run.path) == before


def test_earlier_run_is_replaced(run, config):
    (run.path / "notes.txt").write_text("mine")
    again = train(TrainConfig(**{**config, "epochs": 3, "overwrite": True}))
    assert len(again.metrics()) == 3 and (run.path / "notes.txt").read_text() == "mine"


def test_earlier_run_survives_a_mistake(run, config):
    before = contents(run.path)
    mistakes = {
        "nat_nono": {"model": "nat_nono"},
        "nowhere": {"data": "nowhere"},
        "depths": {"overrides": {"depth": 1}},
        "seed": {"seed": 2**32},
        "layer_scale": {"overrides": {"layer_scale": "x"}},
        "must fit the grid": {"overrides": {"small_grid": "error"}},
    }
    for message, mistake in mistakes.items():
        with pytest.raises(ValueError, match=message):
            train(TrainConfig(**{**config, **mistake, "overwrite": True}))
    assert contents(run.path) == before


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", ["notes.txt", "config.json", "weights.safetensors"])
def test_other_folders_are_refused(config, name, overwrite):
    config["out"].mkdir()
    (config["out"] / name).write_text("{}")
    with pytest.raises(DataError, match="has other content; name another"):
        train(TrainConfig(**config, overwrite=overwrite))
    assert contents(config["out"]) == {name: b"{}"}


def test_file_is_refused(config):
    config["out"].touch()
    with pytest.raises(DataError, match="got the file"):
        train(TrainConfig(**config))


def test_folder_that_cannot_be_written(config):
    config["out"].touch()
    with pytest.raises(DataError, match="name another folder"):
        train(TrainConfig(**{**config, "out": config["out"] / "below"}))


def test_empty_folder_is_used(config):
    config["out"].mkdir()
    assert len(train(TrainConfig(**config)).metrics()) == 2


@pytest.mark.parametrize(("name", "found"), [("none", "is not a folder"), ("", r"has no config\.json")])
def test_open_a_folder_that_is_not_a_run(tmp_path, name, found):
    with pytest.raises(DataError, match=f"which {found}; check the name"):
        Run.open(tmp_path / name)


def test_open_a_config_of_other_fields(run):
    fields = json.loads((run.path / "config.json").read_text())
    del fields["classes"]
    (run.path / "config.json").write_text(json.dumps(fields))
    with pytest.raises(DataError, match=r"got other fields .*classes"):
        Run.open(run.path)


@pytest.mark.parametrize("name", ["batch_size", "epochs"])
def test_open_a_recipe_without_a_number(run, name):
    fields = json.loads((run.path / "config.json").read_text())
    del fields["recipe"][name]
    (run.path / "config.json").write_text(json.dumps(fields))
    with pytest.raises(DataError, match=f"got other fields .*{name}"):
        Run.open(run.path)


def test_damaged_metrics(run):
    (run.path / "metrics.jsonl").write_text("{")
    with pytest.raises(DataError, match=r"one JSON object per line in .*metrics\.jsonl"):
        Run.open(run.path).unfinished()


def test_unfinished_runs(run):
    first, second = run.metrics()

    def found(*records):
        (run.path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        return run.unfinished()

    assert found(first, second) is None
    assert found(first) == "1 of 2 epochs are finished"
    assert found() == "0 of 2 epochs are finished"
    (run.path / "metrics.jsonl").unlink()
    assert run.unfinished() == "0 of 2 epochs are finished"


@pytest.mark.one_parameter
@pytest.mark.parametrize(
    ("left", "found"),
    [
        (["config.json"], r"an unfinished run \(0 of 2 epochs are finished; --resume continues it\)"),
        (["config.json", "weights.safetensors", "metrics.jsonl"], "a finished run"),
    ],
)
def test_the_next_try_is_told_what_the_folder_holds(run, config, left, found):
    for file in run.path.iterdir():
        if file.name not in left and file.is_file():
            file.unlink()
    with pytest.raises(DataError, match=f"which holds {found}; replace it with --overwrite"):
        train(TrainConfig(**config))
    assert len(train(TrainConfig(**config, overwrite=True)).metrics()) == 2


@pytest.mark.parametrize("content", [b'{"regard_run": 1,', b"\xff", b"{}"])
def test_open_a_damaged_config(run, content):
    (run.path / "config.json").write_bytes(content)
    with pytest.raises(DataError, match=r"config\.json', which cannot be read as one; restore it"):
        Run.open(run.path)


def test_open_without_weights(run):
    (run.path / "weights.safetensors").unlink()
    with pytest.raises(DataError, match="expected weights in"):
        Run.open(run.path).load_model()


def test_weights_are_exact(run):
    first, again = state(run), state(Run.open(run.path))
    assert all(torch.equal(tensor, again[name]) for name, tensor in first.items())

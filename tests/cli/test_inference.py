"""The commands that use a trained model: their options, output and exit codes."""

import csv
import json
import os
import subprocess
import sys

import pyarrow.parquet as parquet
import pytest
import torch
from typer.testing import CliRunner

from pictures import write_folder
from regard.cli import app
from regard.models import create_model, save_weights
from regard.training import Classifier, TrainConfig, evaluate, predict, train


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("inference")
    write_folder(root / "data")
    config = {"model": "nat_nano", "image_size": 8, "epochs": 1, "batch_size": 4, "workers": 0, "device": "cpu"}
    train(TrainConfig(data=root / "data", out=root / "run", **config))
    save_weights(create_model("nat_nano"), root / "nat.safetensors")
    (root / "bad.png").write_bytes(b"no image")
    return root


def call(*arguments, code=0, stdin=None):
    result = CliRunner().invoke(app, list(map(str, arguments)), input=stdin)
    assert result.exit_code == code, result.output
    return result


def test_eval_as_json_has_everything(place):
    fields = json.loads(call("eval", place / "run", "--json", "--knn", 3).stdout)
    score = evaluate(place / "run", knn=3)
    for name in ("images", "loss", "top1", "top5", "ece", "knn"):
        assert fields[name] == getattr(score, name)
    assert fields["images_per_second"] > 0
    assert [(each["name"], each["images"], each["correct"]) for each in fields["classes"]] == [
        (each.name, each.images, each.correct) for each in score.classes
    ]
    wrong = sum(each["images"] for each in fields["confusions"])
    assert wrong == score.images - sum(each.correct for each in score.classes)


def test_eval_per_class(place):
    with_table = call("eval", place / "run").stdout
    without = call("eval", place / "run", "--no-per-class").stdout
    assert with_table.startswith("class\t") and len(without.splitlines()) == 1
    assert all(word in without for word in ("loss", "top-1", "ECE", "images/s"))
    assert "3-nearest-neighbor" in call("eval", place / "run", "--knn", 3).stdout


def test_eval_draws_confusions(place, tmp_path):
    call("eval", place / "run", "--confusion", tmp_path / "a.PNG")
    assert (tmp_path / "a.PNG").read_bytes().startswith(b"\x89PNG")


def test_unwritable_files_are_found_before_the_work(place, monkeypatch):
    monkeypatch.setattr(Classifier, "open", lambda *_, **__: pytest.fail("loaded"))
    data, none = place / "data", place / "none"
    refused = {
        "expected a file that can be written": [
            ["eval", place / "run", "--confusion", none / "a.png"],
            ["predict", place / "run", data, "--csv", none / "a.csv"],
            ["embed", place / "run", data, "--out", none / "a.parquet"],
        ],
        "got the folder": [
            ["embed", place / "run", data, "--out", data],
            ["predict", place / "run", data, "--csv", data],
        ],
        "expected a picture's suffix": [["eval", place / "run", "--confusion", place / "a.txt"]],
    }
    for text, commands in refused.items():
        for arguments in commands:
            error = call(*arguments, code=2).stderr
            assert text in error and len(error.splitlines()) == 1
    assert not list(place.glob(".a*"))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--top", 0], "top must be at least 1, got 0"),
        (["--batch-size", 0], "batch_size must be at least 1, got 0"),
        (["--workers", -1], "workers must be at least 0, got -1"),
        (["--actors", 0], "actors must be at least 1, got 0"),
        (["--engine", "rey"], "unknown engine 'rey'; did you mean 'ray'?"),
        (["--device", "cpo"], "unknown device 'cpo'; did you mean 'cpu'?"),
        (["--classes", "none.txt"], "expected a text file of class names, got 'none.txt'"),
        (["--weights", "timm"], "a run has its own weights"),
    ],
)
def test_options_out_of_range(place, options, text):
    assert text in call("predict", place / "run", place / "data", *options, code=2).stderr


def test_ray_that_is_not_installed(place, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray.data", None)
    error = call("embed", place / "run", place / "data", "--out", place / "a.parquet", "--engine", "ray", code=2).stderr
    assert "pip install 'regard[ray]'" in error


def test_predict_standard_input(place):
    images = [place / "data" / "red" / "0.png", place / "bad.png", place / "data" / "blue" / "1.png"]
    result = call("predict", place / "run", "-", "--json", code=2, stdin="".join(f"{image}\n" for image in images))
    records = json.loads(result.stdout)
    assert [record["image"] for record in records] == list(map(str, images))
    assert [record["error"] is None for record in records] == [True, False, True]
    assert result.stderr.count("error: ") == 1 and "bad.png" in result.stderr


def test_predict_as_csv(place, tmp_path):
    pattern = place / "data" / "*" / "[01].png"
    result = call("predict", place / "run", pattern, place / "bad.png", "--csv", tmp_path / "a.csv", "--top", 2, code=2)
    assert result.stdout == ""
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as file:
        *rows, bad = csv.DictReader(file)
    assert len(rows) == 6 and "no known image format" in bad["error"]
    for row, prediction in zip(rows, predict(place / "run", [str(pattern)], top=2), strict=True):
        assert row["image"] == str(prediction.image)
        assert [(row[f"class_{rank}"], float(row[f"probability_{rank}"])) for rank in (1, 2)] == list(
            prediction.classes
        )


def test_a_model_with_a_checkpoint(place, tmp_path):
    weights = ["--weights", place / "nat.safetensors"]
    (record,) = json.loads(call("predict", "nat_nano", place / "data" / "red" / "0.png", *weights, "--json").stdout)
    assert record["classes"][0]["name"] in Classifier.open("nat_nano", place / "nat.safetensors").classes
    folder = write_folder(tmp_path / "val", count=2)
    for color, synset in (("blue", "n01440764"), ("green", "n01443537"), ("red", "n01484850")):
        (folder / color).rename(folder / synset)
    printed = call("eval", "nat_nano", *weights, "--data", folder).stdout
    assert "6 images" in printed and "tench, Tinca tinca\t2\t" in printed and "top-5" in printed
    (tmp_path / "names.txt").write_text("".join(f"name {index}\n" for index in range(1000)))
    arguments = ["predict", "nat_nano", folder, *weights, "--classes", tmp_path / "names.txt", "--json"]
    assert json.loads(call(*arguments).stdout)[0]["classes"][0]["name"].startswith("name ")


def test_embed(place, tmp_path):
    out = tmp_path / "a.parquet"
    assert (
        call("embed", place / "run", place / "data", "--out", out).stdout
        == f"wrote 18 images x 128 features to {out}\n"
    )
    result = call("embed", place / "run", place / "data", place / "bad.png", "--out", out, code=2)
    assert "bad.png" in result.stderr and "wrote 18 images" in result.stdout
    assert parquet.read_table(out).num_rows == 18


@pytest.mark.exhaustive
def test_a_pipe(place):
    """Names come from a program, and JSON goes to another."""
    listing = "\n".join(map(str, sorted((place / "data").rglob("*.png"))))
    command = [sys.executable, "-m", "regard.cli", "predict", str(place / "run"), "-", "--json", "--batch-size", "4"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, input=listing, capture_output=True, text=True, check=True, env=environment)
    assert len(json.loads(done.stdout)) == 18 and done.stderr == ""

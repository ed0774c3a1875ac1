import dataclasses
import json
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner

from pictures import write_folder
from regard.cli import app
from regard.cli import demo as demo_command
from regard.cli.options import describe_fields
from regard.models import create_model
from regard.training import Run, TrainConfig, evaluate, open_source, predict

COMMANDS = ("train", "eval", "predict", "embed", "models", "info", "convert", "check", "demo")


def call(*arguments, code=0):
    result = CliRunner().invoke(app, list(map(str, arguments)), env={"COLUMNS": "200"})
    assert result.exit_code == code, result.output
    return result


def on_terminal(*arguments, columns=80):
    """Return what a command prints on a terminal of so many columns, without colors."""
    environment = {**os.environ, "COLUMNS": str(columns), "TERM": "dumb", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "regard.cli", *map(str, arguments)]
    reader, terminal = pty.openpty()
    with subprocess.Popen(command, env=environment, stdout=terminal, stderr=terminal) as process:
        os.close(terminal)
        printed = b""
        try:
            while part := os.read(reader, 4096):
                printed += part
        except OSError:  # how Linux reports the end of a terminal's output
            pass
        os.close(reader)
    assert process.returncode == 0, printed
    return printed.decode().replace("\r\n", "\n")


def one_error(result):
    lines = result.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), result.stderr
    return lines[0]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("cli")
    write_folder(root / "data")
    return root


def train(place, out, *more, code=0):
    fast = (
        "--epochs",
        2,
        "--warmup-epochs",
        1,
        "--image-size",
        8,
        "--batch-size",
        4,
        "--workers",
        0,
        "--device",
        "cpu",
    )
    options = ("--model", "nat_nano", "--data", place / "data", "--out", place / out)
    return call("train", *options, *fast, *more, code=code)


@pytest.fixture(scope="module")
def run(place):
    torch.set_num_threads(1)
    train(place, "run")
    return place / "run"


def test_train_prints_a_line_per_epoch(place):
    (place / "data" / "red" / "notes.txt").touch()
    lines = train(place, "lines").stdout.splitlines()
    assert "seed 0" in lines[0] and f"{place / 'lines'}" in lines[0]
    assert "3 classes" in lines[1] and "1 files ignored" in lines[1] and "left out" not in lines[1]
    assert [line.split()[:2] for line in lines[2:4]] == [["epoch", "1/2"], ["epoch", "2/2"]]
    assert all("images/s" in line and "accuracy" in line for line in lines[2:4])
    assert lines[4].startswith("done: ") and len(lines) == 5


def test_train_with_overrides(place):
    train(place, "set", "--set", "depths=1,1,1", "--set", "small_grid=pad", "--set", "layer_scale=0.5")
    fields = Run.open(place / "set").config.model_config
    assert (fields["depths"], fields["small_grid"], fields["layer_scale"]) == ((1, 1, 1), "pad", 0.5)


def test_train_with_wrong_override(place):
    assert "expected --set FIELD=VALUE, got 'depths'" in one_error(train(place, "no", "--set", "depths", code=2))
    assert "did you mean 'depths'" in one_error(train(place, "no", "--set", "depth=1", code=2))


@pytest.mark.parametrize("override", ["mlp_ratio=x", "embed_dim=32.0", "drop_path_rate=1.5", "kernel_size=True"])
def test_train_with_override_of_a_wrong_value(place, override):
    field = override.partition("=")[0]
    assert f"error: {field} must " in one_error(train(place, "no", "--set", override, code=2))


def test_train_lists_broken_images_and_leaves_them_out(place):
    folder = write_folder(place / "damaged", count=20)
    broken = [image for image, _ in open_source(folder).train[:2]]
    for image in broken:
        image.write_bytes(b"no image")
    error = train(place, "left out", "--data", folder, code=2).stderr
    assert error.splitlines()[0].startswith("error: expected image files, got 2 that cannot be read; ")
    assert error.splitlines()[1:] == [f"  {image}: has no known image format" for image in broken]
    printed = train(place, "left out", "--data", folder, "--skip-broken").stdout
    assert "2 broken images left out" in printed
    assert all(f"left out {image}: has no known image format" in printed for image in broken)


def test_eval_leaves_out_broken_images(run, place):
    folder = write_folder(place / "other")
    (folder / "red" / "0.png").write_bytes(b"no image")
    assert "red/0.png" in one_error(call("eval", run, "--data", folder, code=2))
    assert "17 images" in call("eval", run, "--data", folder, "--skip-broken").stdout


def test_unfinished_runs_say_so(run, place):
    unfinished = shutil.copytree(run, place / "unfinished")
    first, second = (run / "metrics.jsonl").read_text().splitlines()
    assert '"is_last": true' in second
    (unfinished / "metrics.jsonl").write_text(f"{first}\n")
    found = "1 of 2 epochs are finished"
    warning = f"warning: the run {unfinished} is not fully trained: {found}; continue it with: regard train --resume "
    warning += f"{unfinished}\n"
    image = place / "data" / "red" / "0.png"
    for arguments in (["eval", "--json"], ["eval"], ["predict", "--json"], ["predict"]):
        more = [image] if arguments[0] == "predict" else []
        printed = call(arguments[0], unfinished, *more, *arguments[1:])
        assert printed.stderr == warning and "warning" not in printed.stdout
        assert call(arguments[0], run, *more, *arguments[1:]).stderr == ""
    converted = call("convert", unfinished / "weights.safetensors", "--to", "official", "--out", place / "new.pth")
    assert warning in converted.stderr
    assert f"an unfinished run ({found}; --resume continues it); replace it with --overwrite" in one_error(
        train(place, "unfinished", code=2)
    )


def test_options_are_the_fields_of_the_config():
    typer_group = typer.main.get_command(app)
    options = {option.name: option for option in typer_group.commands["train"].params}
    described = describe_fields(TrainConfig)
    for field in dataclasses.fields(TrainConfig):
        option = options.pop(field.name)
        assert described[field.name] and option.help == described[field.name]
        assert not option.required  # a recipe may give them, and the command says what is missing
        if field.default is not dataclasses.MISSING:
            assert option.default == field.default
    assert set(options) == {"resume", "show_recipe"}


def test_options_reach_the_config(monkeypatch):
    configs = []
    monkeypatch.setattr("regard.cli.train.train_with_bar", lambda config: configs.append(config) or Run(Path(), None))
    call("train", "--model", "m", "--data", "d", "--out", "o")
    assert configs.pop() == TrainConfig(model="m", data="d", out="o")
    changed = {
        "epochs": 3,
        "batch_size": 5,
        "lr": 0.5,
        "weight_decay": 0.25,
        "warmup_epochs": 1.5,
        "label_smoothing": 0.75,
        "color_jitter": 0.125,
        "image_size": 9,
        "seed": 7,
        "workers": 2,
        "device": "cpu",
        "mixed_precision": "bf16",
    }
    options = [text for name, value in changed.items() for text in (f"--{name.replace('_', '-')}", value)]
    flags = ["--skip-broken", "--overwrite", "--set", "depths=1,1", "--set", "small_grid=pad"]
    call("train", "--model", "m", "--data", "d", "--out", "o", *options, *flags)
    overrides = {"depths": (1, 1), "small_grid": "pad"}
    flags = {"skip_broken": True, "overwrite": True, "overrides": overrides}
    assert configs.pop() == TrainConfig(model="m", data="d", out="o", **changed, **flags)


def test_train_refuses_an_earlier_run(place, run):
    assert "--overwrite" in one_error(train(place, "run", code=2))


def test_train_replaces_an_earlier_run(place):
    train(place, "twice")
    train(place, "twice", "--overwrite", "--seed", 5)
    assert Run.open(place / "twice").config.recipe["seed"] == 5


def test_train_names_a_missing_folder(place):
    result = call("train", "--model", "nat_nano", "--data", place / "none", "--out", place / "no", code=2)
    assert str(place / "none") in one_error(result)


@pytest.mark.parametrize("earlier", [False, True])
def test_interrupt_before_anything_is_saved(place, run, monkeypatch, earlier):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("regard.training.train", interrupted)
    out = run.name if earlier else "no"
    printed = train(place, out, "--overwrite", code=130).stdout
    assert f"interrupted; nothing was saved in {place / out}" in printed


def test_interrupt_between_making_the_folder_and_saving(place, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    train(place, "emptied")
    monkeypatch.setattr(Run, "save_weights", interrupted)
    monkeypatch.setattr(Run, "save_curve", lambda *_: None)
    assert "nothing was saved in" in train(place, "emptied", "--overwrite", code=130).stdout


def test_other_errors_show_their_traceback(run, monkeypatch):
    def broken(*_, **__):
        raise ZeroDivisionError

    monkeypatch.setattr("regard.training.evaluate", broken)
    result = CliRunner().invoke(app, ["eval", str(run)])
    assert isinstance(result.exception, ZeroDivisionError)


def test_eval(run):
    printed = call("eval", run).stdout
    score = evaluate(run)
    assert f"{score.images} images" in printed and f"top-1 {score.top1:.2%}" in printed and "top-5" not in printed
    rows = [f"{each.name}\t{each.images}\t{each.correct}\t{each.accuracy:.2%}" for each in score.classes]
    assert printed.splitlines()[:-1] == ["class\timages\tcorrect\taccuracy", *rows]


@pytest.mark.exhaustive
def test_eval_of_names_that_look_like_markup(place):
    folder = write_folder(place / "markup")
    (folder / "red").rename(folder / "[red]")
    train(place, "run [bold]", "--data", folder)
    printed = on_terminal("eval", place / "run [bold]")
    assert "[red]" in printed and "run [bold]: accuracy per class" in printed
    assert "[red]\t" in call("eval", place / "run [bold]").stdout


def test_eval_as_json(run, place):
    score = evaluate(run, place / "data")
    fields = json.loads(call("eval", run, "--data", place / "data", "--json").stdout)
    assert (fields["loss"], fields["top1"], fields["images"]) == (score.loss, score.top1, score.images)
    assert [each["name"] for each in fields["classes"]] == ["blue", "green", "red"]


def test_eval_what_is_no_run(place):
    assert "config.json" in one_error(call("eval", place, code=2))


def test_predict(run, place):
    image = place / "data" / "red" / "0.png"
    printed = call("predict", run, image, "--top", 1).stdout
    name, probability = predict(run, [image])[0].classes[0]
    assert "0.png" in printed and f"{name} {probability:.1%}" in printed


def test_predict_reports_bad_images_and_predicts_the_others(run, place):
    (place / "bad [1].png").write_bytes(b"no image")
    result = call("predict", run, place / "bad [1].png", place / "data" / "red" / "0.png", code=2)
    assert "bad [1].png" in one_error(result) and "0.png" in result.stdout


def test_predict_as_json(run, place):
    images = [place / "data" / "red" / "0.png", place / "none.png"]
    good, bad = json.loads(call("predict", run, *images, "--json", code=2).stdout)
    best = predict(run, images)[0].classes
    assert [(each["name"], each["probability"]) for each in good["classes"]] == list(best) and good["error"] is None
    assert bad["classes"] == [] and "does not exist" in bad["error"]


@pytest.mark.parametrize("option", ["weights", "classes"])
def test_predict_by_a_file_that_has_its_own(place, option):
    names = place / "names.txt"
    names.write_text("cat\ndog\n")
    error = one_error(call("predict", "model.onnx", place / "a.png", f"--{option}", names, code=2))
    assert f"'model.onnx' is an exported model with {option} of its own; leave out --{option}" in error


def test_models():
    printed = call("models").stdout
    parameters = sum(parameter.numel() for parameter in create_model("nat_nano").parameters())
    (row,) = (row for row in map(str.split, printed.splitlines()) if row[0] == "nat_nano")
    assert row[1] == f"{parameters / 1e6:.2f}"


def test_models_by_part_of_the_name():
    printed = call("models", "swift").stdout
    assert "swiftformer_xs" in printed and "nat_mini" not in printed


def test_unknown_model():
    assert "did you mean 'nat_nano'" in one_error(call("models", "nat_nono", code=2))


def test_help():
    printed = call("--help").stdout
    assert all(command in printed for command in COMMANDS)
    for command in COMMANDS:
        assert f"Example: regard {command}" in call(command, "--help").stdout


def test_version():
    assert call("--version").stdout.startswith("regard ")


def test_misspelled_command():
    assert "Did you mean 'train'" in call("trian", code=2).stderr


def test_misspelled_option():
    assert "--model" in call("train", "--modle", "nat_nano", code=2).stderr


WITHOUT = """
import sys

for name in ("timm", "torchvision", "accelerate", "matplotlib", "PIL", "sklearn"):
    sys.modules[name] = None
from regard.cli import app

for arguments in (["models", "nat_nano"], ["check"], sys.argv[1:]):
    try:
        app(arguments)
    except SystemExit as leave:
        print("left with", leave.code)
"""


@pytest.mark.exhaustive
def test_without_the_optional_packages(tmp_path):
    train = ["train", "--model", "nat_nano", "--data", "digits", "--out", str(tmp_path / "run")]
    done = subprocess.run([sys.executable, "-c", WITHOUT, *train], capture_output=True, text=True, check=True)
    codes = [line for line in done.stdout.splitlines() if line.startswith("left with")]
    assert codes == ["left with 0", "left with 0", "left with 2"]
    assert "pip install 'regard[train]'" in one_error(done)


@pytest.mark.exhaustive
def test_demo_says_who_missed_the_goal(run, tmp_path, monkeypatch):
    shutil.copytree(run, tmp_path / "demo" / "nat_nano")  # an earlier one, to be replaced
    monkeypatch.setattr(demo_command, "GOAL", 1.01)
    monkeypatch.setattr(demo_command, "MODELS", ("nat_nano",))
    result = call("demo", "--out", tmp_path / "demo", "--epochs", 3, code=1)
    assert "failed: expected a test accuracy of at least 101%, missed by nat_nano" in result.stderr
    assert "passed" not in result.stdout
    assert "0.png" in result.stdout and str(tmp_path / "demo" / "nat_nano") in result.stdout
    assert f"{evaluate(tmp_path / 'demo' / 'nat_nano').top1:.2%}" in result.stdout


@pytest.mark.exhaustive
def test_demo_ends_with_the_next_command(tmp_path, monkeypatch):
    monkeypatch.setattr(demo_command, "GOAL", 0.0)
    monkeypatch.setattr(demo_command, "MODELS", ("nat_nano",))
    monkeypatch.setattr(sys, "argv", [".venv/bin/regard"])
    *_, passed, last = call("demo", "--out", tmp_path / "demo", "--epochs", 1).stdout.splitlines()
    assert passed == "passed" and last.startswith("next: .venv/bin/regard predict ")
    printed = call(*last.removeprefix("next: .venv/bin/regard ").split()).stdout  # it can be run as it is
    assert "0.png\t" in printed

import json
import shutil
import subprocess
import sys

import pytest
import torch
from typer.testing import CliRunner

from pictures import write_folder
from regard.attention import MECHANISMS
from regard.attention._native.loader import NATIVE
from regard.cli import app
from regard.cli import demo as demo_verb
from regard.models import MODELS, create_model
from regard.training import Run, evaluate, predict

VERBS = ("train", "eval", "predict", "models", "info", "convert", "check", "demo")


def call(*arguments, code=0):
    result = CliRunner().invoke(app, list(map(str, arguments)), env={"COLUMNS": "200"})
    assert result.exit_code == code, result.output
    return result


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
    assert "3 classes" in lines[1] and "1 files ignored" in lines[1]
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
def test_interrupt_before_there_is_anything(place, run, monkeypatch, earlier):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("regard.training.train", interrupted)
    out = run.name if earlier else "no"
    printed = train(place, out, "--overwrite", code=130).stdout
    assert f"interrupted; nothing was saved yet in {place / out}" in printed


def test_interrupt_between_making_the_folder_and_saving(place, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    train(place, "emptied")
    monkeypatch.setattr(Run, "save", interrupted)
    monkeypatch.setattr(Run, "save_curve", lambda *_: None)
    assert "nothing was saved yet in" in train(place, "emptied", "--overwrite", code=130).stdout


def test_other_errors_show_their_traceback(place, monkeypatch):
    def broken(*_):
        raise ZeroDivisionError

    monkeypatch.setattr("regard.training.evaluate", broken)
    result = CliRunner().invoke(app, ["eval", str(place)])
    assert isinstance(result.exception, ZeroDivisionError)


def test_eval(run):
    printed = call("eval", run).stdout
    score = evaluate(run)
    assert f"{score.images} images" in printed and f"top-1 {score.top1:.2%}" in printed and "top-5" not in printed
    assert all(each.name in printed for each in score.classes)


def test_eval_of_names_that_look_like_markup(place):
    folder = write_folder(place / "markup")
    (folder / "red").rename(folder / "[red]")
    train(place, "run [bold]", "--data", folder)
    printed = call("eval", place / "run [bold]").stdout
    assert "[red]" in printed and "run [bold]: accuracy" in " ".join(printed.split())  # a long path wraps


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


def test_models():
    printed = call("models").stdout
    parameters = sum(parameter.numel() for parameter in create_model("nat_nano").parameters())
    (line,) = (line for line in printed.splitlines() if " nat_nano " in line)
    assert all(f" {name} " in printed for name in MODELS) and f"{parameters / 1e6:.2f} M" in line


def test_models_by_part_of_the_name():
    printed = call("models", "swift").stdout
    assert "swiftformer_xs" in printed and "nat_mini" not in printed


def test_unknown_model():
    assert "did you mean 'nat_nano'" in one_error(call("models", "nat_nono", code=2))


def test_check():
    printed = call("check").stdout
    assert all(mechanism.name in printed for mechanism in MECHANISMS)
    assert torch.__version__ in printed and "timm" in printed and "missing" not in printed
    assert (NATIVE.instruction_set or NATIVE.problem[:20]) in printed


def test_check_notices_a_broken_reference(monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("broken on purpose")

    mechanism = MECHANISMS[0]
    fields = {name: getattr(mechanism, name) for name in mechanism.__dataclass_fields__}
    monkeypatch.setattr("regard.cli.check.MECHANISMS", (type(mechanism)(**{**fields, "function": broken}),))
    assert "broken on purpose" in call("check", code=1).stdout


def test_help():
    printed = call("--help").stdout
    assert all(verb in printed for verb in VERBS)
    for verb in VERBS:
        assert f"Example: regard {verb}" in call(verb, "--help").stdout


def test_version():
    assert call("--version").stdout.startswith("regard ")


def test_misspelt_verb():
    assert "Did you mean 'train'" in call("trian", code=2).stderr


def test_misspelt_option():
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


def test_without_the_optional_packages(tmp_path):
    train = ["train", "--model", "nat_nano", "--data", "digits", "--out", str(tmp_path / "run")]
    done = subprocess.run([sys.executable, "-c", WITHOUT, *train], capture_output=True, text=True, check=True)
    codes = [line for line in done.stdout.splitlines() if line.startswith("left with")]
    assert codes == ["left with 0", "left with 0", "left with 2"]
    assert "pip install 'regard[train]'" in one_error(done)


def test_demo_says_who_missed_the_goal(run, tmp_path, monkeypatch):
    shutil.copytree(run, tmp_path / "demo" / "nat_nano")  # an earlier one, to be replaced
    monkeypatch.setattr(demo_verb, "GOAL", 1.01)
    monkeypatch.setattr(demo_verb, "MODELS", ("nat_nano",))
    result = call("demo", "--out", tmp_path / "demo", "--epochs", 3, code=1)
    assert "missed the goal of 101%: nat_nano" in result.stderr
    assert "0.png" in result.stdout and str(tmp_path / "demo" / "nat_nano") in result.stdout
    assert f"{evaluate(tmp_path / 'demo' / 'nat_nano').top1:.2%}" in result.stdout

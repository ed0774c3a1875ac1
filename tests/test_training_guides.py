"""The commands of the guides to fine-tune, distill and resume do what they say, on generated images and few epochs."""

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from guides import commands_of, run_command
from regard.training import Run
from test_docs import blocks, reader  # noqa: F401

FINETUNE, DISTILL, RESUME = (f"docs/guides/{name}.md" for name in ("finetune", "distill", "resume"))
SHORT = ("--epochs", "1", "--device", "cpu", "--workers", "0")
PHOTOS = ("--image-size", "32")


def follow(page):
    """Run all commands of a page in their order, trainings for one epoch; return the output of each."""
    outputs = {}
    for line in commands_of(page):
        words = shlex.split(line)
        is_new = words[1] == "train" and not {"--resume", "--show-recipe"} & set(words)
        more = (*SHORT, *(PHOTOS if "photos" in words else ())) if is_new else ()
        outputs[line] = run_command(line, *more)[0].stdout
    return outputs


def recipe_of(run):
    return json.loads(Path(run, "config.json").read_text())["recipe"]


@pytest.mark.exhaustive
def test_finetune(reader):  # noqa: F811
    outputs = follow(FINETUNE)
    assert len(outputs) == 9
    assert recipe_of("runs/photos")["layer_decay"] == 0.75
    assert recipe_of("runs/probe")["linear_probe"] and recipe_of("runs/lora")["lora_rank"] == 8
    assert recipe_of("runs/frozen")["freeze_stages"] == 2
    with Image.open("confusion.png") as picture:
        assert min(picture.size) > 100
    assert len(Path("photos.csv").read_text().splitlines()) == 17


@pytest.mark.exhaustive
def test_distill(reader):  # noqa: F811
    outputs = follow(DISTILL)
    assert len(outputs) == 5
    assert recipe_of("runs/student")["distillation"] == "soft" and recipe_of("runs/hard")["distillation"] == "hard"
    assert Run.open("runs/student").config.model_config["depths"] == (1, 1, 1)
    assert not Run.open("runs/two").unfinished()


@pytest.mark.exhaustive
def test_resume(reader):  # noqa: F811
    assert len(follow(RESUME)) == 4
    assert not Run.open("runs/digits").unfinished() and not Run.open("runs/often").unfinished()
    assert recipe_of("runs/often")["keep"] == 3


def test_the_loop_resubmits_on_75(reader):  # noqa: F811
    """The script runs a stand-in for regard that stops twice with 75, and resumes then."""
    (script,) = blocks(RESUME, "bash")
    stand_in = Path("bin/python")
    stand_in.parent.mkdir()
    stand_in.write_text(
        '#!/bin/bash\necho "$@" >> calls\nmkdir -p runs/digits\ntouch runs/digits/config.json\n'
        "[ $(wc -l < calls) -lt 3 ] && exit 75\nexit 0\n"
    )
    stand_in.chmod(0o755)
    environment = {**os.environ, "PATH": f"{stand_in.parent.resolve()}:{os.environ['PATH']}"}
    assert subprocess.run(["bash", "-c", script], env=environment, check=False).returncode == 0
    calls = Path("calls").read_text().splitlines()
    assert calls == [
        "-m regard train --model nat_nano --data digits --epochs 30 --out runs/digits",
        *["-m regard train --resume runs/digits"] * 2,
    ]


@pytest.mark.exhaustive
@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 75), ("SIGUSR1", 75), ("SIGINT", 130)])
def test_exit_codes(name, code, reader):  # noqa: F811
    line, *_ = commands_of(RESUME)
    command = [sys.executable, "-m", *shlex.split(line), "--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        for text in process.stdout:
            if text.startswith("epoch"):
                break
        process.send_signal(getattr(signal, name))
        output = process.stdout.read()
    assert process.returncode == code, output
    assert list(Path("runs/digits/checkpoints").glob("*.pt"))


@pytest.mark.exhaustive
def test_benchmark_of_the_guide(tmp_path):
    """One epoch of every run, then the table and the picture."""
    import finetuning

    finetuning.main(["--out", str(tmp_path), "--epochs", "1", "--pretraining-epochs", "1", "--seeds", "0"])
    with Image.open(tmp_path / "finetune.png") as picture:
        assert picture.size == (1200, 675)

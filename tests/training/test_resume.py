"""What happens to real jobs: signals, full disks, a second training, other settings, other processes."""

import json
import os
import signal
import subprocess
import sys

import pytest
import torch

from regard.errors import DataError, OptionError, RegardError
from regard.training import Run, StopRequested, TrainConfig, Watcher, resume, train
from regard.training.checkpoints import checkpoint_files, load_last

from .killing import kill_and_resume

VARIED = {"ema_decay": 0.9, "mixup": 0.4, "accumulate": 2, "clip_grad": 1.0, "overrides": {"drop_path_rate": 0.3}}


class At(Watcher):
    """Do something after a step."""

    def __init__(self, epoch, step, action):
        self.at, self.action = (epoch, step), action

    def stepped(self, progress):
        if (progress.epoch, progress.step) == self.at:
            self.action()


def tensors(run):
    state = load_last(run.path)
    optimizer = {
        f"{place}.{name}": value for place, each in state["optimizer"]["state"].items() for name, value in each.items()
    }
    return {**state["model"], **state.get("average", {}), **optimizer}


def assert_equal(one, other):
    left, right = tensors(one), tensors(other)
    assert left.keys() == right.keys()
    assert [name for name in left if not torch.equal(torch.as_tensor(left[name]), torch.as_tensor(right[name]))] == []
    weights, others = (run.load_model().state_dict() for run in (one, other))
    assert [name for name in weights if not torch.equal(weights[name], others[name])] == []


def test_an_interrupt_between_updates_keeps_the_gradients(config, tmp_path):
    config = {**config, "accumulate": 3}
    calm = train(TrainConfig(**{**config, "out": tmp_path / "calm"}))

    def interrupt():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(TrainConfig(**config), watcher=At(1, 2, interrupt))
    assert load_last(config["out"])["gradients"]
    assert_equal(resume(config["out"]), calm)


@pytest.mark.one_parameter
@pytest.mark.parametrize("settings", [VARIED, {"opt": "lion", "layer_decay": 0.5}, {"freeze_stages": 1}], ids=str)
def test_a_signal_saves_and_the_run_continues_bit_for_bit(config, tmp_path, settings):
    calm = train(TrainConfig(**{**config, **settings, "out": tmp_path / "calm"}))
    for place, name in ((1, 2), "SIGUSR1"), ((2, 1), "SIGTERM"):
        out = tmp_path / name
        with pytest.raises(StopRequested, match=name) as raised:
            watcher = At(*place, lambda name=name: os.kill(os.getpid(), getattr(signal, name)))
            train(TrainConfig(**{**config, **settings, "out": out}), watcher=watcher)
        assert raised.value.signal == name
        assert signal.getsignal(getattr(signal, name)) == signal.SIG_DFL
        assert load_last(out)["position"]["step"] in (place[1], place[1] + 1)  # it waits for an update
        assert_equal(resume(out), calm)


def test_a_run_without_a_checkpoint_starts_again(config, tmp_path):
    calm = train(TrainConfig(**{**config, "out": tmp_path / "calm"}))
    with pytest.raises(KeyError):
        train(TrainConfig(**config), watcher=At(1, 1, lambda: {}["a bug"]))
    assert not checkpoint_files(config["out"] / "checkpoints")
    assert_equal(resume(config["out"]), calm)


def test_a_finished_run_stays_as_it_is(run):
    before = {path: path.stat().st_mtime_ns for path in checkpoint_files(run.path / "checkpoints")}
    assert len(before) == 2
    resume(run)
    assert {path: path.stat().st_mtime_ns for path in checkpoint_files(run.path / "checkpoints")} == before


def test_other_settings_are_listed(run):
    message = r"lr was 0.001 and would be 0.1, epochs was 2 and would be 9; leave them out"
    with pytest.raises(OptionError, match=message):
        resume(run, lr=0.1, epochs=9, workers=0, batch_size=4)


def test_checkpoints_are_kept_and_counted(config):
    run = train(TrainConfig(**config, checkpoint_minutes=0.0, keep=3))
    files = checkpoint_files(run.path / "checkpoints")
    assert len(files) == 3 and files[-1].name == "epoch00003-step0000000.pt"


def test_a_damaged_checkpoint(run):
    last = checkpoint_files(run.path / "checkpoints")[-1]
    last.write_bytes(last.read_bytes()[:1000])
    with pytest.raises(DataError, match="delete the file to resume from an earlier one"):
        resume(run)
    last.unlink()
    assert resume(run).unfinished() is None


def test_no_space_left(config, monkeypatch):
    """The error names the last good checkpoint, which is whole."""
    save = torch.save

    def full(state, path):
        if "epoch00003" in str(path):
            path.write_bytes(b"some of it")
            raise OSError(28, "No space left on device")
        save(state, path)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(DataError, match=r"No space left.*epoch00002-step0000000.pt' is the last good one.*--resume"):
        train(TrainConfig(**config))
    monkeypatch.undo()
    assert [path.name for path in (config["out"] / "checkpoints").iterdir()] == ["epoch00002-step0000000.pt"]
    assert resume(config["out"]).unfinished() is None


def test_two_trainings_into_one_folder(config):
    class Second(Watcher):
        def started(self, config, source, parameters):
            with pytest.raises(DataError, match="another training writes"):
                train(TrainConfig(**{**vars(config), "overwrite": True}))

    train(TrainConfig(**config), watcher=Second())


def test_a_folder_that_cannot_be_written(config, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="expected a folder that can be written"):
        train(TrainConfig(**{**config, "out": tmp_path / "file" / "run"}))


def test_a_loss_that_is_not_finite_names_the_images(config, monkeypatch):
    from regard.training import objective

    original, calls = objective.Objective.__call__, []

    def broken(self, model, images, labels):
        loss, logits = original(self, model, images, labels)
        calls.append(0)
        return (loss * float("nan") if len(calls) == 5 else loss), logits

    monkeypatch.setattr(objective.Objective, "__call__", broken)
    with pytest.raises(
        RegardError, match=r"got nan in step \d of epoch \d \(learning rate .*\), with the images .*png"
    ) as raised:
        train(TrainConfig(**config))
    assert str(raised.value).count(".png") == config["batch_size"]
    calls.clear()
    lines = []

    class Notes(Watcher):
        def noted(self, line):
            lines.append(line)

    run = train(TrainConfig(**config, on_nan="skip", overwrite=True), watcher=Notes())
    assert [record["skipped_steps"] for record in run.metrics()].count(1) == 1
    (line,) = lines
    assert line.startswith("left out step") and line.count(".png") == config["batch_size"]


@pytest.mark.exhaustive
def test_gradients_that_are_not_finite(config, monkeypatch):
    """A finite loss with infinite gradients must not reach the weights."""
    from regard.training import loop

    norms = []

    def norm(parameters):
        norms.append(0)
        return float("inf") if len(norms) == 2 else 1.0

    monkeypatch.setattr(loop, "gradient_norm", norm)
    with pytest.raises(RegardError, match=r"expected a finite norm of the gradients, got inf in step 2 of epoch 1"):
        train(TrainConfig(**config))
    norms.clear()
    run = train(TrainConfig(**config, on_nan="skip", overwrite=True))
    assert run.metrics()[0]["skipped_steps"] == 1


@pytest.mark.exhaustive
def test_sigkill(tmp_path):
    assert kill_and_resume(tmp_path, 4) == [""] * 4


def torchrun(code, *args, processes=2, timeout=240):
    """Run Python code in several processes; return the exit code and what they printed."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, code, *args], env=environment, capture_output=True, text=True, timeout=timeout)
    return done.returncode, done.stdout + done.stderr


PROGRAM = """
import json, os, signal, sys
from regard.training import TrainConfig, Watcher, resume, train
from regard.training.processes import is_first

task = json.loads(sys.argv[1])
losses = []

class Losses(Watcher):
    def stepped(self, progress):
        losses.append(progress.loss)
        if [progress.epoch, progress.step] == task.get("stop"):
            os.kill(os.getpid(), signal.SIGTERM)

if "resume" in task:
    run = resume(task["resume"], watcher=Losses())
else:
    run = train(TrainConfig(**task["config"]), watcher=Losses())
if is_first():
    print("RESULT", json.dumps([run.metrics(), losses]))
"""


@pytest.fixture
def program(tmp_path):
    file = tmp_path / "program.py"
    file.write_text(PROGRAM)
    return str(file)


def digits(tmp_path, name, **settings):
    return {
        "model": "nat_nano",
        "data": "digits",
        "out": str(tmp_path / name),
        "epochs": 2,
        "batch_size": 64,
        "device": "cpu",
        "overrides": {"embed_dim": 16, "depths": [1, 1, 1], "drop_path_rate": 0.0},
        **settings,
    }


def result(printed):
    (line,) = [line for line in printed.splitlines() if line.startswith("RESULT")]
    return json.loads(line.removeprefix("RESULT"))


@pytest.mark.exhaustive
@pytest.mark.parametrize("parallel", ["ddp", "fsdp2"])
def test_two_processes_are_one_with_the_doubled_batch(program, tmp_path, parallel):
    """The same losses in 20 steps, and no validation image is counted twice: 180 images over two processes."""
    settings = {"parallel": parallel, "ema_decay": 0.9, "clip_grad": 1.0, "epochs": 3}
    alone = train(TrainConfig(**{**digits(tmp_path, "alone", **settings), "batch_size": 128, "parallel": "ddp"}))
    code, printed = torchrun(program, json.dumps({"config": digits(tmp_path, "both", **settings)}))
    assert code == 0, printed
    found, losses = result(printed)
    assert len(losses) == 27  # steps of three epochs
    for one, other in zip(alone.metrics(), found, strict=True):
        for name in ("train_loss", "val_loss"):
            assert other[name] == pytest.approx(one[name], rel=2e-6)
        assert other["val_accuracy"] * 180 == pytest.approx(one["val_accuracy"] * 180)
        assert other["train_accuracy"] * 1152 == pytest.approx(one["train_accuracy"] * 1152)


@pytest.mark.exhaustive
def test_two_processes_stop_and_one_goes_on(program, tmp_path):
    """A signal to one process saves all; one process with as many images per step continues."""
    calm = train(TrainConfig(**{**digits(tmp_path, "calm"), "batch_size": 128}))
    code, printed = torchrun(program, json.dumps({"config": digits(tmp_path, "run"), "stop": [1, 4]}))
    assert code != 0 and "StopRequested: stopped by SIGTERM" in printed
    run = Run.open(tmp_path / "run")
    assert load_last(run.path)["position"]["step"] == 4
    resumed = resume(run)
    for one, other in zip(calm.metrics(), resumed.metrics(), strict=True):
        assert other["train_loss"] == pytest.approx(one["train_loss"], rel=2e-6)


@pytest.mark.exhaustive
def test_other_numbers_of_images_per_step(program, tmp_path):
    with pytest.raises(StopRequested):
        train(
            TrainConfig(**digits(tmp_path, "run", batch_size=33)),
            watcher=At(1, 2, lambda: os.kill(os.getpid(), signal.SIGTERM)),
        )
    code, printed = torchrun(program, json.dumps({"resume": str(tmp_path / "run")}))
    assert code != 0 and "expected 33 images per step as before, got 32, 16 in each of 2 processes" in printed


@pytest.mark.exhaustive
def test_a_broken_image_ends_all_processes(program, tmp_path, folder, config):
    """One clear error, a checkpoint, and no process that waits."""
    images = sorted(folder.rglob("*.png"))
    task = {**config, "data": str(folder), "out": str(config["out"]), "batch_size": 2, "epochs": 1, "warmup_epochs": 0}
    breaking = PROGRAM.replace(
        "class Losses(Watcher):",
        """class Losses(Watcher):
    def started(self, config, source, parameters):
        for image, _ in source.train[2:]:
            image.write_bytes(b"no image")
""",
    )
    file = tmp_path / "breaking.py"
    file.write_text(breaking)
    code, printed = torchrun(str(file), json.dumps({"config": task}))
    assert code != 0 and "BrokenImageError: expected an image file" in printed, printed
    assert checkpoint_files(config["out"] / "checkpoints") and images


DIES = """if not is_first():
    import pathlib, threading, time
    from regard.training.checkpoints import checkpoint_files
    def die():
        while not checkpoint_files(pathlib.Path(task["config"]["out"], "checkpoints")):
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGKILL)
    threading.Thread(target=die, daemon=True).start()
"""


@pytest.mark.exhaustive
def test_a_killed_process_ends_the_others(tmp_path):
    file = tmp_path / "killed.py"
    file.write_text(PROGRAM.replace('if "resume" in task:', DIES + 'if "resume" in task:'))
    settings = digits(tmp_path, "run", epochs=10000, checkpoint_minutes=0.01)
    code, _ = torchrun(str(file), json.dumps({"config": settings}))
    assert code != 0 and load_last(tmp_path / "run") is not None


@pytest.mark.exhaustive
def test_a_signal_to_all_processes_of_a_job(config, tmp_path):
    """A scheduler's signal ends the processes that read images before the main one can save."""
    import multiprocessing

    def end_all():
        for reader in multiprocessing.active_children():
            os.kill(reader.pid, signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)

    calm = train(TrainConfig(**{**config, "out": tmp_path / "calm"}))
    with pytest.raises(StopRequested):
        train(TrainConfig(**{**config, "workers": 1}), watcher=At(1, 2, end_all))
    assert_equal(resume(config["out"], workers=0), calm)

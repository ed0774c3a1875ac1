import math
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from PIL import Image

from regard.errors import BrokenImageError, DataError, OptionError, RegardError, UnsupportedError
from regard.models import create_model
from regard.training import Run, TrainConfig, Watcher, evaluate, open_source, predict, resume, train
from regard.training.checkpoints import load_last


class Calls(Watcher):
    def __init__(self):
        self.calls = []

    def started(self, config, source, parameters):
        self.calls.append(("started", parameters))

    def stepped(self, progress):
        self.calls.append(("stepped", progress.epoch, progress.step))

    def validated(self, record):
        self.calls.append(("validated", record.epoch))


class InterruptAt(Watcher):
    def __init__(self, epoch, step):
        self.at = (epoch, step)

    def stepped(self, progress):
        if (progress.epoch, progress.step) == self.at:
            raise KeyboardInterrupt


def state_of(run):
    """The last checkpoint."""
    return load_last(run.path)


def weights(run):
    return run.load_model().state_dict()


def same(one, other):
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_metrics(run):
    records = run.metrics()
    assert [record["epoch"] for record in records] == [1, 2]
    for record in records:
        assert all(math.isfinite(value) for value in record.values())
        assert record["skipped_steps"] == 0 and record["is_last"] == (record["epoch"] == 2)
        assert 0 <= record["train_accuracy"] <= 1 and 0 <= record["val_accuracy"] <= 1
        assert record["images_per_second"] > 0 and record["seconds"] > 0
    best = max(records, key=lambda record: (record["val_accuracy"], -record["val_loss"]))
    assert [record["is_best"] for record in records][records.index(best) :] == [True] + [False] * (2 - best["epoch"])
    score = evaluate(run)
    assert score.top1 == best["val_accuracy"] and score.loss == pytest.approx(best["val_loss"], rel=1e-5)


def test_rate_warms_up_and_falls(config):
    records = train(TrainConfig(**{**config, "epochs": 4, "lr": 0.004})).metrics()
    rates = [record["lr"] for record in records]
    assert rates[0] < 0.004 and rates[1] > rates[2] > rates[3] >= 0.004 / 100
    assert rates[1] < 0.004


@pytest.mark.parametrize(("epochs", "warmup"), [(1, 0.5), (2, 1.0), (4, 2.0), (30, 2.0)])
def test_default_warm_up_fits_the_epochs(config, epochs, warmup):
    del config["warmup_epochs"]
    assert TrainConfig(**{**config, "epochs": epochs}).warmup == warmup
    assert TrainConfig(**{**config, "epochs": epochs}, warmup_epochs=0).warmup == 0


def test_one_epoch_with_the_default_warm_up(config):
    del config["warmup_epochs"]
    run = train(TrainConfig(**{**config, "epochs": 1}))
    assert len(run.metrics()) == 1 and run.config.recipe["warmup_epochs"] == 0.5 and run.unfinished() is None


def test_it_learns(config):
    run = train(TrainConfig(**{**config, "epochs": 12, "lr": 0.003}))
    assert evaluate(run).top1 == 1.0  # three colors


def test_watcher_calls(config):
    watcher = Calls()
    train(TrainConfig(**config), watcher=watcher)
    parameters = sum(parameter.numel() for parameter in create_model("nat_nano", num_classes=3).parameters())
    steps = max(call[2] for call in watcher.calls if call[0] == "stepped")
    epochs = [[("stepped", epoch, step + 1) for step in range(steps)] + [("validated", epoch)] for epoch in (1, 2)]
    assert watcher.calls == [("started", parameters), *epochs[0], *epochs[1]]


@pytest.mark.one_parameter
@pytest.mark.parametrize("workers", [0, 1])
def test_same_seed_same_weights(config, tmp_path, workers):
    config["workers"] = workers
    first = weights(train(TrainConfig(**config)))
    torch.rand(3)  # earlier random numbers do not matter
    again = weights(train(TrainConfig(**{**config, "out": tmp_path / "again"})))
    other = weights(train(TrainConfig(**{**config, "out": tmp_path / "other", "seed": 1})))
    assert same(first, again) and not same(first, other)


def test_interrupt_in_an_epoch(config, tmp_path):
    """What was interrupted can be used, says that it is unfinished, and ends as if nothing had happened."""
    with pytest.raises(KeyboardInterrupt):
        train(TrainConfig(**config), watcher=InterruptAt(2, 1))
    run = Run.open(config["out"])
    assert len(run.metrics()) == 1 and run.unfinished() == "1 of 2 epochs are finished"
    assert {file.name for file in run.path.iterdir()} == {
        ".lock",
        "checkpoints",
        "config.json",
        "curve.png",
        "metrics.jsonl",
        "split.json",
        "weights.safetensors",
    }
    assert evaluate(run).images > 0
    calm = train(TrainConfig(**{**config, "out": tmp_path / "calm"}))
    resumed = resume(run.path)
    assert resumed.unfinished() is None
    assert same(weights(resumed), weights(calm)) and same(state_of(resumed)["model"], state_of(calm)["model"])


def test_interrupt_keeps_the_weights_of_that_moment(config):
    def weights_at(step):
        with pytest.raises(KeyboardInterrupt):
            train(TrainConfig(**config, overwrite=True), watcher=InterruptAt(1, step))
        return weights(Run.open(config["out"]))

    first, second, again = weights_at(1), weights_at(2), weights_at(2)
    assert not same(first, second) and same(second, again)


def test_interrupt_before_the_first_step(config, folder):
    class Interrupt(Watcher):
        def started(self, config, source, parameters):
            assert len(predict(config.out, [folder / "red" / "0.png"])) == 1
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(TrainConfig(**config), watcher=Interrupt())
    run = Run.open(config["out"])
    assert run.metrics() == [] and (run.path / "curve.png").is_file() and evaluate(run).images > 0


def test_interrupt_between_epochs(config):
    class Interrupt(Watcher):
        def validated(self, record):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(TrainConfig(**config), watcher=Interrupt())
    assert len(Run.open(config["out"]).metrics()) == 1


def wait_for(condition, process):
    while not condition():
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.05)


@pytest.mark.exhaustive
def test_control_c(config):
    out = config["out"]
    command = [sys.executable, "-m", "regard.cli", "train", "--model", "nat_nano", "--data", str(config["data"])]
    command += ["--out", str(out), "--epochs", "100000", "--image-size", "8", "--workers", "1", "--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, env=environment, start_new_session=True, **pipes) as process:
        try:
            wait_for(lambda: (out / "metrics.jsonl").is_file() and (out / "metrics.jsonl").stat().st_size, process)
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers too
            printed, _ = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130 and "Traceback" not in printed, printed
    assert f"interrupted; the best weights, the metrics and a checkpoint are in {out}" in printed
    assert (out / "curve.png").is_file() and evaluate(out).images > 0


@pytest.mark.parametrize("workers", [0, 1])
def test_image_that_breaks_in_an_epoch(config, folder, workers):
    class Break(Watcher):
        def started(self, config, source, parameters):
            for image, label in source.train:
                if label == 0:
                    image.write_bytes(image.read_bytes()[:40])

    with pytest.raises(BrokenImageError) as raised:
        train(TrainConfig(**{**config, "workers": workers}), watcher=Break())
    (path,) = raised.value.images
    assert path.parent == folder / "blue" and "\n" not in str(raised.value)


def test_image_that_breaks_later_keeps_the_finished_epochs(config, folder):
    class Break(Watcher):
        def validated(self, record):
            for image in folder.rglob("*.png"):
                image.write_bytes(b"")

    with pytest.raises(DataError, match="0 bytes"):
        train(TrainConfig(**config), watcher=Break())
    run = Run.open(config["out"])
    assert len(run.metrics()) == 1 and (run.path / "curve.png").is_file()
    assert torch.stack([tensor.isfinite().all() for tensor in weights(run).values()]).all()


@pytest.mark.exhaustive
def test_validation_image_that_breaks_leaves_a_checkpoint(config, tmp_path):
    class Break(Watcher):
        def started(self, config, source, parameters):
            source.val[0][0].write_bytes(b"no image")

    config = {**config, "epochs": 1, "warmup_epochs": 0}
    frozen = train(TrainConfig(**{**config, "out": tmp_path / "frozen", "lr": 0.0}))
    with pytest.raises(BrokenImageError, match=r"blue/\d\.png"):
        train(TrainConfig(**config), watcher=Break())
    run = Run.open(config["out"])
    assert run.metrics() == [] and run.unfinished() == "0 of 1 epochs are finished"
    assert not same(weights(run), weights(frozen)) and (run.path / "curve.png").is_file()


def test_rate_at_the_ends_of_the_warm_up(config, folder):
    """Check that the rate rises linearly from a hundredth of the peak in the first epoch, then follows the cosine."""
    steps = len(open_source(folder).train) // config["batch_size"]

    class Rates(Watcher):
        def __init__(self):
            self.found = []

        def stepped(self, progress):
            self.found.append(progress.lr)

    watcher = Rates()
    train(TrainConfig(**config, lr=0.01), watcher=watcher)
    step = (0.01 - 0.0001) / steps
    assert [watcher.found[at] for at in (0, steps - 1, steps)] == pytest.approx([0.0001, 0.01 - step, 0.01])


@pytest.mark.parametrize("option", [{"label_smoothing": 0.5}, {"weight_decay": 0.5}], ids=str)
def test_option_takes_effect(config, tmp_path, option):
    def weights_after_a_step(out, **options):
        with pytest.raises(KeyboardInterrupt):
            train(TrainConfig(**{**config, "out": out, "warmup_epochs": 0}, **options), watcher=InterruptAt(1, 1))
        return weights(Run.open(out))

    usual, changed = weights_after_a_step(tmp_path / "a"), weights_after_a_step(tmp_path / "b", **option)
    assert not same(usual, changed)


def test_diverging_loss(config):
    with pytest.raises(RegardError, match=r"expected a finite training loss, got .* lower learning rate than 1e"):
        train(TrainConfig(**{**config, "epochs": 20, "lr": 1e30, "warmup_epochs": 0}))
    assert all(tensor.isfinite().all() for tensor in weights(Run.open(config["out"])).values())


def test_images_of_any_size_and_kind(config, folder):
    Image.new("LA", (1, 1)).save(folder / "red" / "dot.png")
    Image.new("CMYK", (300, 7)).save(folder / "blue" / "stripe.jpg")
    assert len(train(TrainConfig(**config, color_jitter=0.4)).metrics()) == 2


def test_last_batch_of_one_image(config, folder):
    batch_size = len(open_source(folder).train) - 1
    run = train(TrainConfig(**{**config, "model": "swiftformer_nano", "batch_size": batch_size}))
    assert all(math.isfinite(record["train_loss"]) for record in run.metrics())


@pytest.mark.parametrize(("model", "size"), [("nat_nano", 56), ("swiftformer_xs", 224)])
def test_image_size_that_suits_the_model(config, model, size):
    class Stop(Watcher):
        def started(self, config, source, parameters):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(TrainConfig(**{**config, "model": model, "image_size": None}), watcher=Stop())
    assert Run.open(config["out"]).config.preprocessing.image_size == size


def test_digits(config):
    run = train(TrainConfig(**{**config, "data": "digits", "epochs": 1, "warmup_epochs": 0, "batch_size": 128}))
    assert run.config.classes == tuple("0123456789") and run.metrics()[0]["val_accuracy"] > 0.2  # chance: 0.1


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"batch_size": 1}, "batch_size must be at least 2, got 1"),
        ({"lr": -1.0}, "lr must be at least 0"),
        ({"mixup": 0.2, "class_weights": "balanced"}, "class_weights needs one label per image, got mixup"),
        (
            {"linear_probe": True, "lora_rank": 2},
            "expected one choice of the weights to train, got linear_probe and lora_rank",
        ),
        ({"erasing": 1.5}, r"erasing must be in \[0, 1\], got 1.5"),
        ({"clip_mode": "nrom"}, "unknown clip_mode 'nrom'; did you mean 'norm'"),
        ({"lr": math.nan}, "lr must be a finite number, got nan"),
        ({"lr": "x"}, "lr must be a finite number, got 'x'"),
        ({"weight_decay": math.inf}, "weight_decay must be a finite number"),
        ({"warmup_epochs": "x"}, "warmup_epochs must be a finite number or None"),
        ({"label_smoothing": True}, "label_smoothing must be a finite number, got True"),
        ({"color_jitter": -0.1}, "color_jitter must be at least 0"),
        ({"color_jitter": "x"}, "color_jitter must be a finite number"),
        ({"epochs": 1.5}, "epochs must be a whole number, got 1.5"),
        ({"epochs": True}, "epochs must be a whole number, got True"),
        ({"batch_size": 4.0}, "batch_size must be a whole number"),
        ({"image_size": 8.0}, "image_size must be a whole number or None, got 8.0"),
        ({"workers": "4"}, "workers must be a whole number or None"),
        ({"seed": 0.5}, "seed must be a whole number"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"seed": 2**32}, "seed must be at most 4294967295"),
        ({"overrides": {"drop_path_rate": "x"}}, "drop_path_rate must be a finite number, got 'x'"),
        ({"workers": -1}, "workers must be at least 0"),
        ({"image_size": 0}, "image_size must be at least 1"),
        ({"warmup_epochs": 2}, "warmup_epochs must be less than epochs, got 2 of 2; lower it, or leave it out"),
        ({"label_smoothing": 1.0}, r"label_smoothing must be in \[0, 1\)"),
        ({"device": "cdua"}, "unknown device 'cdua'; did you mean 'cuda'"),
        ({"mixed_precision": "bf61"}, "unknown mixed_precision 'bf61'; did you mean 'bf16'"),
        ({"overrides": {"num_classes": 3}}, "num_classes cannot be overridden"),
        ({"model": "nat_nono"}, "unknown model 'nat_nono'; did you mean 'nat_nano'"),
        ({"overrides": {"depth": (1,)}}, "did you mean 'depths'"),
    ],
)
def test_wrong_options(config, changed, message):
    with pytest.raises(OptionError, match=message):
        train(TrainConfig(**{**config, **changed}))
    assert not config["out"].exists()


@pytest.mark.skipif(torch.accelerator.is_available(), reason="needs a machine without accelerator")
def test_absent_device(config):
    message = r"device 'cuda', but CUDA is not available: PyTorch .*; use --device cpu \(device='cpu'\)"
    with pytest.raises(UnsupportedError, match=message):
        train(TrainConfig(**{**config, "device": "cuda"}))


@pytest.mark.skipif(torch.accelerator.is_available(), reason="needs a machine without accelerator")
def test_absent_precision(config):
    with pytest.raises(UnsupportedError, match=r"CPU supports, got 'fp16'; use --mixed-precision bf16"):
        train(TrainConfig(**{**config, "mixed_precision": "fp16"}))
    assert not config["out"].exists()

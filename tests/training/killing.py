"""Kill a training run at random moments, resume it until it ends, and compare it with a run that was left alone.

python tests/training/killing.py --kills 20
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import shutil
import signal
import tempfile
import time
from pathlib import Path

import torch

from regard.training import Run, TrainConfig, resume, train
from regard.training.checkpoints import load_last

SETTINGS = {
    "model": "nat_nano",
    "data": "digits",
    "epochs": 2,
    "batch_size": 128,
    "ema_decay": 0.9,
    "mixup": 0.2,
    "checkpoint_minutes": 0.0,
    "device": "cpu",
    "overrides": {"embed_dim": 8, "depths": (1, 1, 1), "num_heads": (1, 2, 4)},
}


def work(out: str, is_killed_while_writing: bool) -> None:
    """Train a run from its last checkpoint on, if there is one."""
    torch.set_num_threads(1)
    if is_killed_while_writing:
        torch.save = _half_of_it  # of the fifth checkpoint
    if (Path(out) / "config.json").is_file():
        resume(out)
    else:
        train(TrainConfig(**SETTINGS, out=out, overwrite=True))


_save = torch.save


def _half_of_it(state: object, path: Path) -> None:
    if "step0000005" not in path.name:
        _save(state, path)
        return
    path.write_bytes(b"half of a checkpoint")
    os.kill(os.getpid(), signal.SIGKILL)


def differences(one: Path, other: Path) -> list[str]:
    """Return the names of the tensors and metrics in which two runs differ."""
    left, right = load_last(one), load_last(other)
    assert left is not None and right is not None
    found = [
        f"{part}.{name}"
        for part in ("model", "average")
        for name, tensor in left[part].items()
        if not torch.equal(tensor, right[part][name])
    ]
    for place, state in left["optimizer"]["state"].items():
        found += [
            f"optimizer.{place}.{name}"
            for name, value in state.items()
            if not torch.equal(torch.as_tensor(value), torch.as_tensor(right["optimizer"]["state"][place][name]))
        ]
    weights, others = (Run.open(run).load_model().state_dict() for run in (one, other))
    found += [f"weights.{name}" for name, tensor in weights.items() if not torch.equal(tensor, others[name])]
    timed = ("seconds", "images_per_second")
    lines, expected = (
        [{k: v for k, v in each.items() if k not in timed} for each in Run.open(run).metrics()] for run in (one, other)
    )
    return found + ([] if lines == expected else ["metrics"])


def kill_and_resume(folder: Path, kills: int, seed: int = 0) -> list[str]:
    """Kill `kills` runs once each, the last two while they write a checkpoint, and resume them.

    Returns:
        For each one in what its result differs from that of an undisturbed run; empty strings if in nothing.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["regard.training", "timm", "accelerate"])
    draw = random.Random(seed)

    def start(out: Path, is_killed_while_writing: bool = False) -> multiprocessing.process.BaseProcess:
        process = context.Process(target=work, args=(str(out), is_killed_while_writing))
        process.start()
        return process

    calm, killed, outcomes = folder / "calm", folder / "killed", []
    start(folder / "first").join()  # the server of processes imports everything
    begin = time.perf_counter()
    start(calm).join()
    seconds = time.perf_counter() - begin
    while len(outcomes) < kills:
        shutil.rmtree(killed, ignore_errors=True)
        is_writing = kills - len(outcomes) <= 2
        process = start(killed, is_writing)
        if not is_writing:
            process.join(draw.uniform(0.2, 1) * seconds)
            process.kill()
        process.join()
        if process.exitcode != -signal.SIGKILL:  # it ended before
            continue
        files = sorted(path.name for path in killed.glob("checkpoints/*"))
        last = start(killed)
        last.join()
        found = differences(calm, killed) if last.exitcode == 0 else [f"exit code {last.exitcode}"]
        outcomes.append(", ".join(found))
        print(
            f"killed {'while writing' if is_writing else 'at random'} with {files or 'no checkpoint'}: "
            f"{outcomes[-1] or 'equal, bit for bit'}",
            flush=True,
        )
    return outcomes


def main() -> None:
    """Print the outcome."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        outcomes = kill_and_resume(Path(folder), options.kills, options.seed)
    print(f"{outcomes.count('')} of {len(outcomes)} equal")


if __name__ == "__main__":
    main()

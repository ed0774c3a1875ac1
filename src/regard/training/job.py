"""The entry points of training: `train` and `resume`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from regard.errors import BrokenImageError, OptionError
from regard.extras import require
from regard.models import Backbone
from regard.training import processes
from regard.training.checkpoints import load_last
from regard.training.config import FIELDS, FREE, PLACES, TrainConfig
from regard.training.data import DIGITS, Source, is_path, labels_of, open_source
from regard.training.integrity import AGAIN, check_images, suspect_all
from regard.training.interrupts import Aborted
from regard.training.loop import Loop
from regard.training.objective import Objective, Teacher, balanced_weights, open_teacher
from regard.training.optimization import choose_trained
from regard.training.recipes import resolve
from regard.training.run import Run
from regard.training.setup import make_accelerator, make_loaders, make_model, make_preprocessing, run_config
from regard.training.tracking import Tracker
from regard.training.watcher import Watcher, Watchers

if TYPE_CHECKING:
    from accelerate import Accelerator

EXTRA = "train"


def train(
    config: TrainConfig,
    *,
    watcher: Watcher | None = None,
    model: Backbone[Any] | None = None,
    optimizer: Callable[[nn.Module], torch.optim.Optimizer] | None = None,
    accelerator: Accelerator | None = None,
) -> Run:
    """Train a model and save the run, so that `evaluate` and `predict` can use its best weights.

    timm builds optimizer, schedule, augmentation and moving average; accelerate places the model on the device, or on
    several devices and machines under `torchrun` and `accelerate launch`. Evaluation counts every validation image
    once, and all figures are those of all processes together. On a CPU, the same seed gives the same weights bit by bit
    on one machine with one number of threads, also if the run is stopped and resumed.

    Args:
        config: model, data and recipe.
        watcher: callbacks that report the progress.
        model: trained in place of a new one; it must be the config's model, with a classifier for the data's classes.
        optimizer: takes the model and returns its optimizer, in place of the recipe's.
        accelerator: accelerate's object, in place of one for the config's device and precision.

    Returns:
        The run.

    Raises:
        BrokenImageError: images cannot be read. This is checked before training starts, and the message lists all of
            them. An image that fails later ends the run; its folder keeps a checkpoint.
        DataError: the data or the output folder cannot be used, or a checkpoint cannot be written.
        OptionError: an unknown model or override.
        UnsupportedError: the device or its precision is not available.
        RegardError: the loss became infinite or not a number; the folder keeps the last checkpoint.
        StopRequested: SIGTERM or SIGUSR1 arrived; the folder keeps a checkpoint of that moment.
        KeyboardInterrupt: Ctrl-C; likewise, if there is one process.

    Example:
        >>> run = train(TrainConfig(model="nat_nano", data="digits", out=getfixture("tmp_path") / "run", epochs=1,
        ...                         device="cpu"))
        >>> len(run.metrics())
        1
    """
    return _Job(config, watcher, model, optimizer, accelerator).work()


def resume(run: str | Path | Run, *, watcher: Watcher | None = None, **options: object) -> Run:
    """Continue a run that was stopped, from its last checkpoint, or from the beginning if it has none yet.

    On a CPU, the result equals that of a run that was not stopped, bit for bit. A job with another number of processes
    continues if they take as many images per step together.

    Args:
        run: the run or its folder.
        watcher: callbacks that report the progress.
        options: fields of `TrainConfig` that may change: workers, device, checkpoint_minutes, keep and tracker.

    Raises:
        OptionError: options that would change the recipe; the message lists the differences.
        DataError: the folder is not a run, its checkpoint cannot be read, or its images are gone.

    Example:
        >>> folder = getfixture("tmp_path") / "run"
        >>> _ = train(TrainConfig(model="nat_nano", data="digits", out=folder, epochs=1, device="cpu"))
        >>> resume(folder).unfinished() is None  # it was finished already
        True
    """
    run = run if isinstance(run, Run) else Run.open(run)
    config = _config_of(run, options)
    return _Job(config, watcher).work(run)


class _Job:
    """One training, from the config to the run."""

    def __init__(
        self,
        config: TrainConfig,
        watcher: Watcher | None = None,
        model: Backbone[Any] | None = None,
        optimizer: Callable[[nn.Module], torch.optim.Optimizer] | None = None,
        accelerator: Accelerator | None = None,
    ) -> None:
        self.accelerator = make_accelerator(config) if accelerator is None else accelerator
        self.config, self.model, self.optimizer = config, model, optimizer
        self.watcher = Watcher() if watcher is None or not self.accelerator.is_main_process else watcher
        if config.tracker:
            self.watcher = Watchers(self.watcher, Tracker(self.accelerator))

    def work(self, run: Run | None = None) -> Run:
        """Train a new run, or continue one, and tell the watcher when it has ended."""
        try:
            return self._start(run)
        finally:
            self.watcher.ended()

    def _start(self, run: Run | None) -> Run:
        """Train a new run, or continue one."""
        config, is_new = self.config, run is None
        source = self._open(run)
        with self._together():
            state = None if run is None else load_last(run.path)
            model = self._model(config if state is None else replace(config, weights=None), len(source.classes))
            if run is None:
                preprocessing = make_preprocessing(config, model)
                run = Run(Path(config.out), run_config(config, source, preprocessing, self.accelerator.num_processes))
            _check_size(model, run.config.preprocessing.image_size)  # a wrong size must not cost an earlier run
        with self._owning(run, source if is_new else None):
            loop = self._loop(run, source, model)
            state = None if is_new else load_last(run.path)  # again, now that no other training writes
            if state is not None:
                loop.load(state)
            else:
                loop.save_weights()
            self._run(loop, source)
        return run

    def _open(self, run: Run | None) -> Source:
        """Open the source and check its images, in the main process first: the others find the result in the cache."""
        config = self.config
        with self._together():
            source = open_source(
                config.data,
                split=run.split() if run else None,
                split_seed=config.split_seed,
                train_split=config.train_split,
                val_split=config.val_split,
                root=config.data_root,
                num_classes=config.num_classes,
            )
        for is_turn in (self.accelerator.is_main_process, not self.accelerator.is_main_process):
            with self._together():
                if is_turn:
                    source = check_images(
                        source, config.data, skip_broken=config.skip_broken, progress=self.watcher.checked
                    )
        return source

    def _model(self, config: TrainConfig, num_classes: int) -> Backbone[Any]:
        """Return the model with its first weights."""
        require("accelerate.utils", EXTRA).set_seed(config.seed)
        return make_model(config, num_classes) if self.model is None else self.model

    def _loop(self, run: Run, source: Source, model: Backbone[Any]) -> Loop:
        config, device = self.config, self.accelerator.device
        with self._together():
            teacher: Teacher | None = None
            if config.teacher is not None:
                teacher = open_teacher(config.teacher, source.classes, run.config.preprocessing).to(device)
            weights = None
            if config.class_weights is not None:
                weights = balanced_weights(labels_of(source.train), len(source.classes)).to(device)
            loaders = make_loaders(
                config,
                source,
                run.config.preprocessing,
                self.accelerator.process_index,
                self.accelerator.num_processes,
            )
        if hasattr(model, "distilled_training"):
            vars(model)["distilled_training"] = teacher is not None
        model.to(device)
        if config.channels_last:
            model.to(memory_format=torch.channels_last)
        trained = choose_trained(config, model)
        objective = Objective(config, len(source.classes), weights, teacher)
        return Loop(config, run, trained, loaders, objective, self.accelerator, self.watcher, self.optimizer)

    def _run(self, loop: Loop, source: Source) -> None:
        """Train, and leave a folder that can be used and resumed, whatever happens."""
        try:
            parameters = sum(parameter.numel() for parameter in loop.model.parameters())
            self.watcher.started(self.config, source, parameters)
            loop.train()
        except Aborted:
            raise
        except KeyboardInterrupt:
            if self.accelerator.num_processes == 1:  # others may not be at the same place
                loop.stop()
            raise
        except BrokenImageError as error:
            loop.stop()
            suspect_all(source, self.config.data)
            raise BrokenImageError(error.images, remedy=f"{AGAIN}; --overwrite replaces the run") from error
        except RuntimeError as error:
            if self.accelerator.num_processes > 1 and processes.is_lost(error):
                raise processes.lost(error) from error
            raise
        finally:
            if self.accelerator.is_main_process:
                with suppress(OSError):  # a full disk has its own error
                    loop.run.save_curve(loop.at.lines())
            loop.checkpoints.close()
            if self.config.tracker:
                self.accelerator.end_training()

    @contextmanager
    def _owning(self, run: Run, new: Source | None) -> Iterator[None]:
        """Hold the folder of the run in the main process, and create it for a new run."""
        with ExitStack() as held:
            with self._together():
                if self.accelerator.is_main_process:
                    if new is not None:
                        run.check_room(overwrite=self.config.overwrite)
                    held.enter_context(run.locked())
                    if new is not None:
                        run.create(new.split(), overwrite=self.config.overwrite)
            yield

    @contextmanager
    def _together(self) -> Iterator[None]:
        """Run a part of the setup; if it fails in one process, raise its error in all."""
        error: Exception | None = None
        try:
            yield
        except Exception as failure:  # one that no other process raises would let them wait
            error = failure
        first = processes.first_error(error)
        if first is not None:
            raise first


def _config_of(run: Run, options: Mapping[str, object]) -> TrainConfig:
    """Return the config that continues a run.

    Raises:
        OptionError: options that would change it.
    """
    stored = {name: value for name, value in run.config.recipe.items() if name in FIELDS}
    stored |= {"model": run.config.model, "data": run.config.data, "overrides": dict(run.config.overrides)}
    given = {**options, "data": str(Path(str(options["data"])).resolve())} if _is_folder(options) else options
    changed = {
        name: (stored.get(name), value)
        for name, value in given.items()
        if name not in FREE and _plain(stored.get(name)) != _plain(value)
    }
    if changed:
        listed = ", ".join(f"{name} was {old!r} and would be {new!r}" for name, (old, new) in changed.items())
        raise OptionError(
            f"expected the recipe of {str(run.path)!r}, got other settings: {listed}; leave them out to continue the "
            "run, or train a new one"
        )
    free = {name: value for name, value in options.items() if name in FREE and name not in PLACES}
    config = resolve(**{**stored, **free, "out": run.path}).config
    return replace(config, batch_size=max(config.batch_size * run.config.processes // processes.expected(), 2))


def _check_size(model: nn.Module, size: int) -> None:
    with torch.inference_mode():
        model.eval()(torch.zeros(1, 3, size, size, device=next(model.parameters()).device))


def _is_folder(options: Mapping[str, object]) -> bool:
    return is_path(str(options.get("data", DIGITS)))


def _plain(value: object) -> object:
    return str(value) if isinstance(value, Path) else value

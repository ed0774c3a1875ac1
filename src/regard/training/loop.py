"""The training loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from math import isfinite
from time import perf_counter, sleep
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from regard.errors import DataError, RegardError
from regard.extras import require
from regard.training import processes
from regard.training.checkpoints import Checkpoints
from regard.training.config import TrainConfig
from regard.training.interrupts import Signals, StopRequested
from regard.training.objective import Objective
from regard.training.optimization import gradient_norm, limit_gradients, make_optimizer, make_schedule, set_training
from regard.training.order import seed_all, seed_at
from regard.training.position import Position
from regard.training.processes import FAILED, GOING, SAVE, STOP
from regard.training.run import Run
from regard.training.score import Tally, tally
from regard.training.setup import Loaders, on_device, shard
from regard.training.states import is_sharded, load_optimizer, load_whole, whole_optimizer, whole_state
from regard.training.watcher import Progress, Record, Watcher

if TYPE_CHECKING:
    from accelerate import Accelerator

EXTRA = "train"
MIN_SCALE = 2.0**-20  # of float16; below it, the gradients themselves are not finite
WAIT = 2.0  # seconds in which the signal that has ended a reader reaches this process, too


class Loop:
    """A training run between steps.

    All random draws of a step follow from the run's seed and the step's place, and everything else is in `state`. So a
    loop that loads the state of another one continues it bit for bit.

    Args:
        config: the recipe.
        run: receives weights, metrics and checkpoints.
        model: with its first weights; those that require no gradient stay.
        loaders: the images of this process.
        objective: the loss.
        accelerator: accelerate's object for device, precision and processes.
        watcher: receives the progress.
        optimizer: takes the model and returns its optimizer; None for the recipe's.
    """

    def __init__(
        self,
        config: TrainConfig,
        run: Run,
        model: nn.Module,
        loaders: Loaders,
        objective: Objective,
        accelerator: Accelerator,
        watcher: Watcher,
        optimizer: Callable[[nn.Module], torch.optim.Optimizer] | None = None,
    ) -> None:
        self.config, self.run, self.loaders, self.objective = config, run, loaders, objective
        self.accelerator, self.watcher, self.device = accelerator, watcher, accelerator.device
        self.num_classes = len(run.config.classes)
        self.steps = loaders.batches.steps
        self.updates = -(-self.steps // config.accumulate)  # per epoch
        is_divided = config.parallel == "fsdp2" and accelerator.num_processes > 1
        self.average = None
        if config.ema_decay:
            self.average = require("timm.utils", EXTRA).ModelEmaV3(model, config.ema_decay, foreach=not is_divided)
        if is_divided:
            for each in (model,) if self.average is None else (model, self.average.module):
                shard(each, accelerator)
        if config.compile:
            model.compile()
        self.model = model
        self.optimizer = make_optimizer(config, model) if optimizer is None else optimizer(model)
        self.schedule = make_schedule(config, self.optimizer, self.updates)
        self.wrapped = accelerator.prepare_model(model, evaluation_mode=is_divided)  # by DDP if there are processes
        self.stepper = accelerator.prepare_optimizer(self.optimizer)
        self.checkpoints = Checkpoints(run.path, config.keep)
        self.at = Position()
        self._begin()

    def train(self) -> None:
        """Train until the last epoch, or until nothing improves.

        Raises:
            StopRequested: a signal arrived; the state is saved.
        """
        with Signals() as signals:
            while not self.at.is_done:
                for progress in self.learn(signals):
                    self.watcher.stepped(progress)
                self.watcher.validated(self.validate())
        self.checkpoints.wait()

    def learn(self, signals: Signals) -> Iterator[Progress]:
        """Train to the end of the epoch, and yield after every step."""
        set_training(self.wrapped)
        batches = self.loaders.epoch(self.at.epoch, self.at.step)
        while self.at.step < self.steps:
            batch = self._next(batches, signals)
            images, labels = on_device(batch, self.device, self.config.channels_last)
            seed_all(seed_at(self.config.seed, "step", self.at.epoch, self.at.step, self.accelerator.process_index))
            is_update = (self.at.step + 1) % self.config.accumulate == 0 or self.at.step + 1 == self.steps
            before = [each.clone() for each in self.model.buffers()] if self.config.on_nan == "skip" else []
            with nullcontext() if is_update else self.accelerator.no_sync(self.wrapped):
                loss, logits = self.objective(self.wrapped, images, labels)
                is_good = self._is_finite(loss, batch[2])
                self.accelerator.backward(loss / self._summed())
            if not is_good:
                self._skip()
                for buffer, value in zip(self.model.buffers(), before, strict=True):  # statistics of the broken batch
                    buffer.copy_(value)
            elif is_update:
                self._update()
            if is_good:
                self.tally.add(logits.detach(), labels, loss.detach())
            self.at.step += 1
            yield self._progress()

    def validate(self) -> Record:
        """Evaluate the validation images, keep the weights if they are the best, save, and begin the next epoch."""
        score, train = self._score(), self._total(self.tally)
        is_best = self.at.judge(score.accuracy, score.loss, self.config.epochs, self.config.patience)
        if is_best:
            self.save_weights()
        record = Record(
            epoch=self.at.epoch,
            train_loss=train.loss if train.images else None,
            train_accuracy=train.accuracy if train.images else None,
            val_loss=score.loss,
            val_accuracy=score.accuracy,
            lr=self.rate,
            images_per_second=self._images_per_second(),
            seconds=perf_counter() - self.began,
            skipped_steps=self.at.skipped,
            is_best=is_best,
            is_last=self.at.is_done,
        )
        self.at.next_epoch(record)
        self._begin()
        if self.accelerator.is_main_process:
            self.run.save_metrics(self.at.lines())
        self.save()
        return record

    def save(self) -> None:
        """Write a checkpoint in the background. Every process must call it."""
        state = self.state()
        if self.accelerator.is_main_process:
            self.checkpoints.save(epoch=self.at.epoch, step=self.at.step, state=state)
        self.saved = perf_counter()

    def save_weights(self) -> None:
        """Write the weights that evaluation and prediction use. Every process must call it."""
        result = self.model if self.average is None else self.average.module
        state = whole_state(result)
        if self.accelerator.is_main_process:
            self.run.save_weights(result, state)

    def stop(self) -> None:
        """Save everything, since training stops before its end. Every process must call it."""
        if self.at.best_epoch is None:
            self.save_weights()
        self.save()
        self.checkpoints.wait()

    def state(self) -> dict[str, Any]:
        """Return everything that training needs to continue. Every process must call it."""
        seen = self._total(self.tally)
        state: dict[str, Any] = {
            "model": whole_state(self.model),
            "optimizer": whole_optimizer(self.model, self.optimizer),
            "position": self.at.state(),
            "tally": (seen.loss_sum, seen.in_top5, seen.seen, seen.correct),
            "images_per_step": self.images_per_step,
            "is_divided": is_sharded(self.model),
        }
        if self.average is not None:
            state["average"] = whole_state(self.average.module)
        if self.accelerator.scaler is not None:
            state["scaler"] = self.accelerator.scaler.state_dict()
        if self.at.step % self.config.accumulate:  # Ctrl-C came between two updates
            state["gradients"] = {name: each.grad for name, each in self.model.named_parameters()}
        return state

    def load(self, state: dict[str, Any]) -> None:
        """Continue from a state.

        Raises:
            DataError: the job has another number of images per step.
        """
        if self.images_per_step != state["images_per_step"]:
            raise DataError(
                f"expected {state['images_per_step']} images per step as before, got {self.images_per_step}, "
                f"{self.loaders.batches.batch_size} in each of {self.accelerator.num_processes} processes; resume with "
                "a number of processes that divides the images"
            )
        if is_sharded(self.model) != state["is_divided"]:
            raise DataError(
                "expected as many processes as before for parallel='fsdp2', whose checkpoints differ between one "
                f"process and several, got {self.accelerator.num_processes}; resume with the number of the first job"
            )
        load_whole(self.model, state["model"])
        load_optimizer(self.model, self.optimizer, state["optimizer"])
        if self.average is not None:
            load_whole(self.average.module, state["average"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        for name, gradient in state.get("gradients", {}).items():
            self.model.get_parameter(name).grad = None if gradient is None else gradient.to(self.device)
        self.at = Position.from_state(state["position"])
        self._begin()
        if not self.loaders.batches.is_resumable:
            self.at.step = 0
        elif self.accelerator.is_main_process:
            self.tally.loss_sum, self.tally.in_top5, self.tally.seen, self.tally.correct = state["tally"]
            self.restored = self.tally.images

    @property
    def images_per_step(self) -> int:
        """Number of images that all processes take in a step."""
        return self.loaders.batches.batch_size * self.accelerator.num_processes

    def _next(self, batches: Iterator[Any], signals: Signals) -> list[Tensor]:
        """Return the next batch, after all processes have agreed to go on; save or stop if one of them asks for it."""
        batch, error = _next_or_error(batches)
        if isinstance(error, (RuntimeError, OSError)):  # a scheduler signals all processes, and the readers end at once
            sleep(WAIT)
            error = None if signals.received else error
        is_due = perf_counter() - self.saved > 60 * self.config.checkpoint_minutes
        can_stop = batch is None or self.at.step % self.config.accumulate == 0  # between updates no gradients wait
        wish = FAILED if error else GOING if not can_stop else STOP if signals.received else SAVE if is_due else GOING
        wish = processes.agree(wish, self.device)
        if wish == FAILED:
            raise processes.first_error(error) or RegardError("a process failed without an error")
        if wish == STOP:
            self.stop()
            name = next(name for name in processes.gather(signals.received) if name)
            raise KeyboardInterrupt if name == "SIGINT" else StopRequested(name)
        if wish == SAVE:
            self.save()
        return batch

    def _update(self) -> None:
        """Change the weights by the gradients, unless these are not finite."""
        parameters = [each for each in self.model.parameters() if each.grad is not None]
        if self.accelerator.scaler is None:  # the scaler of float16 leaves out such steps itself
            norm = gradient_norm(parameters)
            if not isfinite(norm):
                self._report("norm of the gradients", norm, [])
                self._skip()
                return
        self.accelerator.unscale_gradients()
        limit_gradients(self.config, parameters)
        self.stepper.step()
        self.stepper.zero_grad()
        if self.accelerator.scaler is not None and self.stepper.step_was_skipped:
            self.at.skipped += 1
            if self.accelerator.scaler.get_scale() < MIN_SCALE:
                self._report("scale of the gradients", float("nan"), [])
            return
        done = (self.at.epoch - 1) * self.updates + -(-(self.at.step + 1) // self.config.accumulate)
        if self.average is not None:
            self.average.update(self.model, step=done)
        self.rate = max(group["lr"] for group in self.optimizer.param_groups)
        self.schedule.step_update(done)

    def _skip(self) -> None:
        self.stepper.zero_grad()
        self.at.skipped += 1

    def _summed(self) -> int:
        """Return the number of steps whose gradients the current update sums."""
        begin = self.at.step // self.config.accumulate * self.config.accumulate
        return min(self.config.accumulate, self.steps - begin)

    def _is_finite(self, loss: Tensor, indices: Tensor) -> bool:
        """Whether the loss of every process is finite; if not, say which images it came from."""
        value = loss.item()
        if processes.agree(GOING if isfinite(value) else FAILED, self.device) == GOING:
            return True
        names = [self.loaders.names.name_of(index) for index in indices.tolist()]
        found = processes.gather(None if isfinite(value) else (value, names))
        self._report("training loss", *next(each for each in found if each is not None))
        return False

    def _report(self, what: str, value: float, names: list[str]) -> None:
        """Report a value that is not finite, or raise an error, as the config says."""
        place = f"step {self.at.step + 1} of epoch {self.at.epoch} (learning rate {self.rate:.3g})"
        shown = f", with the images {', '.join(names)}" if names else ""
        if self.config.on_nan == "skip":
            self.watcher.noted(f"left out {place}: {what} {value}{shown}")
            return
        raise RegardError(
            f"expected a finite {what}, got {value} in {place}{shown}; train again with a lower learning rate than "
            f"{self.config.lr}, a longer warm-up or --clip-grad 1, or leave out such steps with --on-nan skip "
            f"({self.run.path} keeps what was saved before)"
        )

    def _score(self) -> Tally:
        """Return the score of the result on the validation images of all processes."""
        model = self.model if self.average is None else self.average.module
        processes.share_buffers(model)  # batch norms have other statistics in each process
        error, own = None, Tally(self.num_classes)
        try:
            with self.accelerator.autocast():
                own = tally(model, self._validation(model), self.num_classes)
        except Exception as failure:  # the other processes must not wait
            error = failure
        if processes.agree(GOING if error is None else FAILED, self.device) == FAILED:
            raise processes.first_error(error) or RegardError("a process failed without an error")
        return self._total(own)

    def _validation(self, model: nn.Module) -> Iterator[list[Tensor]]:
        """Yield validation batches on the device.

        Calls of a divided model are collective. So before each one, all processes agree that none of them has failed,
        and those with fewer batches call the model on an empty image.
        """
        is_divided, size = is_sharded(model), self.run.config.preprocessing.image_size
        batches = iter(self.loaders.val)
        for _ in range(len(self.loaders.val)):
            batch, error = _next_or_error(batches)
            if (
                is_divided
                and processes.agree(GOING if error is None else FAILED, self.device) == FAILED
                and error is None
            ):
                return
            if error is not None:
                raise error
            yield on_device(batch, self.device, self.config.channels_last)
        for _ in range(self.loaders.missing_val if is_divided else 0):
            if processes.agree(GOING, self.device) == FAILED:
                return
            model(torch.zeros(1, 3, size, size, device=self.device))

    def _total(self, own: Tally) -> Tally:
        """Return the sum of the tallies of all processes."""
        sums = torch.cat([torch.tensor([own.loss_sum, own.in_top5]).double(), own.seen, own.correct])
        sums = processes.sum_over(sums, self.device)
        total = Tally(self.num_classes)
        total.loss_sum, total.in_top5 = float(sums[0]), int(sums[1])
        total.seen, total.correct = sums[2:].long().chunk(2)
        return total

    def _begin(self) -> None:
        self.tally, self.restored = Tally(self.num_classes), 0
        self.rate = max(group["lr"] for group in self.optimizer.param_groups)
        self.began = self.saved = perf_counter()

    def _images_per_second(self) -> float:
        images = (self.tally.images - self.restored) * self.accelerator.num_processes
        return images / (perf_counter() - self.began)

    def _progress(self) -> Progress:
        loss, accuracy = (self.tally.loss, self.tally.accuracy) if self.tally.images else (float("nan"), 0.0)
        return Progress(
            self.at.epoch,
            self.config.epochs,
            self.at.step,
            self.steps,
            loss,
            accuracy,
            self._images_per_second(),
            self.rate,
        )


def _next_or_error(batches: Iterator[Any]) -> tuple[Any, Exception | None]:
    try:
        batch = next(batches)
    except StopIteration:
        return None, DataError("expected more images in this epoch, got an early end; the source has changed")
    except Exception as error:  # of a reader, in this process or in a worker
        return None, error
    return (None, batch) if isinstance(batch, DataError) else (batch, None)

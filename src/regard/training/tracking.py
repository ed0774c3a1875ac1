"""Report the metrics to TensorBoard, wandb, trackio or mlflow, through accelerate."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from regard.training.config import TrainConfig
from regard.training.data import Source
from regard.training.recipes import recipe_settings
from regard.training.watcher import Record, Watcher

if TYPE_CHECKING:
    from accelerate import Accelerator


class Tracker(Watcher):
    """Report every epoch to the tracker that the accelerator was made with.

    Args:
        accelerator: its `log_with` names the tracker.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator

    def started(self, config: TrainConfig, source: Source, parameters: int) -> None:
        """Store the settings."""
        del source
        settings = {
            **recipe_settings(config),
            "model": config.model,
            "data": str(config.data),
            "parameters": parameters,
        }
        kinds = (int, float, str, bool)
        self.accelerator.init_trackers(
            "regard", {key: value for key, value in settings.items() if isinstance(value, kinds)}
        )

    def validated(self, record: Record) -> None:
        """Report the metrics of an epoch."""
        values = {key: value for key, value in asdict(record).items() if isinstance(value, (int, float))}
        self.accelerator.log(values, step=record.epoch)

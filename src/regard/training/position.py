"""Where a training run stands, apart from its weights."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from regard.training.watcher import Record


@dataclass
class Position:
    """Where a run stands, and what it has achieved.

    Attributes:
        epoch: the current epoch, from 1.
        step: steps of it that are done.
        skipped: steps of it that were left out, since the loss was not finite.
        best_epoch: the epoch with the best weights, or None.
        best: accuracy and negative loss on the validation images in that epoch.
        is_done: whether training has ended.
        records: the metrics of the finished epochs.
    """

    epoch: int = 1
    step: int = 0
    skipped: int = 0
    best_epoch: int | None = None
    best: tuple[float, float] = (-1.0, 0.0)
    is_done: bool = False
    records: list[Record] = field(default_factory=list)

    def judge(self, accuracy: float, loss: float, epochs: int, patience: int | None) -> bool:
        """Note the score of the current epoch, and return whether it is the best one; training may be done now."""
        is_best = self.best_epoch is None or (accuracy, -loss) > self.best
        if is_best:
            self.best_epoch, self.best = self.epoch, (accuracy, -loss)
        waited = 0 if self.best_epoch is None else self.epoch - self.best_epoch
        self.is_done = self.epoch >= epochs or (patience is not None and waited >= patience)
        return is_best

    def next_epoch(self, record: Record) -> None:
        """Add a record and begin the next epoch."""
        self.records.append(record)
        self.epoch, self.step, self.skipped = self.epoch + 1, 0, 0

    def lines(self) -> list[dict[str, Any]]:
        """Return the records as `metrics.jsonl` holds them."""
        return [asdict(record) for record in self.records]

    def state(self) -> dict[str, Any]:
        """Return the position in types that checkpoints hold."""
        return {**vars(self), "records": self.lines()}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Position:
        """Return the position of a state."""
        return cls(**{**state, "records": [Record(**record) for record in state["records"]]})

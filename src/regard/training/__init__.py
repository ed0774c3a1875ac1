"""Training, evaluation and prediction. A run is a folder with everything about one training."""

from regard.models import Preprocessing
from regard.training.config import TrainConfig
from regard.training.data import Source, open_source
from regard.training.evaluation import evaluate
from regard.training.images import read_image
from regard.training.loop import train
from regard.training.prediction import Prediction, predict
from regard.training.run import Run, RunConfig
from regard.training.score import ClassScore, Score
from regard.training.watcher import Progress, Record, Watcher

__all__ = [
    "ClassScore",
    "Prediction",
    "Preprocessing",
    "Progress",
    "Record",
    "Run",
    "RunConfig",
    "Score",
    "Source",
    "TrainConfig",
    "Watcher",
    "evaluate",
    "open_source",
    "predict",
    "read_image",
    "train",
]

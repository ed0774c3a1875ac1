"""Training, evaluation and prediction. A run is a folder with everything about one training."""

from regard.models import Preprocessing
from regard.training.classifier import Classifier
from regard.training.config import TrainConfig
from regard.training.data import Source, open_source
from regard.training.embedding import Embedding, embed
from regard.training.evaluation import Evaluation, evaluate
from regard.training.images import read_image
from regard.training.interrupts import StopRequested
from regard.training.job import resume, train
from regard.training.prediction import Prediction, predict
from regard.training.progress import ProgressBar
from regard.training.recipes import RECIPES, Recipe, resolve
from regard.training.run import Run, RunConfig
from regard.training.score import ClassScore, Score
from regard.training.watcher import Progress, Record, Watcher

__all__ = [
    "RECIPES",
    "ClassScore",
    "Classifier",
    "Embedding",
    "Evaluation",
    "Prediction",
    "Preprocessing",
    "Progress",
    "ProgressBar",
    "Recipe",
    "Record",
    "Run",
    "RunConfig",
    "Score",
    "Source",
    "StopRequested",
    "TrainConfig",
    "Watcher",
    "embed",
    "evaluate",
    "open_source",
    "predict",
    "read_image",
    "resolve",
    "resume",
    "train",
]

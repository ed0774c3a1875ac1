"""The training loss: cross-entropy on labels that may be mixed or smoothed, and distillation from a teacher."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regard.errors import DataError, OptionError
from regard.extras import require
from regard.models import MODELS, Preprocessing, create_model
from regard.training.config import TrainConfig
from regard.training.run import Run
from regard.training.setup import published_weights

EXTRA = "train"


class Objective:
    """The loss of a batch.

    Args:
        config: mixup, cutmix, label smoothing, class weights and distillation.
        num_classes: number of classes.
        class_weights: `[classes]`, or None.
        teacher: in evaluation mode on the model's device, or None.

    Source:
        Distillation: DeiT (arXiv 2012.12877, equations 2 and 3). A model with two classifiers learns labels with the
        first and the teacher's answers with the second; other models learn both with one.
    """

    def __init__(
        self,
        config: TrainConfig,
        num_classes: int,
        class_weights: Tensor | None = None,
        teacher: Teacher | None = None,
    ) -> None:
        self.config, self.class_weights, self.teacher = config, class_weights, teacher
        self.mixup = None
        if config.mixup or config.cutmix:
            self.mixup = require("timm.data", EXTRA).Mixup(
                mixup_alpha=config.mixup,
                cutmix_alpha=config.cutmix,
                label_smoothing=config.label_smoothing,
                num_classes=num_classes,
            )

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean loss `[]` and the logits `[B, classes]` of a batch of images `[B, C, H, W]`."""
        targets = labels
        if self.mixup is not None:
            images, targets = self.mixup(images, labels)
        output = model(images)
        first, second = output if isinstance(output, tuple) else (output, output)
        loss = F.cross_entropy(
            first,
            targets,
            weight=self.class_weights,
            label_smoothing=0.0 if self.mixup is not None else self.config.label_smoothing,
        )
        if self.teacher is not None:
            share = self.config.distill_weight
            loss = (1 - share) * loss + share * self._distance(second, self.teacher(images))
        return loss, first

    def _distance(self, logits: Tensor, taught: Tensor) -> Tensor:
        """Return the distance from the teacher's answer."""
        if self.config.distillation == "hard":
            return F.cross_entropy(logits, taught.argmax(-1))
        scale = self.config.temperature
        own, other = (F.log_softmax(each / scale, -1) for each in (logits, taught))
        return F.kl_div(own, other, reduction="batchmean", log_target=True) * scale**2


class Teacher(nn.Module):
    """A model that is distilled. It receives the student's images, normalized as its own.

    Args:
        model: in evaluation mode.
        mean, std: of its preprocessing.
        student_mean, student_std: of the student's.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, model: nn.Module, mean: Sequence[float], std: Sequence[float], student: Preprocessing) -> None:
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        scale = torch.tensor(student.std) / torch.tensor(std)
        shift = (torch.tensor(student.mean) - torch.tensor(mean)) / torch.tensor(std)
        self.register_buffer("scale", scale[:, None, None])
        self.register_buffer("shift", shift[:, None, None])

    def train(self, mode: bool = True) -> Teacher:
        """Stay in evaluation mode."""
        del mode
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Return the teacher's logits of the student's images."""
        logits: Tensor = self.model(images * self.scale + self.shift)
        return logits


def open_teacher(name: str | Path, classes: Sequence[str], student: Preprocessing) -> Teacher:
    """Open a teacher: a run, or a model of regard or timm with its published weights.

    Args:
        name: folder of a run, or name of a model.
        classes: the classes of the data.
        student: the student's preprocessing.

    Raises:
        OptionError: no such model.
        DataError: the teacher has other classes.
    """
    if Path(name).is_dir():
        run = Run.open(name)
        if run.config.classes != tuple(classes):
            raise DataError(
                f"expected a teacher with the {len(classes)} classes of the data, got {len(run.config.classes)} others "
                f"in {str(name)!r} ({', '.join(run.config.classes[:5])} ...); train the teacher on these classes"
            )
        own = run.config.preprocessing
        return Teacher(run.load_model(), own.mean, own.std, student)
    model, mean, std = _published(str(name))
    with torch.inference_mode():
        found = model.eval()(torch.zeros(1, 3, student.image_size, student.image_size)).shape[-1]
    if found != len(classes):
        raise DataError(
            f"expected a teacher with the {len(classes)} classes of the data, got {found} from {str(name)!r}; train a "
            "teacher on these classes and give its run"
        )
    return Teacher(model, mean, std, student)


def _published(name: str) -> tuple[nn.Module, Sequence[float], Sequence[float]]:
    if name in MODELS:
        model = create_model(name, weights=published_weights(name))
        return model, model.preprocessing.mean, model.preprocessing.std
    timm = require("timm", EXTRA)
    if not timm.is_model(name):
        raise OptionError.unknown("teacher", name, (*MODELS, *timm.list_models()))
    other = timm.create_model(name, pretrained=True)
    data = require("timm.data", EXTRA).resolve_model_data_config(other)
    return other, data["mean"], data["std"]


def balanced_weights(labels: Sequence[int], num_classes: int) -> Tensor:
    """Return a weight per class, `[classes]`: the inverse of its number of images, with a mean of 1 over the images.

    Example:
        >>> balanced_weights([0, 0, 0, 1], 2)
        tensor([0.6667, 2.0000])
    """
    counts = torch.tensor(labels).bincount(minlength=num_classes).clamp(min=1)
    return len(labels) / (num_classes * counts)

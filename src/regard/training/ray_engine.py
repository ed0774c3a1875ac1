"""Run a model over image files with Ray Data."""

from __future__ import annotations

import pickle
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from regard.errors import BrokenImageError
from regard.extras import require
from regard.training.classifier import Classifier
from regard.training.devices import CPU, choose_device
from regard.training.inference import Answer, ImageFiles, Inference, Output, collate, compute


class Actor:
    """A copy of the model in a process of Ray, which reads images and computes their outputs.

    Args:
        stored: the model in Ray's object store; in a list, since some versions of Ray replace a reference by its value.
        output: the method of the model.
        device: device of the model.
    """

    def __init__(self, stored: Sequence[Any], output: Output, device: str | None) -> None:
        classifier: Classifier = require("ray", extra="ray").get(stored[0])
        self.classifier, self.output = classifier.to(choose_device(device)), output

    def __call__(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the pickled output, or error, for each path of `batch["image"]`."""
        files = ImageFiles([Path(name) for name in batch["image"]], self.classifier.preprocessing)
        answers = compute(self.classifier, collate([files[index] for index in range(len(files))]), self.output)
        return {"answer": np.array([pickle.dumps(answer) for answer in answers], dtype=object)}


def infer_with_ray(
    classifier: Classifier, images: Sequence[Path], output: Output, options: Inference
) -> Iterator[Answer]:
    """Yield the output of a model for each image file, in the order of the files, as `infer` does.

    The cluster is the caller's (`ray.init`), or the one that Ray finds (`ray start`, `RAY_ADDRESS`), else a new one on
    this machine, which ends with the last answer. Each machine needs the images under the same absolute paths. The
    model is copied to the actors. Ray starts an actor again if it, or its machine, ends, and repeats what it was
    computing.
    """
    ray, data = require("ray", extra="ray"), require("ray.data", extra="ray")
    with _cluster(ray):
        needs_gpu = options.device != "cpu" and ray.cluster_resources().get("GPU", 0) > 0
        device = options.device if needs_gpu or options.device is not None else "cpu"
        answers = data.from_items([{"image": str(image.absolute())} for image in images]).map_batches(
            Actor,
            fn_constructor_args=([ray.put(classifier.to(CPU))], output, device),
            compute=data.ActorPoolStrategy(size=options.actors),
            batch_size=options.batch_size,
            num_gpus=1 if needs_gpu else 0,
        )
        answers.context.execution_options.preserve_order = True
        for image, row in zip(images, answers.iter_rows(), strict=True):
            answer = pickle.loads(row["answer"])
            if isinstance(answer, BrokenImageError):  # it names the absolute path
                (reason,) = answer.images.values()
                answer = BrokenImageError({image: reason}, answer.remedy)
            yield answer


@contextmanager
def _cluster(ray: ModuleType) -> Iterator[None]:
    """Connect to a cluster. Unless the caller was connected, leave no process and no signal handler behind."""
    if ray.is_initialized():
        yield
        return
    handler = signal.getsignal(signal.SIGTERM)
    ray.init()
    try:
        yield
    finally:
        ray.shutdown()
        if handler is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)

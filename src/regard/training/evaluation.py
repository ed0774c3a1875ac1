"""Evaluate a run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from torch.utils.data import DataLoader

from regard.errors import BrokenImageError
from regard.training.data import ImageDataset, check_classes, collate, open_source, open_test_images
from regard.training.devices import default_device
from regard.training.integrity import AGAIN, check_images, suspect_all
from regard.training.run import Run
from regard.training.score import Score, tally, unpack


def evaluate(run: str | Path | Run, data: str | Path | None = None, *, skip_broken: bool = False) -> Score:
    """Evaluate the model of a run.

    Args:
        run: the run or its folder.
        data: None evaluates on the test images of the run's own data. Another source must have the run's classes; its
            test images are those of its split, or all images if it has no split.
        skip_broken: leave out images that cannot be read instead of raising an error. A run that was trained with
            `skip_broken` leaves them out of its own data in any case.

    Raises:
        BrokenImageError: images cannot be read; the message lists all of them.
        DataError: the folder is not a run, or the classes differ.

    Example:
        >>> from regard.training import TrainConfig, train
        >>> run = train(TrainConfig(model="nat_nano", data="digits", out=getfixture("tmp_path") / "run", epochs=1,
        ...                         image_size=8, device="cpu"))
        >>> evaluate(run).images
        360
    """
    run = run if isinstance(run, Run) else Run.open(run)
    own = data is None or str(Path(data).resolve()) == run.config.data
    data = run.config.data if data is None or own else data
    source = open_source(data) if own else open_test_images(data)
    check_classes(source.classes, run.config.classes, "the data", "the run")
    skip_broken = skip_broken or (own and bool(run.config.recipe.get("skip_broken", False)))
    source = check_images(replace(source, train=()), data, skip_broken=skip_broken)
    device = default_device()
    model = run.load_model().to(device)
    batches = DataLoader(
        ImageDataset(source.test, run.config.preprocessing),
        batch_size=run.config.recipe["batch_size"],
        collate_fn=collate,
    )
    on_device = ([tensor.to(device) for tensor in unpack(batch)] for batch in batches)
    try:
        return tally(model, on_device, len(source.classes)).score(source.classes)
    except BrokenImageError as error:
        suspect_all(source, data)
        raise BrokenImageError(error.images, remedy=AGAIN) from error

"""Measuring a run."""

from __future__ import annotations

from pathlib import Path

from torch.utils.data import DataLoader

from regard.training.data import ImageDataset, Source, check_classes, collate, open_source, open_test_images
from regard.training.run import Run, available_device
from regard.training.score import Score, tally, unpack


def evaluate(run: str | Path | Run, data: str | Path | None = None) -> Score:
    """Measure a run's model on images.

    Args:
        run: the run or its folder.
        data: None measures on the test images of the source that the run was trained on; another source's test images
            are those of its split, or all where it has none. Its classes must have the run's names.

    Raises:
        DataError: the folder is no run, the images cannot be read, or the classes differ.

    Example:
        >>> from regard.training import TrainConfig, train
        >>> run = train(TrainConfig(model="nat_nano", data="digits", out=getfixture("tmp_path") / "run", epochs=1,
        ...                         warmup_epochs=0, image_size=8, device="cpu"))
        >>> evaluate(run).images
        360
    """
    run = run if isinstance(run, Run) else Run.open(run)
    source = _open(run, data)
    check_classes(source.classes, run.config.classes, "in the data", "the run's")
    device = available_device()
    model = run.load_model().to(device)
    batches = DataLoader(
        ImageDataset(source.test, run.config.preprocessing),
        batch_size=run.config.recipe["batch_size"],
        collate_fn=collate,
    )
    on_device = ([tensor.to(device) for tensor in unpack(batch)] for batch in batches)
    return tally(model, on_device, len(source.classes)).score(source.classes)


def _open(run: Run, data: str | Path | None) -> Source:
    if data is None or str(Path(data).resolve()) == run.config.data:
        return open_source(run.config.data)
    return open_test_images(data)

"""`regard embed`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from regard import training
from regard.cli.inference import (
    Actors,
    BatchSize,
    Device,
    Engine,
    Images,
    Model,
    Weights,
    Workers,
    find_model,
    report_broken,
)
from regard.errors import BrokenImageError


def embed(
    model: Model,
    images: Images,
    out: Annotated[Path, typer.Option(help="The Parquet file to write; an earlier one is replaced.")],
    weights: Weights = None,
    batch_size: BatchSize = 64,
    workers: Workers = None,
    device: Device = None,
    engine: Engine = "local",
    actors: Actors = 2,
) -> None:
    """Write the pooled features of images to a Parquet file; exit code 2 if some images cannot be read.

    Example: regard embed runs/digits photos --out photos.parquet
    """
    result = training.embed(
        find_model(model, weights),
        images,
        out,
        weights=weights,
        batch_size=batch_size,
        workers=workers,
        device=device,
        engine=engine,
        actors=actors,
    )
    typer.echo(f"wrote {result.images} images x {result.channels} features to {result.file}")
    report_broken([BrokenImageError({image: reason}) for image, reason in result.broken.items()])

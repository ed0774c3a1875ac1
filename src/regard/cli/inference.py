"""Arguments and options of the commands that use a trained model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from regard.cli.runs import open_run
from regard.errors import DataError
from regard.training import Run
from regard.training.run import CONFIG

Model = Annotated[
    str,
    typer.Argument(
        help="The folder of a training run; or the name of a model of regard or timm, with --weights.",
        show_default=False,
    ),
]
Images = Annotated[
    list[str],
    typer.Argument(
        help="Image files, folders, patterns such as 'photos/**/*.jpg', or - for one file per line of standard input.",
        show_default=False,
    ),
]
Weights = Annotated[
    str | None,
    typer.Option(
        help="Weights of a model: official, timm or hf, a file, a URL or a hub id. For a model that only timm has: "
        "timm or a file.",
        show_default="the run's",
    ),
]
Classes = Annotated[
    Path | None,
    typer.Option(
        help="A text file with the name of one class per line.", show_default="the run's; ImageNet's if as many"
    ),
]
BatchSize = Annotated[int, typer.Option(help="Images per call of the model.")]
Workers = Annotated[
    int | None, typer.Option(help="Processes that read images.", show_default="0 for few images, else up to 4")
]
Device = Annotated[
    str | None, typer.Option(help="cpu, cuda, mps or xpu; cuda:1 for the second GPU.", show_default="the accelerator")
]
Engine = Annotated[str, typer.Option(help="local; or ray, to share the work among processes and machines.")]
Actors = Annotated[int, typer.Option(help="Copies of the model with --engine ray.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def find_model(model: str, weights: str | None) -> str | Run:
    """Return the run of a folder, with a warning if its training did not finish, or the name of a model."""
    return open_run(Path(model)) if weights is None and (Path(model) / CONFIG).is_file() else model


def read_classes(file: Path | None) -> list[str] | None:
    """Return the lines of a file of class names.

    Raises:
        DataError: the file cannot be read.
    """
    if file is None:
        return None
    try:
        return [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise DataError(f"expected a text file of class names, got {str(file)!r} ({error}); check the name") from error


def report_broken(errors: list[DataError]) -> None:
    """Print an error for each image that cannot be read, and exit with code 2 if there are any."""
    for error in errors:
        typer.echo(f"error: {error}", err=True)
    if errors:
        raise typer.Exit(2)

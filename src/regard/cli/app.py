"""The application: its commands, and how it reports errors."""

from __future__ import annotations

import re
from typing import Annotated

import typer
from typer.core import TyperGroup

from regard.cli import bench, check, convert, demo, embed, evaluate, export, info, look, models, predict, train
from regard.errors import BrokenImageError, RegardError
from regard.training.versions import version

OUT_OF_MEMORY = re.compile(r"(can't allocate memory|out of memory)[^\d]*([\d.]+ \w+)")
"""What PyTorch says of a CPU and of a GPU, and how much did not fit."""


class _Group(TyperGroup):
    """Print exceptions of regard, and memory that does not suffice, as one line.

    Any other exception is a bug and shows its traceback.
    """

    def invoke(self, ctx: typer.Context) -> object:  # type: ignore[override]
        """Run the command."""
        try:
            return super().invoke(ctx)
        except BrokenImageError as error:  # one line per file
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(2) from error
        except RegardError as error:
            line = " ".join(part.strip() for part in str(error).splitlines())
            typer.echo(f"error: {line}", err=True)
            raise typer.Exit(2) from error
        except (MemoryError, RuntimeError) as error:  # PyTorch has an exception of its own for GPUs only
            wanted = OUT_OF_MEMORY.search(str(error))
            if wanted is None and not isinstance(error, MemoryError):
                raise
            asked = f": {wanted[2]} more were asked for" if wanted else ""
            typer.echo(f"error: there is not enough memory{asked}; choose smaller images, batches or models", err=True)
            raise typer.Exit(2) from error


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(train.train)
app.command("eval")(evaluate.evaluate)
app.command()(predict.predict)
app.command()(embed.embed)
app.command()(look.look)
app.add_typer(bench.app, name="bench")
app.command()(bench.advise)
app.command()(models.models)
app.command()(info.info)
app.command("export")(export.export_model)
app.command()(convert.convert)
app.command()(check.check)
app.command()(demo.demo)


def _print_version(is_set: bool) -> None:
    if is_set:
        typer.echo(f"regard {version('regard') or '(not installed, run from its sources)'}")
        raise typer.Exit


@app.callback()
def _root(
    _version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Efficient attention for vision: train, evaluate and use models.

    Example: regard train --model nat_nano --data digits --out runs/digits
    """


def main() -> None:
    """Run the command line."""
    app()

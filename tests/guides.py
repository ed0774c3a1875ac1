"""Run the commands of a guide."""

import shlex
import subprocess

from typer.testing import CliRunner

from regard.cli import app
from test_docs import blocks


def commands_of(page):
    """Return the commands that a page shows after a prompt, with their continued lines."""
    texts = [text.replace("\\\n", " ") for text in blocks(page, "")]
    return [line.removeprefix("$ ") for text in texts for line in text.splitlines() if line.startswith("$ ")]


def run_command(line, *more):
    """Run a command of regard, with further arguments; one before it gives it its input.

    Returns:
        Its result, its arguments, and its input.
    """
    before, _, command = line.rpartition(" | ")
    given = subprocess.run(before, shell=True, capture_output=True, text=True, check=True).stdout if before else None
    _, *arguments = shlex.split(command)
    result = CliRunner().invoke(app, [*arguments, *more], input=given)
    assert result.exit_code == 0, f"{line}\n{result.output}"
    return result, arguments, given

"""The commands of the guide "Embed a million images" do what it says, on generated images."""

import shlex
import subprocess

import pytest
from typer.testing import CliRunner

from regard.cli import app
from test_docs import blocks, reader  # noqa: F401

PAGE = "docs/guides/embed.md"
EXAMPLES = [line for text in blocks(PAGE, "") for line in text.splitlines() if line.startswith("$ ")]


@pytest.mark.exhaustive
@pytest.mark.filterwarnings("ignore")  # Ray's own
@pytest.mark.parametrize("line", EXAMPLES)
def test_commands(line, reader):  # noqa: F811
    pytest.importorskip("pyarrow")
    if "ray" in line:
        pytest.importorskip("ray.data")
    before, _, command = line.removeprefix("$ ").rpartition(" | ")
    names = subprocess.run(before, shell=True, capture_output=True, text=True, check=True).stdout if before else None
    _, *arguments = shlex.split(command)
    result = CliRunner().invoke(app, arguments, input=names)
    assert result.exit_code == 0, result.output
    (written,) = (word for word in arguments if word.endswith((".parquet", ".csv")))
    count = len(names.splitlines()) if names else 16
    if written.endswith(".parquet"):
        assert f"wrote {count} images x 220 features to {written}\n" in result.stdout
    assert (reader / written).stat().st_size > 0


def test_commands_are_found():
    assert len(EXAMPLES) == 5

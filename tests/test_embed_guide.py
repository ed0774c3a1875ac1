"""The commands of the guide "Embed a million images" do what it says, on generated images."""

import pytest

from guides import commands_of, run_command
from test_docs import reader  # noqa: F401

EXAMPLES = commands_of("docs/guides/embed.md")


@pytest.mark.exhaustive
@pytest.mark.filterwarnings("ignore")  # Ray's own
@pytest.mark.parametrize("line", EXAMPLES)
def test_commands(line, reader):  # noqa: F811
    if "ray" in line:
        pytest.importorskip("ray.data", reason="Ray takes hundreds of MB: pip install 'regard[ray]'")
    result, arguments, names = run_command(line)
    (written,) = (word for word in arguments if word.endswith((".parquet", ".csv")))
    count = len(names.splitlines()) if names else 16
    if written.endswith(".parquet"):
        assert f"wrote {count} images x 220 features to {written}\n" in result.stdout
    assert (reader / written).stat().st_size > 0


def test_commands_are_found():
    assert len(EXAMPLES) == 5

"""`regard bench` and `regard advise`: tables, files, comparisons, and errors before the long work."""

import csv
import json

import pytest
from typer.testing import CliRunner

from regard.cli import app

FAST = ("--grids", "4,8", "--dim", 16, "--seconds", 0.001)


def call(*arguments, code=0):
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == code, result.output
    return result


def test_bench_writes_what_it_shows(tmp_path):
    files = {kind: tmp_path / f"a.{kind}" for kind in ("json", "csv", "png")}
    options = ("--json", files["json"], "--csv", files["csv"], "--plot", files["png"], "--training")
    shown = call("bench", *FAST, *options).stdout.splitlines()
    data = json.loads(files["json"].read_text())
    rows = list(csv.DictReader(files["csv"].read_text().splitlines()))
    assert len(shown) - 1 == len(data["rows"]) == len(rows) == 14
    assert data["machine"]["flops"] > 0
    assert {row["grid"] for row in rows} == {"4x4", "8x8"}
    assert all(float(row["training_ms"]) > 0 and float(row["machine_bytes"]) > 0 for row in rows)
    assert files["png"].read_bytes().startswith(b"\x89PNG")
    compared = call("bench", "--compare", files["json"], files["json"]).stdout.splitlines()
    assert len(compared) == 15
    assert compared[1].split("\t")[4].startswith("1.00")


def test_advice_ranks_all_mechanisms(tmp_path):
    arguments = ("--grid", "6x8", "--dim", 16, "--heads", 2, "--seconds", 0.001, "--json", tmp_path / "a.json")
    lines = call("advise", *arguments).stdout.splitlines()
    assert len(lines) == 8
    rows = json.loads((tmp_path / "a.json").read_text())["rows"]
    fastest = min(rows, key=lambda row: row["training_ms"])["mechanism"]
    assert lines[1].split("\t")[0] == fastest


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("bench", "--grids", "8,x"), "expected a grid such as 56x28"),
        (("bench", "--grids", "0"), "expected a grid such as 56x28"),
        (("bench", "--dim", "7", "--heads", "2"), "divisible by heads"),
        (("bench", "--mechanisms", "softmx"), "did you mean 'softmax'"),
        (("bench", "--plot", "a.bmp"), "unknown format of a plot"),
        (("bench", "--json", "missing/a.json"), "expected a file that can be written"),
        (("bench", "--compare", "no.json", "no.json"), "expected a JSON file that regard bench has written"),
        (("advise", "--grid", "8x8x8", "--dim", "8", "--heads", "2"), "expected a grid such as 56x28"),
    ],
)
def test_errors(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    result = call(*arguments, code=2)
    assert message in result.stderr
    assert list(tmp_path.iterdir()) == []

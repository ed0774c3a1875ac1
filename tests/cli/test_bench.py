"""`regard bench` and `regard advise`: tables, files, comparisons, time left, and errors before the long work."""

import csv
import json

import pytest
from typer.testing import CliRunner

from regard.benchmark import machine
from regard.cli import app

FAST = ("--grids", "4,8", "--dim", 16, "--seconds", 0.001)


def call(*arguments, code=0):
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == code, result.output
    return result


def test_bench_writes_what_it_shows(tmp_path):
    files = {kind: tmp_path / f"a.{kind}" for kind in ("json", "csv", "png")}
    options = ("--json", files["json"], "--csv", files["csv"], "--plot", files["png"], "--training")
    shown = call("bench", "mechanisms", *FAST, *options).stdout.splitlines()
    data = json.loads(files["json"].read_text())
    rows = list(csv.DictReader(files["csv"].read_text().splitlines()))
    assert len(shown) - 1 == len(data["rows"]) == len(rows) == 14
    assert data["machine"]["flops"] > 0
    assert {row["grid"] for row in rows} == {"4x4", "8x8"}
    assert all(float(row["training_ms"]) > 0 and float(row["machine_bytes"]) > 0 for row in rows)
    assert files["png"].read_bytes().startswith(b"\x89PNG")
    compared = call("bench", "--compare", files["json"], files["json"]).stdout.splitlines()
    assert len(compared) == 15
    assert compared[1].split("\t")[5].startswith("1.00")


def test_peers_and_time_left():
    result = call("bench", "mechanisms", *FAST, "--mechanisms", "softmax,separable", "--peers", "timm,sdpa")
    rows = [line.split("\t")[:3] for line in result.stdout.splitlines()[1:]]
    softmax, separable = (("softmax", name) for name in ("regard", "timm", "sdpa")), ("regard", "timm")
    expected = [*softmax, *(("separable", name) for name in separable)]
    assert sorted(tuple(row[:2]) for row in rows) == sorted(2 * expected)
    progress = [line for line in result.stderr.splitlines() if "/4  " in line]
    assert [line[:3] for line in progress] == ["1/4", "2/4", "3/4", "4/4"]
    assert all("left" in line for line in progress[:3]) and "left" not in progress[3]


def test_kernels(tmp_path):
    options = ("--mechanisms", "separable", "--peers", "reference", "--seconds", 0.001, "--json", tmp_path / "a.json")
    lines = call("bench", "kernels", *options).stdout.splitlines()
    assert [line.split("\t")[:2] for line in lines[1:]] == [["separable", "regard"], ["separable", "reference"]]
    assert "8x32x32" in lines[1]
    data = json.loads((tmp_path / "a.json").read_text())
    assert data["rows"][0]["dtype"] == "float32" and data["machine"]["threads"] > 0
    assert "steal" in data["machine"]


def test_models(tmp_path, monkeypatch):
    """Rows are in the file and in the table; the second call measures nothing."""
    calls, said = [], []

    def measure(case, seconds, timeout):
        calls.append(case)
        facts = {name: str(value) for name, value in machine.facts().items()}
        spread = "0.300" if case["runtime"] == "fused" else "0.010"
        times = {"infer_step_time": "2.345", "infer_samples_per_sec": "426.44", "spread": spread}
        return {**case, **facts, **times, "speedup": "1.512", "baseline": "timm eager"}

    monkeypatch.setattr("regard.cli.bench.measure_apart", measure)
    arguments = ("bench", "models", "--csv", tmp_path / "a.csv", "--models", "nat_nano", "--runtime", "eager,fused")
    for _ in range(2):
        result = call(*arguments)
        eager, fused = (line.split("\t")[2:7] for line in result.stdout.splitlines()[1:])
        assert eager == ["eager", "1", "2.35 ms", "426", "1.51"]
        assert fused == ["fused", "1", "2.3 ms noisy", "426", "1.51"]
        said.append(result.stderr)
    assert len(calls) == 2
    assert "1/2  nat_nano regard eager x 1: 2.345 ms" in said[0] and "2/2" not in said[1]
    assert len(list(csv.DictReader((tmp_path / "a.csv").read_text().splitlines()))) == 2


def test_advice_ranks_all_mechanisms(tmp_path):
    arguments = ("--grid", "6x8", "--dim", 16, "--heads", 2, "--seconds", 0.001, "--json", tmp_path / "a.json")
    lines = call("advise", *arguments).stdout.splitlines()
    assert len(lines) == 8
    rows = json.loads((tmp_path / "a.json").read_text())["rows"]
    fastest = min(rows, key=lambda row: row["ratio_training"])["mechanism"]
    assert lines[1].split("\t")[0] == fastest


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("bench", "mechanisms", "--grids", "8,x"), "expected a grid such as 56x28"),
        (("bench", "mechanisms", "--grids", "0"), "expected a grid such as 56x28"),
        (("bench", "mechanisms", "--grids", "9999999", "--mechanisms", "softmax"), "there is not enough memory: "),
        (("bench", "mechanisms", "--dim", "7", "--heads", "2"), "divisible by heads"),
        (("bench", "mechanisms", "--mechanisms", "softmx"), "did you mean 'softmax'"),
        (("bench", "mechanisms", "--plot", "a.bmp"), "unknown format of a plot"),
        (("bench", "mechanisms", "--json", "missing/a.json"), "expected a file that can be written"),
        (("bench", "mechanisms", "--peers", "tim"), "unknown peer 'tim'; did you mean 'timm'"),
        (("bench", "mechanisms", "--instruction-set", "pdp11"), "instruction_set must be one that runs"),
        (("bench", "kernels", "--peers", "timm"), "unknown peer 'timm'"),
        (("bench", "kernels", "--dtype", "float64"), "unknown dtype 'float64'"),
        (("bench", "kernels", "--device", "gpu"), "unknown device 'gpu'"),
        (("bench", "mechanisms", "--dtype", "half"), "unknown dtype 'half'"),
        (("bench", "kernels", "--mechanisms", "softmx"), "did you mean 'softmax'"),
        (("bench", "kernels", "--csv", "missing/a.csv"), "expected a file that can be written"),
        (("bench", "models", "--csv", "missing/a.csv"), "expected a CSV file that can be written"),
        (("bench", "models", "--csv", "a.csv", "--models", "nope"), "unknown model 'nope'"),
        (("bench", "models", "--csv", "a.csv", "--runtime", "eagre"), "unknown runtime 'eagre'"),
        (("bench", "models", "--csv", "a.csv", "--batch", "1,b"), "expected whole numbers separated by commas"),
        (
            ("bench", "mechanisms", "--json", "a", "--csv", "./a"),
            "expected different files for --json, --csv and --plot",
        ),
        (("bench", "mechanisms", "--threads", "100000"), "threads, as many as this process may use cores, got 100000"),
        (("bench", "--compare", "a.json", "b.json", "mechanisms"), "expected --compare alone, got mechanisms, too"),
        (
            ("bench", "models", "--csv", "a.csv", "--models", "nat_nano", "--libraries", "timm"),
            "expected a library that",
        ),
        (("bench", "--compare", "no.json", "no.json"), "expected a JSON file that regard bench has written"),
        (("advise", "--grid", "8x8x8", "--dim", "8", "--heads", "2"), "expected a grid such as 56x28"),
    ],
)
def test_errors(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    result = call(*arguments, code=2)
    assert message in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["", "[1]", '{"rows": 3}', '{"rows": ["a"]}', '{"rows": [{"mechanism": "x"}]}'])
def test_other_files_are_not_compared(tmp_path, content):
    (tmp_path / "a.json").write_text(content)
    result = call("bench", "--compare", tmp_path / "a.json", tmp_path / "a.json", code=2)
    assert "expected a JSON file that regard bench has written" in result.stderr


def test_missing_peers_are_said_once(monkeypatch):
    monkeypatch.setattr("regard.benchmark.peers.find_spec", lambda package: None if package == "natten" else True)
    result = call("bench", "mechanisms", *FAST, "--mechanisms", "neighborhood", "--peers", "natten")
    said = [line for line in result.stderr.splitlines() if "natten" in line]
    assert said == ["without natten: natten is not installed"]

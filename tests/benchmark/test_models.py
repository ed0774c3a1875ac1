"""The models' table: filters, whole rows, runs that continue, and rows whose measurement fails."""

import csv
import json
import subprocess
import sys
from copy import deepcopy

import pytest
import torch
from torch import nn

from budget import assert_within_budget
from models.networks import assert_same, images, small, truth_of
from regard import DataError, OptionError
from regard.benchmark import machine, models, results, row, runtimes
from regard.models import MODELS, create_model

FACTS = dict.fromkeys(results.MACHINE, "a")
FACTS["processor"] = 'Processor, "quoted"'
CASES = models.cases(["nat_nano", "swiftformer_xs"], models.LIBRARIES, ["eager", "fused"], [1, 8])


@pytest.fixture
def facts(monkeypatch):
    monkeypatch.setattr(results, "facts", lambda: FACTS)


def measured(case):
    return {**case, **FACTS, "infer_step_time": "1.000", "speedup": "1.5", "baseline": "timm eager", "difference": "0"}


def failed(case):
    return {**case, **FACTS, "error": "of several\nlines, with a comma"}


def lines(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def fill(path, cases, measure, **options):
    table = results.Results(path)
    return list(models.fill(table, models.missing(table, cases, **options), measure))


def test_columns_begin_as_timm_writes_them(tmp_path):
    results.Results(tmp_path / "a.csv")
    assert (
        (tmp_path / "a.csv")
        .read_text()
        .startswith(
            "model,infer_samples_per_sec,infer_step_time,infer_batch_size,infer_img_size,infer_gmacs,infer_macts,param_count,"
        )
    )


def test_filters():
    chosen = models.cases(["swiftformer*", "nat_?ano"], models.LIBRARIES, ["eager", "fused"], [1, 8])
    names = {case["model"] for case in chosen}
    assert names == {name for name in MODELS if name.startswith("swiftformer") or name == "nat_nano"}
    assert {case["runtime"] for case in chosen} == {"eager", "fused"}
    assert {case["infer_batch_size"] for case in chosen} == {"1", "8"}
    assert {case["library"] for case in chosen if case["model"] == "swiftformer_xs"} == {"timm", "regard"}
    assert {case["library"] for case in chosen if case["model"] == "nat_nano"} == {"regard"}  # timm has no NAT
    assert len(chosen) == len({tuple(case.values()) for case in chosen})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["*"], ["timm"], ["eagre"], [1]), "unknown runtime 'eagre'; did you mean 'eager'"),
        ((["*"], ["keras"], ["eager"], [1]), "unknown library 'keras'"),
        ((["swiftformr_xs"], ["timm"], ["eager"], [1]), "unknown model 'swiftformr_xs'; did you mean 'swiftformer_xs'"),
        ((["*"], ["timm"], ["eager"], [0]), "at least 1"),
        ((["nat_nano"], ["timm"], ["eager"], [1]), "expected a library that has nat_nano, got timm; add regard"),
    ],
)
def test_unknown_words(arguments, message):
    with pytest.raises(OptionError, match=message):
        models.cases(*arguments)


def test_missing_packages_leave_out_their_runtime(monkeypatch):
    monkeypatch.setattr(runtimes, "find_spec", lambda package: None)
    lines = []
    assert models.usable(["eager", "onnxruntime", "openvino"], lines.append) == ["eager"]
    assert "without openvino: onnx and onnxscript and openvino missing: pip install 'regard[bench]'" in lines


def test_a_stopped_run_continues(facts, tmp_path):
    """Stopped while the third row is measured, and again in the middle of writing a row."""
    path, calls = tmp_path / "a.csv", []

    def measure(case):
        calls.append(case)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return measured(case)

    with pytest.raises(KeyboardInterrupt):
        fill(path, CASES, measure)
    assert [row["runtime"] for row in lines(path)] == [case["runtime"] for case in CASES[:2]]
    whole = path.read_bytes()
    path.write_bytes(whole + b'swiftformer_xs,1.0,"unfin')
    fill(path, CASES, measure)
    assert calls == [*CASES[:3], *CASES[2:]]
    assert path.read_bytes().startswith(whole)
    found = lines(path)
    assert [{column: each[column] for column in results.CASE} for each in found] == CASES
    assert all(set(each) == set(results.COLUMNS) and each["processor"] == FACTS["processor"] for each in found)
    fill(path, CASES, pytest.fail)


def test_a_file_saved_by_a_spreadsheet_continues(facts, tmp_path):
    """Its lines end with CR and LF; the unfinished last one is cut off, and nothing else."""
    path = tmp_path / "a.csv"
    fill(path, CASES[:2], measured)
    whole = path.read_bytes().replace(b"\n", b"\r\n")
    path.write_bytes(whole + b"swiftformer")
    fill(path, CASES[:2], pytest.fail)
    assert path.read_bytes() == whole


@pytest.mark.parametrize("column", ["processor", "instruction_set", "threads", "torch"])
def test_rows_of_another_machine_do_not_count(column, facts, tmp_path, monkeypatch):
    path = tmp_path / "a.csv"
    fill(path, CASES[:2], measured)
    monkeypatch.setitem(FACTS, column, "another")
    fill(path, CASES[:2], measured)
    assert [each[column] == "another" for each in lines(path)] == [False, False, True, True]


def test_failed_rows_are_kept_and_measured_again_on_request(facts, tmp_path):
    path = tmp_path / "a.csv"
    [found] = fill(path, CASES[:1], failed)
    assert models.outcome(found).startswith("error: of several")
    fill(path, CASES[:1], pytest.fail)
    fill(path, CASES[:1], measured, retry=True)
    fill(path, CASES[:1], pytest.fail, retry=True)  # the last row counts
    assert [each["error"] for each in lines(path)] == ["of several lines, with a comma", ""]


def test_other_files_are_not_touched(tmp_path):
    path = tmp_path / "notes.csv"
    path.write_text("model,top1\nnat_nano,99")
    with pytest.raises(DataError, match="name another file"):
        results.Results(path)
    assert path.read_text() == "model,top1\nnat_nano,99"


@pytest.mark.parametrize(
    ("program", "error"),
    [
        ("import os; os.kill(os.getpid(), 11)", "ended by SIGSEGV"),
        ("raise ValueError('no such model')", "ValueError: no such model"),
        ("raise SystemExit(3)", "exit code 3"),
        ("import time; time.sleep(60)", "stopped after 1 s"),
    ],
)
def test_a_crash_is_a_row(program, error, tmp_path, monkeypatch):
    (tmp_path / "failing.py").write_text(program)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(models, "MODULE", "failing")
    found = models.measure_apart(CASES[0], seconds=1, timeout=1 if "sleep" in program else 30)
    assert found["error"] == error and found["model"] == CASES[0]["model"] and found["processor"]


def test_a_measurement_ends_with_who_asked_for_it(tmp_path):
    task = json.dumps({"case": CASES[0], "threads": 1, "seconds": 600})
    command = [sys.executable, "-m", models.MODULE, task, str(tmp_path / "row.json")]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        process.stdin.close()  # as the system does when the other process ends
        assert process.wait(300) == 1


def test_a_row(tmp_path, monkeypatch):
    """The program that measures a row, on a small model."""
    (case,) = models.cases(["nat_nano"], ["regard"], ["fused"], [2])
    task = {"case": case, "threads": torch.get_num_threads(), "seconds": 0}
    monkeypatch.setattr(machine, "SIDE", 64)
    monkeypatch.setattr(sys, "argv", ["row.py", json.dumps(task), str(tmp_path / "row.json")])
    row.main()
    found = json.loads((tmp_path / "row.json").read_text())
    assert set(found) == {*results.COLUMNS} - {"error"}
    assert all(isinstance(cell, str) for cell in found.values())
    rate, milliseconds = float(found["infer_samples_per_sec"]), float(found["infer_step_time"])
    assert abs(rate * milliseconds - 2000) <= 0.005 * milliseconds + 0.0005 * rate + 1e-5  # both are rounded
    assert float(found["speedup"]) > 0 and found["baseline"] == "regard eager"
    parameters = sum(parameter.numel() for parameter in create_model("nat_nano").parameters())
    assert found["param_count"] == f"{parameters / 1e6:.3f}" and found["threads"] == str(torch.get_num_threads())


def test_count():
    model = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 64, 7))
    assert row.count(model, 8) == {
        "infer_gmacs": f"{(5 * 64 * 27 + 5 * 64 * 7) / 1e9:.3f}",
        "infer_macts": f"{(5 * 64 + 7) / 1e6:.3f}",
        "param_count": f"{(5 * 28 + 7 * 321) / 1e6:.3f}",
    }


@pytest.mark.one_parameter
@pytest.mark.parametrize("name", ["eager", "fused", "bfloat16"])
def test_runtimes_compute_the_model(name):
    """Those that compile and export take a minute; the table reports the differences of all."""
    runtime = runtimes.RUNTIMES[name]
    dtype = getattr(torch, runtime.dtype)
    model, x = small("nat_nano").eval(), images(12, 10)
    expected = truth_of(deepcopy(model).to(dtype), x.to(dtype))
    with torch.no_grad():
        assert_within_budget(runtime.prepare(model, x)(), expected)


@pytest.mark.exhaustive
@pytest.mark.parametrize("library", models.LIBRARIES)
def test_models_of_both_libraries_have_equal_weights(library):
    model, baseline, source = row.build("swiftformer_xs", library)
    assert source == "timm" and type(baseline).__module__.startswith("timm.")
    assert type(model).__module__.split(".")[0] == library
    assert_same(model, baseline, torch.randn(1, 3, 64, 64))

"""The benchmark of threads and processes."""

import io
import json
import sys

import pytest
import torch

import threads


@pytest.mark.parametrize(("cores", "processes"), [(1, 2), (2, 2), (8, 2), (8, 3)])
def test_settings(cores, processes, monkeypatch):
    monkeypatch.setattr(threads, "CORES", cores)
    chosen = threads.settings(processes)
    assert len(set(map(str, chosen))) == len(chosen) or cores == 1
    assert {setting.threads for setting in chosen if setting.processes == 1} == {1, cores}
    assert all(setting.threads == max(1, cores // processes) for setting in chosen if setting.pinned)
    assert any(setting.processes * setting.threads > cores for setting in chosen)


def test_names_of_settings():
    assert str(threads.Setting(2, 4)) == "2 x 4 threads"
    assert str(threads.Setting(2, 1, {"A": "b"}, pinned=True)) == "2 x 1 threads, A=b, pinned apart"


@pytest.mark.parametrize("task", threads.TASKS)
def test_a_process(task, monkeypatch, capsys):
    """Processes wait for a line of the parent's, then run the task and print their figures."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("go\n"))
    torch.manual_seed(0)
    threads.child(task, seconds=0)
    ready, figures = capsys.readouterr().out.splitlines()
    found = json.loads(figures)
    assert ready == "ready" and set(found) == {"rate", "cpu", "slept", "preempted"}
    assert found["rate"] > 0 and found["cpu"] >= 0

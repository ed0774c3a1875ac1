"""Tables: plain in a pipe, and no broken names on a terminal."""

import io
import re

import pytest
from rich.console import Console

from regard.cli import models
from regard.cli.tables import Table, show
from regard.models import MODELS

from .test_cli import call, on_terminal


def small():
    table = Table("name", "words", "count", title="title", whole=("name",), right=("count",))
    table.add("first name", "some words to wrap", "1")
    table.add("second", "[red]", "20")
    return table


def lines_of(table, width):
    console = Console(width=width, file=io.StringIO())
    console.print(table.aligned(width))
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_a_pipe_gets_tabs(capsys):
    show(small(), small())
    lines = ["name\twords\tcount", "first name\tsome words to wrap\t1", "second\t[red]\t20"]
    assert capsys.readouterr().out.splitlines() == [*lines, "", *lines]


def test_cells_hold_no_tabs_or_line_breaks():
    table = Table("one", "two")
    table.add("a\tb\nc", "d")
    assert table.tab_separated()[1] == "a b c\td"


def test_aligned():
    assert lines_of(small(), 80) == [
        "name        words               count",
        "first name  some words to wrap      1",
        "second      [red]                  20",
    ]


def test_only_spaces_of_words_are_broken():
    narrow = small()
    assert lines_of(narrow, 24) == [
        "name        words  count",
        "first name  some       1",
        "            words",
        "            to",
        "            wrap",
        "second      [red]     20",
    ]
    assert narrow.aligned(23) is None


def test_blocks():
    assert small().blocks() == [
        "title",
        "",
        "name   first name",
        "words  some words to wrap",
        "count  1",
        "",
        "name   second",
        "words  [red]",
        "count  20",
    ]


@pytest.mark.exhaustive
@pytest.mark.parametrize("columns", [40, 80, 200])
def test_a_terminal_never_breaks_the_name_of_a_model(columns):
    printed = on_terminal("models", columns=columns)
    assert all(re.search(rf"(?m)(^|\s){name}(\s|$)", printed) for name in MODELS)
    if columns >= 80:
        rows = [line for line in printed.splitlines() if line.split()[0] in MODELS]
        assert len(rows) == len(MODELS) and max(len(line.rstrip()) for line in printed.splitlines()) <= columns


@pytest.mark.one_parameter
@pytest.mark.parametrize(
    "arguments", [("info", "swin_tiny_patch4_window7_224"), ("check",), ("models", "deit_tiny_d*")]
)
def test_a_terminal_never_breaks_a_word(arguments):
    lines = call(*arguments).stdout.splitlines()
    words = {word for line in lines if not line.startswith("cores\t") for word in line.split()}  # the load changes
    printed = on_terminal(*arguments, columns=60)
    assert words <= set(printed.split())


def test_the_listing_is_a_table_of_tabs_in_a_pipe():
    rows = [line.split("\t") for line in call("models").stdout.splitlines()]
    assert rows[0] == list(models._listing([]).headings) and [row[0] for row in rows[1:]] == list(MODELS)
    assert {len(row) for row in rows} == {6}

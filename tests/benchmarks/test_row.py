"""Rows, as older builds print them and as JSON."""

from __future__ import annotations

import pytest

from benchmarks.row import Row, read_row

ROWS = [
    Row("serve ready / bare uvicorn ready", 1.83, "x", 3, "0.85 s against 0.46 s, median of 7"),
    Row("event age p99, 200 viewers / bare ASGI", 12.5, "x", 1.5, "p99 9.1 ms against 7.0 ms (p50 2.0, 1.0)"),
    Row("events lost", 0.0, "", 0, "at 50 events/s each, with and without them"),
    Row("interrupt to complete, above bare CLI", -3.25, "ms", 100, "20 ms against 23 ms, median of 20"),
    Row("memory of one of 2000 open sessions", 1234567.5, "KiB", 60, "RSS, on 4 processes"),
    Row("replay, sqlite / sse-starlette, dicts", 6.75, "x", 5, "1,234 against 567 events/s", more_is_better=True),
    Row("events read of a history, Ziti", 21.0, "k/s", 20.0, "", more_is_better=True),
    Row("nothing to divide by", float("inf"), "x", 1.5, "(at most 3) is a note"),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_row_is_read_back_from_its_text_and_from_its_json(row: Row) -> None:
    assert read_row(str(row)) == row
    assert read_row(row.as_json()) == row


def test_the_text_of_an_older_build() -> None:
    line = "MISS first token, warm turn / bare CLI      1.31 x    (at most 1.15)  52 ms against 40 ms, median of 20\n"
    row = read_row(line)
    assert row == Row("first token, warm turn / bare CLI", 1.31, "x", 1.15, "52 ms against 40 ms, median of 20")
    assert not row.reached


@pytest.mark.parametrize(
    "line",
    [
        "",
        "-    ziti: no ziti binary, name one in PORTICO_TEST_ZITI",
        "ok   a warning of some server",
        "ok   a row        1.2.3 x    (at most 2)  that is none",
        '{"level": "warning", "message": "from a server"}',
        "{",
    ],
)
def test_what_is_no_row_is_passed_over(line: str) -> None:
    assert read_row(line) is None

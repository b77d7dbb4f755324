"""Programs under measurement: what they complain about is no noise, and no secret either."""

from __future__ import annotations

import sys

import pytest

from benchmarks.servers import program

SERVER = """
import sys, time
for n in range(100):
    print("complaint", n, file=sys.stderr)
sys.stderr.flush()
{then}
"""


def server(then: str) -> list[str]:
    return [sys.executable, "-c", SERVER.format(then=then)]


READY = 'print("ready on http://localhost:1", flush=True); time.sleep(100)'


def test_what_a_server_complains_about_is_kept_from_the_rows(capfd: pytest.CaptureFixture[str]) -> None:
    with program(server(READY)) as started:
        assert started.url == "http://localhost:1"
    assert capfd.readouterr() == ("", "")


def test_its_last_words_are_shown_where_the_measurement_fails(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ZeroDivisionError), program(server(READY)):
        raise ZeroDivisionError
    assert "  complaint 99\n" in capfd.readouterr().err


def test_its_last_words_are_shown_where_it_does_not_start(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError, match="ended before it was ready"), program(server("sys.exit(1)")):
        pass
    lines = capfd.readouterr().err.splitlines()
    assert lines[-1] == "  complaint 99" and len(lines) < 50

"""Chunks into lines."""

import time

import pytest

from portico.plugins.claude_code.framer import TAIL, LineFramer, Oversized

MiB = 1024 * 1024


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_lines_come_out_whole_however_they_are_cut(size: int) -> None:
    data = b'{"a":1}\n\r\n\n{"b":"\xe2\x80\xa8"}\r\nlast\n'
    framer = LineFramer()
    lines = [line for at in range(0, len(data), size) for line in framer.feed(data[at : at + size])]
    assert lines == [b'{"a":1}', b'{"b":"\xe2\x80\xa8"}', b"last"]
    assert framer.close() is None


def test_a_line_of_20_mib_comes_through_in_linear_time() -> None:
    framer, chunk = LineFramer(), b"x" * 65536
    began = time.process_time()
    for _ in range(20 * MiB // len(chunk)):
        assert framer.feed(chunk) == []
    (line,) = framer.feed(b"\n")
    assert isinstance(line, bytes) and len(line) == 20 * MiB
    assert time.process_time() - began < 0.5  # about 0.02; joining at every chunk takes 3


@pytest.mark.parametrize("size", [1, 4, 100])
def test_a_longer_line_is_told_of_and_the_next_one_comes(size: int) -> None:
    data = b"a\n" + b"x" * 11 + b"\n" + b"y" * 10 + b"\nb\n"
    framer = LineFramer(max_line=10)
    lines = [line for at in range(0, len(data), size) for line in framer.feed(data[at : at + size])]
    assert lines == [b"a", Oversized(11), b"y" * 10, b"b"]


def test_a_line_that_never_ends_takes_no_memory() -> None:
    framer = LineFramer(max_line=MiB)
    for _ in range(64):
        framer.feed(b"x" * MiB)
        assert sum(map(len, framer._parts)) <= MiB
    last = framer.close()
    assert last == Oversized(64 * MiB)
    assert isinstance(last, Oversized) and len(last.tail) == TAIL


def test_close_gives_the_line_that_was_cut_off() -> None:
    framer = LineFramer()
    assert framer.feed(b'whole\n{"half') == [b"whole"]
    assert framer.close() == b'{"half'
    assert framer.feed(b"new\n") == [b"new"]

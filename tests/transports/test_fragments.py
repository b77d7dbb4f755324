"""Large frames that are taken apart mean what they were, whatever comes with them and however it comes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.server import ServerProtocol

from portico.transports import fragments
from portico.transports.fragments import PIECE_BYTES, Fragments
from tests.support.websocket import frame

MAX_MESSAGE = 1000
FRAMES = st.builds(
    frame,
    st.sampled_from([0, 0, 1, 2, 8, 9, 10, 3]),
    st.integers(0, 400).map(lambda size: (bytes(range(256)) * 2)[:size])
    | st.sampled_from([b"", b"x", b"y" * 125, b"z" * 126, b"a" * MAX_MESSAGE, b"b" * (MAX_MESSAGE + 1)]),
    fin=st.booleans(),
    mask=st.sampled_from([True] * 9 + [False]),
    rsv=st.sampled_from([0] * 9 + [4]),
)


def told(parser: ServerProtocol) -> tuple[list[tuple[Opcode, bytes]], int | None]:
    """The messages that a parser has found, and with what code it would close."""
    messages: list[tuple[Opcode, bytearray]] = []
    whole: list[tuple[Opcode, bytes]] = []
    for event in parser.events_received():
        assert isinstance(event, Frame)
        if event.opcode is Opcode.CONT:
            messages[-1][1].extend(event.data)
        elif event.opcode in (Opcode.TEXT, Opcode.BINARY):
            messages.append((event.opcode, bytearray(event.data)))
        else:
            whole.append((event.opcode, bytes(event.data)))
            continue
        if event.fin:
            whole.append((messages[-1][0], bytes(messages[-1][1])))
    return whole, parser.close_sent.code if parser.close_sent else None


def parser() -> ServerProtocol:
    return ServerProtocol(state=State.OPEN, max_size=MAX_MESSAGE)


@given(st.lists(FRAMES, max_size=6).map(b"".join), st.lists(st.integers(1, 300), max_size=30))
def test_the_parser_finds_the_same_messages(sent: bytes, cuts: list[int]) -> None:
    plain, through = parser(), parser()
    plain.receive_data(sent)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fragments, "PIECE_BYTES", 8)
        parts = Fragments(lambda length: length <= MAX_MESSAGE - (through.current_size or 0))
        for size in (*cuts, len(sent)):
            for part in parts.feed(sent[:size]):
                through.receive_data(part)
            sent = sent[size:]
    assert told(through) == told(plain)


def test_nobody_holds_more_than_a_piece_of_a_large_frame() -> None:
    size = 10 * PIECE_BYTES + 3
    sent = frame(Opcode.TEXT, b"x" * size)
    parts, passed = Fragments(lambda length: True), parser()
    passed.max_message_size = size
    for start in range(0, len(sent), 1000):
        for part in parts.feed(sent[start : start + 1000]):
            passed.receive_data(part)
        assert len(passed.reader.buffer) <= PIECE_BYTES
    messages, code = told(passed)
    assert messages == [(Opcode.TEXT, b"x" * size)] and code is None


def test_what_is_not_admitted_is_left_to_the_parser_at_once() -> None:
    sent = frame(Opcode.TEXT, b"x" * (PIECE_BYTES + 1))[:14]
    refusing = parser()
    for part in Fragments(lambda length: False).feed(sent):
        refusing.receive_data(part)
    assert told(refusing) == ([], 1009)

"""Frames of every kind, right and wrong ones: each is answered or ends the connection, and none is a fault."""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from anyio.from_thread import start_blocking_portal
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from websockets.frames import Opcode

from tests.support.limits import HANG_SECONDS
from tests.support.serving import Served, serving
from tests.support.websocket import frame, handshake

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["\ud800", "t"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
TYPES = st.sampled_from(["query", "interrupt", "permission", "resume", "auth"])
MEMBERS: dict[str, st.SearchStrategy[Any]] = {
    "id": st.integers() | st.text(max_size=5) | JSON,
    "content": st.text(max_size=20) | JSON,
    "turn_id": st.sampled_from(["t", "u"]) | JSON,
    "if_busy": st.sampled_from(["queue", "reject", "interrupt", "steer"]) | JSON,
    "after": st.integers(0, 50) | JSON,
    "request_id": st.text(max_size=5) | JSON,
    "behavior": st.sampled_from(["allow", "deny"]) | JSON,
    "updated_input": JSON,
    "token": st.sampled_from(["alice-secret", "bob-secret"]) | JSON,
}
MESSAGES = st.fixed_dictionaries({"type": TYPES | JSON}, optional=MEMBERS).map(lambda value: json.dumps(value).encode())
TEXTS = MESSAGES | st.text(max_size=20).map(str.encode) | st.binary(max_size=20)


@st.composite
def frames(draw: st.DrawFn) -> bytes:
    kind = draw(st.integers(0, 9))
    text = draw(TEXTS)
    if kind < 6:
        return frame(Opcode.TEXT, text)
    if kind == 6:
        cut = draw(st.integers(0, len(text)))
        return frame(Opcode.TEXT, text[:cut], fin=False) + frame(Opcode.PING, b"x") + frame(Opcode.CONT, text[cut:])
    if kind == 7:
        return draw(st.binary(max_size=40))
    fin, mask, rsv = draw(st.booleans()), draw(st.integers(0, 9)) > 0, draw(st.sampled_from([0, 0, 0, 1, 4]))
    return frame(draw(st.integers(0, 15)), text, fin=fin, mask=mask, rsv=rsv)


class Faults(logging.Handler):
    """Return the faults of the server that are in the log."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append(f"{record.name}: {record.getMessage()}")


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """A server on a loop of its own, in another thread."""
    with start_blocking_portal("asyncio", backend_options={"use_uvloop": True}) as portal:
        with portal.wrap_async_context_manager(serving(tmp_path, max_frame=1024 * 1024)) as found:
            portal.call(found.session)
            yield found


@pytest.fixture
def faults() -> Iterator[Faults]:
    handler = Faults()
    logging.getLogger().addHandler(handler)
    yield handler
    logging.getLogger().removeHandler(handler)


def ends(url: str, sent: bytes, *fields: str) -> None:
    """Send it, and then the end of a talk; the server must come to its own end of it."""
    with socket.create_connection(("127.0.0.1", urlsplit(url).port or 0), timeout=HANG_SECONDS) as client:
        client.sendall(handshake("/claude/ws/s", *fields))
        raw = b""
        while b"\r\n\r\n" not in raw:
            raw += client.recv(4096)
        assert raw.startswith(b"HTTP/1.1 101 ")
        try:
            client.sendall(sent + frame(Opcode.CLOSE, b"\x03\xe8"))
            client.shutdown(socket.SHUT_WR)
            while client.recv(65536):
                pass
        except ConnectionError:
            pass


@pytest.mark.parametrize("fields", [(), ("sec-websocket-protocol: portico.v1",)], ids=["plain", "v1"])
def test_no_frame_is_too_strange(served: Served, faults: Faults, fields: tuple[str, ...]) -> None:
    @settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(st.lists(frames(), max_size=8).map(b"".join))
    def attack(sent: bytes) -> None:
        ends(served.url, sent, *fields)
        assert faults.found == []

    attack()

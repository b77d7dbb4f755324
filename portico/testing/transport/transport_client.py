"""The client that the author of a transport brings along, and what it is made to say."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any, Protocol

from portico.core.principal import Principal

ALICE, BOB, ROOT = (f"{name}-secret-0123456789" for name in ("alice", "bob", "root"))
"""The secrets of the callers that the suite's `Context` knows. The last one is an admin."""


KNOWN: Mapping[str, Principal] = {ALICE: Principal("alice"), BOB: Principal("bob"), ROOT: Principal("root", admin=True)}


GARBAGE: tuple[bytes, ...] = (
    b"\0",
    b"\n\n\r\n\r\n",
    b"\xff\xfe\xfd" * 1000 + b"\n",
    b"GET / HTTP/1.1\r\n\r\n",
    b'{"type":"',
    b"[]\nnull\n1e999\n",
    b"{}\n" * 1000,
    b"[" * 100_000 + b"\n",
    b"x" * (1024 * 1024),
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)),  # how TLS begins
)
"""Members that make sense on hardly any wire."""


STRANGE: tuple[str, ...] = (
    "",
    " \t ",
    "line\nbreak\r\n, and \x85, \u2028, \u2029",
    "NUL \0, ESC \x1b, DEL \x7f",
    "\u00fc \u5bc6\u7801 \U0001f600 e\u0301 \ufeff \uffff",
    "half of a pair: \ud800",
    'quotes "\\" \\u0000 </script>',
    "data: x\n\nid: 7\n\n",
)


HUGE = "x" * (1024 * 1024)


FLOOD = json.dumps({"deltas": 256, "size": 128 * 1024})
"""A query to which an echo says 32 MiB: more than kernels keep for a connection."""


STEP = 0.02


class Refused(Exception):
    """Raised by a `TransportClient` when the server refuses a request; ``code`` is the server's."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class TransportClient(Protocol):
    """A client of the transport, which the author of its suite brings along.

    It may take one connection for all, or one for each call. A refusal is raised as `Refused`, at the latest by the
    call that it is about.
    """

    async def create(self, session_id: str) -> None:
        """Open a session of this name."""

    async def query(self, session_id: str, content: Any, turn_id: str) -> None:
        """Start a turn; return once the server has said that it will run. ``content`` goes out as it is."""

    async def interrupt(self, session_id: str) -> None:
        """Stop the running turn."""

    async def answer(self, session_id: str, request_id: str, behavior: str) -> None:
        """Answer a permission request: ``allow`` or ``deny``."""

    def events(self, session_id: str, after: int) -> AsyncIterator[Mapping[str, Any]]:
        """The events behind ``after``, from JSON, and then live, until the server ends this.

        Must take nothing off the connection while it is not asked, but for a buffer of a MiB or so.
        """

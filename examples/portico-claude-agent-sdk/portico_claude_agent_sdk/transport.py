"""The SDK's way to the CLI: a process of ours in place of the one that the SDK would start.

That one has the server's whole environment, cannot be contained, takes up to 15 s to close, leaves the CLI's children
behind, and ends at a line of more than 1 MiB (0.2.187).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from claude_agent_sdk import CLIConnectionError, Transport

from portico.plugins.claude_code.toolkit import CliProcess, Oversized, decode_in_turns

ASIDE = "portico_aside"
"""Subtype of system messages of ours, in which a line goes by the SDK unharmed, as the value of ``line``."""

UNTOLD = frozenset({"command_lifecycle", "result"})
"""Lines that the SDK drops, or of which it leaves out what is needed: what this turn alone has cost, and the type of an
error of the API."""


class CliTransport(Transport):
    """Bounded as `CliProcess` is. ``closing`` is to be set before the process is ended on purpose.

    The SDK says of its `Transport` that it may change: what is asked for here is that of 0.2.187.
    """

    def __init__(self, process: CliProcess) -> None:
        self.closing = False
        self._process = process

    async def connect(self) -> None:
        """It is connected from the start."""

    async def write(self, data: str) -> None:
        """Raises `AgentFailed`, see `CliProcess.send`: the SDK lets it through."""
        await self._process.send(data.removesuffix("\n").encode())

    async def read_messages(self) -> AsyncIterator[dict[str, Any]]:
        while lines := await self._process.receive():
            for line in lines:
                message = line if isinstance(line, Oversized) else await decode_in_turns(line)
                if isinstance(message, Oversized) or (message is not None and message.get("type") in UNTOLD):
                    yield {"type": "system", "subtype": ASIDE, "line": message}
                if isinstance(message, dict):
                    yield message
        if not self.closing:
            # Of an end without an error, the SDK would not tell those who wait for the answer to a request.
            raise CLIConnectionError("The agent's process has ended.")

    async def close(self) -> None:
        await self._process.close()

    def is_ready(self) -> bool:
        return self._process.returncode is None

    async def end_input(self) -> None:
        """Only asked for where all messages are known at the start."""

"""The SDK's way to the CLI: a process of ours in place of the one that the SDK would start.

The SDK's own process has the server's whole environment, cannot be contained, takes up to 15 s to close, leaves the
CLI's children behind, and ends at a line of more than 1 MiB (0.2.187).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from claude_agent_sdk import CLIConnectionError, Transport

from portico.plugins.claude_code.toolkit import CliProcess, Oversized, decode_in_turns

ASIDE = "portico_aside"
"""The subtype of our own system messages, in which a line passes the SDK unchanged, as the value of ``line``."""

UNTOLD = frozenset({"command_lifecycle", "result"})
"""Lines that the SDK drops, or from which it omits needed data: the cost of this turn alone, and the type of an API
error."""


class CliTransport(Transport):
    """A transport, bounded as `CliProcess` is. Set ``closing`` before ending the process on purpose.

    The SDK says that its `Transport` may change: this is the interface of 0.2.187.
    """

    def __init__(self, process: CliProcess) -> None:
        self.closing = False
        self._process = process

    async def connect(self) -> None:
        """Do nothing: it is connected from the start."""

    async def write(self, data: str) -> None:
        """Write a line. Raises `AgentFailed`, see `CliProcess.send`: the SDK lets it through."""
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
            # At an end without an error, the SDK would leave callers waiting for the answer to a request.
            raise CLIConnectionError("The agent's process has ended.")

    async def close(self) -> None:
        await self._process.close()

    def is_ready(self) -> bool:
        return self._process.returncode is None

    async def end_input(self) -> None:
        """Do nothing: the SDK calls this only if all messages are known at the start."""

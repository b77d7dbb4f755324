"""The gateway's own answers, in the shape of the model API's errors: https://docs.claude.com/en/api/errors"""

from __future__ import annotations

import json

from starlette.types import Send

from portico.core.accounts import SESSION_BUDGET_SPENT

Raw = tuple[bytes, bytes]


class Refusal(Exception):
    """A request that the gateway answers itself, with this status, error type and text."""

    def __init__(self, status: int, kind: str, text: str, *, retry: bool | None = None) -> None:
        """``retry`` tells the client whether to try again; None lets the status decide."""
        super().__init__(text)
        self.status = status
        self.kind = kind
        self.text = text
        self.retry = retry

    async def answer(self, send: Send) -> None:
        body = json.dumps({"type": "error", "error": {"type": self.kind, "message": self.text}}).encode()
        headers: list[Raw] = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        if self.retry is not None:
            headers.append((b"x-should-retry", b"true" if self.retry else b"false"))
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def budget_exceeded(owner: str, spent: float, budget: float) -> Refusal:
    """Return a 402 ``budget_exceeded``: CLI 2.1.330 ends the turn on it at once, and shows its text and type."""
    text = (
        f"the budget of {owner} for today is spent: ${spent:.2f} of ${budget:.2f}; a new day begins at 0:00 UTC "
        "(budget_usd_per_day)"
    )
    return Refusal(402, "budget_exceeded", text, retry=False)


def session_budget_exceeded() -> Refusal:
    """Return the same for the budget of a session."""
    return Refusal(402, "budget_exceeded", SESSION_BUDGET_SPENT, retry=False)


HOP_BY_HOP = frozenset(
    {
        *(b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection"),
        *(b"te", b"trailer", b"transfer-encoding", b"upgrade"),
    }
)


def passed(fields: list[Raw], without: frozenset[bytes]) -> list[Raw]:
    """Return the header fields to pass on: all but the hop-by-hop ones (RFC 9110, 7.6.1) and those in ``without``."""
    connections = [value for name, value in fields if name.lower() == b"connection"]
    named = {name.strip().lower() for value in connections for name in value.split(b",")}
    dropped = HOP_BY_HOP | without | named
    return [(name, value) for name, value in fields if name.lower() not in dropped]

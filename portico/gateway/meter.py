"""Meters that count the tokens of a reply of the model API while it passes."""

from __future__ import annotations

import json
from typing import Any

from portico.core.prices import LIST_PRICES, PriceTable

MAX_LINE = 64 * 1024
"""Bytes. Lines about usage have some hundred; longer lines are content, and are not kept."""

MAX_JSON = 4 * 1024 * 1024
"""Bytes of a reply that does not stream; the longest, of 128,000 tokens, has some 600 KB."""

_TELLING = (b'"message_start"', b'"message_delta"')


class StreamMeter:
    """A meter for server-sent events: https://docs.claude.com/en/docs/build-with-claude/streaming

    It decodes only the two kinds of events that report usage. It finds them by their quoted names: in content the
    quotes would be escaped.
    """

    def __init__(self, prices: PriceTable = LIST_PRICES) -> None:
        self._prices = prices
        self.model = ""
        self._usage: dict[str, Any] = {}
        self._rest = b""
        self._skipping = False
        self._deltas = 0
        self._whole = False  # whether the API has reported the total

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes of the body, which may be cut anywhere."""
        end = chunk.rfind(b"\n") + 1
        if not end:
            self._keep(chunk)
            return
        whole = self._rest + chunk[:end]
        if self._skipping:
            whole = whole[whole.index(b"\n") + 1 :]
        self._rest, self._skipping = b"", False
        self._keep(chunk[end:])
        self._deltas += whole.count(b'"content_block_delta"')
        if any(name in whole for name in _TELLING):
            for line in whole.split(b"\n"):
                if line.startswith(b"data:") and any(name in line for name in _TELLING):
                    self._take(line[5:])

    def _keep(self, rest: bytes) -> None:
        if not self._skipping:
            self._rest += rest
        if len(self._rest) > MAX_LINE:
            self._rest, self._skipping = b"", True

    def _take(self, data: bytes) -> None:
        event = _decoded(data)
        kind = event.get("type")
        message = event.get("message") if kind == "message_start" else event
        if kind not in ("message_start", "message_delta") or not isinstance(message, dict):
            return
        self.model = str(message.get("model") or self.model)
        if isinstance(usage := message.get("usage"), dict):  # the numbers of a delta are cumulative
            self._whole = self._whole or (kind == "message_delta" and "output_tokens" in usage)
            self._usage.update({name: value for name, value in usage.items() if value is not None})

    def total(self) -> tuple[dict[str, Any], float]:
        """Return the API's ``usage``, empty if it reported none, and the cost in US dollars.

        A reply that was cut never reported its total. Each delta then counts as one token, which is too low.
        """
        if not self._usage:
            return {}, 0.0
        usage = dict(self._usage)
        if not self._whole:
            told = usage.get("output_tokens")
            usage["output_tokens"] = max(told if isinstance(told, int) else 0, self._deltas)
        return usage, self._prices.cost(self.model, usage)


class JsonMeter:
    """A meter for a reply that does not stream."""

    def __init__(self, prices: PriceTable = LIST_PRICES) -> None:
        self.model = ""
        self._prices = prices
        self._body = bytearray()

    def feed(self, chunk: bytes) -> None:
        if len(self._body) <= MAX_JSON:
            self._body += chunk

    def total(self) -> tuple[dict[str, Any], float]:
        """See `StreamMeter.total`."""
        message = _decoded(bytes(self._body))
        usage = message.get("usage")
        if not isinstance(usage, dict):
            return {}, 0.0
        self.model = str(message.get("model") or "")
        return usage, self._prices.cost(self.model, usage)


def _decoded(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}

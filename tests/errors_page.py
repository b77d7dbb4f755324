"""Writes the reference of errors from the tables of codes: `python -m tests.errors_page > docs/reference/errors.md`."""

from __future__ import annotations

from collections.abc import Mapping

from portico.transports.codes import CODES, PLUGIN_CODES, TURN_CODES, WEBSOCKET_CODES, Code
from portico.transports.wire import CLOSE_CODES, POLICY

HEAD = """# Errors

Every refused request is answered with a problem document (`application/problem+json`, RFC 9457). Decide by `code`: it
is stable, and `type` is `urn:portico:problem:` with the code. `detail` is for people, and may change. The examples use
`TOKEN` and `API`, see [Try the examples](index.md#try-the-examples).

```sh
curl -sS -H "Authorization: Bearer $TOKEN" $API/sessions/nobody
```

```json
{
  "type": "urn:portico:problem:session_not_found",
  "title": "Not Found",
  "status": 404,
  "detail": "there is no session 'nobody'",
  "code": "session_not_found"
}
```

A 422 with the code `invalid` has `errors`, one for each wrong value: `loc` says where it stands, `msg` what is wrong
with it, and `type` is a short name of the mistake.

```sh
curl -sS -H "Authorization: Bearer $TOKEN" -H 'Content-Type: application/json' $API/sessions -d '{"max_turns": 0}'
```

A 429, and some of the 503, have the header `Retry-After`: the seconds to wait.

"""
REQUESTS = """## Answers to requests

| status | code | meaning | what to do |
|---|---|---|---|
"""
PLUGINS = """
## Answers of plugins

The built-in drivers, stores and authenticators have these as well. Plugins from elsewhere may have others, with the
statuses 409, 422 and 503.

| status | code | meaning | what to do |
|---|---|---|---|
"""
WEBSOCKETS = """
## WebSockets

A WebSocket with the subprotocol `portico.v1` gets a `nack` with the same `code` and `status` as a request. Without a
subprotocol it gets an event `error` with both. Where the connection can't go on, it is closed with one of these codes,
and the reason begins with the `code`: {closes}; {policy} for all others. These codes come on WebSockets only:

| status | code | meaning | what to do |
|---|---|---|---|
"""
TURNS = """
## Turns that fail

A turn that was accepted and fails has an [`error` event](events.md#error) with one of these codes, and then its
`complete`. Where an agent can't be started for a new session, `POST /sessions` is answered with such a code and 503.

| code | meaning | what to do |
|---|---|---|
"""


def page() -> str:
    """Make the whole page."""
    closes = ", ".join(f"{close} for {status}" for status, close in CLOSE_CODES.items())
    turns = "".join(f"| `{code}` | {meaning} | {remedy} |\n" for code, (meaning, remedy) in sorted(TURN_CODES.items()))
    websockets = WEBSOCKETS.format(closes=closes, policy=POLICY) + _rows(WEBSOCKET_CODES)
    return HEAD + REQUESTS + _rows(CODES) + PLUGINS + _rows(PLUGIN_CODES) + websockets + TURNS + turns


def _rows(codes: Mapping[str, Code]) -> str:
    ordered = sorted(codes.items(), key=lambda item: (item[1].status, item[0]))
    return "".join(f"| {code.status} | `{name}` | {code.meaning} | {code.remedy} |\n" for name, code in ordered)


if __name__ == "__main__":
    print(page(), end="")

"""A scripted stand-in for the Anthropic Messages API: the user's last text says what it answers.

It serves `portico demo` and the tests. Its client is the real `claude` CLI.

Plain words get an answer that echoes them, streamed word by word. In a short text
- `think` adds a thinking block before the answer,
- `write a file` or `tool` makes a `Write` tool use, which needs permission,
- `fail` or `error` gives an API error, 400, which is not retried.
Where the CLI asks for a structured output, plain words get one.

A directive, anywhere in the text, sets the replies exactly: a JSON array of steps in double brackets.
A step is one reply of the model; the next step is due after a tool's result (or after a reply cut by
`max_tokens`). After the last step the model says "Done."

    [[{"say": "hello world", "gap_ms": 20}]]
    [[{"say": "I look.", "tool": {"name": "Bash", "input": {"command": "ls"}}}, {"say": "Seen."}]]
    [[{"error": 529, "times": 2, "say": "here at last"}]]

Content of a reply, in this order:
- `think`: text of a thinking block, with a signature
- `say`: text. Any JSON string: `"\\u2028"`, emoji, lone surrogates
- `words`: the number of words, repeated from `say` or from its own; `size`: the number of characters, likewise
- `tool`: `{"name", "input"}`, or a list of them for several uses in one reply

Delivery:
- `gap_ms`: milliseconds before each delta. Default 0
- `chunk`: characters per delta. Default: one word per delta; with `size`, 16,384 characters
- `usage`: token counts to report, such as `{"input_tokens": 5, "output_tokens": 7}`
- `stop_reason`: default `end_turn`, or `tool_use` if there is one; `max_tokens` makes the CLI continue, and cuts
  off the last tool use in the middle of its input
- `stop_details`: what the API says about a refusal, such as `{"type": "refusal", "category": "cyber"}`
- `headers`: response headers

Faults, at every call that this step answers, or only at the first `times` of them:
- `error`: an HTTP status (400-599); `error_type`: default the API's own for that status; `error_text`: its message
- `cut`: the connection closes after this many deltas; 0: right after the headers
- `stall`: nothing follows after this many deltas (0: only headers), until `ScriptedModel.release()`
  or until the client leaves

The text is the last one in the user's messages that is neither a `<system-reminder>` nor a note of the CLI.
A subagent's text is its prompt, so a directive may be inside the input of an `Agent` tool. A directive that
is not valid gives error 400, which says why.
"""

import json
from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import anyio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from portico.plugins.demo.reply import Json, events, message
from portico.plugins.demo.script import OUTPUT_TOOL, ScriptError, Step, next_step

# https://docs.claude.com/en/api/errors
ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    529: "overloaded_error",
}
FAULTS_KEPT = 1000  # steps whose `times` are being counted


@dataclass(frozen=True, slots=True)
class Call:
    """A request that reached the API: `body` is its parsed JSON (None without one)."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: Any


class ScriptedModel:
    """The API as an ASGI app, `app`. `requests` holds its last `keep` requests, oldest first."""

    def __init__(self, keep: int = 100) -> None:
        self.requests: deque[Call] = deque(maxlen=keep)
        self._faults: OrderedDict[tuple[str, str, int], int] = OrderedDict()
        self._released = anyio.Event()
        self._streams: set[anyio.CancelScope] = set()
        self._closed = False
        self.app = Starlette(
            routes=[
                Route("/", self._root),
                Route("/v1/messages", self._messages, methods=["POST"]),
                Route("/v1/messages/count_tokens", self._count_tokens, methods=["POST"]),
            ],
            exception_handlers={404: _not_found, 405: _not_found},
        )

    def release(self) -> None:
        """Let every stalled reply continue."""
        self._released.set()
        self._released = anyio.Event()

    def hang_up(self) -> None:
        """End every reply under way where it is, and answer no further call."""
        self._closed = True
        for scope in self._streams:
            scope.cancel()

    async def _root(self, request: Request) -> Response:
        self._log(request, None)
        return JSONResponse({})

    async def _count_tokens(self, request: Request) -> Response:
        raw = await request.body()
        self._log(request, _json(raw))
        return JSONResponse({"input_tokens": len(raw) // 4})

    async def _messages(self, request: Request) -> "Response | _Reply":
        body = _json(await request.body())
        self._log(request, body)
        if self._closed:
            return _error(503, "The scripted model has stopped.")
        if not isinstance(body, dict) or not isinstance(body.get("messages"), list):
            return _error(400, "messages: a list is required")
        try:
            text, replies, step = next_step(body["messages"], _output_schema(body))
        except ScriptError as error:
            return _error(400, str(error))
        faulty = self._faulty((str(body.get("metadata")), text, replies), step)
        if faulty and step.error is not None:
            return _error(step.error, step.error_text, step.error_type, step.headers)
        return _Reply(self, step, str(body.get("model")), bool(body.get("stream")), faulty)

    def _faulty(self, key: tuple[str, str, int], step: Step) -> bool:
        """Tell whether the step's fault applies to this call."""
        if step.times is None:
            return True
        count = self._faults.pop(key, 0)
        if count >= step.times:
            return False  # the count is dropped, so the same text fails again when asked again
        self._faults[key] = count + 1
        if len(self._faults) > FAULTS_KEPT:
            self._faults.popitem(last=False)
        return True

    def _log(self, request: Request, body: Any) -> None:
        self.requests.append(Call(request.method, request.url.path, dict(request.headers), body))


class _Reply:
    """An ASGI response that can also stall, or stop without an end: then the server closes the connection."""

    def __init__(self, model: ScriptedModel, step: Step, name: str, stream: bool, faulty: bool) -> None:
        self._model, self._step, self._name, self._stream = model, step, name, stream
        self._cut = step.cut if faulty else None
        self._stall = step.stall if faulty else None
        self._ended = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with anyio.create_task_group() as tasks:
            self._model._streams.add(tasks.cancel_scope)
            try:
                tasks.start_soon(self._watch, receive, tasks.cancel_scope)
                await self._send(send)
                tasks.cancel_scope.cancel()
            finally:
                self._model._streams.discard(tasks.cancel_scope)
        if self._model._closed and not self._ended:
            await self._end(send)  # an unfinished response would be an error in the server's log

    async def _watch(self, receive: Receive, scope: anyio.CancelScope) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        scope.cancel()

    async def _send(self, send: Send) -> None:
        kind = "text/event-stream; charset=utf-8" if self._stream else "application/json"
        headers = {"content-type": kind, "request-id": "req_scripted", **self._step.headers}
        raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": 200, "headers": raw})
        if await self._ends_here(0):
            return
        if not self._stream:
            # A reply that doesn't stream has no deltas: anything that goes wrong does so at its start.
            if self._cut is not None:
                return
            if self._stall:
                await self._model._released.wait()
            body = _dump(message(self._step, self._name))
            await send({"type": "http.response.body", "body": body, "more_body": True})
            await self._end(send)
            return
        deltas = 0
        for event in events(self._step, self._name):
            is_delta = event["type"] == "content_block_delta"
            if is_delta:  # even without a gap: the surrounding server shares the loop
                await anyio.sleep(self._step.gap_ms / 1000)
            await send({"type": "http.response.body", "body": _frame(event), "more_body": True})
            deltas += is_delta
            if is_delta and await self._ends_here(deltas):
                return
        await self._end(send)

    async def _end(self, send: Send) -> None:
        self._ended = True
        await send({"type": "http.response.body", "body": b""})

    async def _ends_here(self, deltas: int) -> bool:
        """Stall here, if the step says so; tell whether to cut the stream here."""
        if self._stall == deltas:
            await self._model._released.wait()
        return self._cut == deltas


def _output_schema(body: Json) -> Any:
    """Return the schema of the output that the CLI asks for, or None."""
    tools = (tool for tool in body.get("tools") or () if isinstance(tool, dict))
    return next((tool.get("input_schema") for tool in tools if tool.get("name") == OUTPUT_TOOL), None)


def _frame(event: Json) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (event["type"].encode(), _dump(event))


def _dump(value: Json) -> bytes:
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:  # a lone surrogate, which needs an escape
        return json.dumps(value, separators=(",", ":")).encode()


def _json(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except ValueError:
        return None


def _error(status: int, text: str, kind: str | None = None, headers: Mapping[str, str] | None = None) -> JSONResponse:
    error = {"type": kind or ERROR_TYPES.get(status, "api_error"), "message": text}
    return JSONResponse(
        {"type": "error", "error": error, "request_id": "req_scripted"},
        status,
        {"request-id": "req_scripted", **(headers or {})},
    )


async def _not_found(request: Request, error: Exception) -> Response:
    return _error(404, f"{request.method} {request.url.path} is not part of the scripted API.")

"""An OpenAI-compatible chat endpoint: ``POST /v1/chat/completions`` and ``GET /v1/models``.

Each request is a session of its own, which is removed after its answer. If the request names a session, it is the next
turn of that session, which stays. The shapes are those of https://platform.openai.com/docs/api-reference/chat.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal

import anyio.lowlevel
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from portico import Context, NewSession, PorticoError, Reader, Routes, Sessions, hookimpl
from portico.core.errors import InvalidRequest, Unavailable
from portico.transports.auth import principal_of
from portico.transports.body import read_object
from portico.transports.http_connection import half_closed
from portico.transports.models import SessionBody, TurnBody
from portico.transports.parse import check
from portico.transports.wire import problem


class Message(BaseModel):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[dict[Literal["type", "text"], str]]

    def __str__(self) -> str:
        return self.content if isinstance(self.content, str) else "\n".join(one.get("text", "") for one in self.content)


class Chat(BaseModel):
    """A request. Fields that only colour an answer (``temperature`` ...) are ignored.

    The fields of type None are refused if they have a value.
    """

    model: str
    messages: list[Message]
    stream: bool = False
    n: Literal[1] | None = None
    tools: None = None
    stop: None = None
    response_format: None = None

    def query(self, *, whole: bool) -> str:
        """Return the last message, and with ``whole`` also what was said before it."""
        said = [message for message in self.messages if message.role in ("user", "assistant")]
        if not said or said[-1].role != "user":
            raise InvalidRequest("messages: the last one must be the user's")
        lines = [f"<{message.role}>\n{message}\n</{message.role}>" for message in said[:-1] if whole]
        last = str(said[-1])
        return "\n".join(["This is our conversation so far:", *lines, "I say now:", last]) if lines else last

    def session(self) -> NewSession:
        """Make a session for this chat. Nobody is there to answer a permission request."""
        system = "\n\n".join(str(said) for said in self.messages if said.role in ("system", "developer"))
        model = self.model if self.model.startswith("claude-") else None
        options = {"model": model, "append_system_prompt": system or None, "permission_mode": "dontAsk"}
        return check(SessionBody, options).request()


class Answer:
    """The answer in the events of a turn; ``error`` is set if the turn failed."""

    def __init__(self, chat_id: str, model: str) -> None:
        self.error: PorticoError | None = Unavailable("the answer broke off", code="draining")
        self._head = {"id": f"chatcmpl-{chat_id}", "created": int(time.time()), "model": model}
        self._finish, self._usage = "", dict[str, int]()
        self._streamed: set[str] = set()  # ids of messages
        self._last: str | None = None  # the last message that was heard

    async def text(self, reader: Reader) -> AsyncIterator[str]:
        try:
            while events := await reader.read():
                yield "".join([self._take(json.loads(event.data)) for event in events])
                await anyio.lowlevel.checkpoint()  # a read of stored events never waits
        except PorticoError as error:
            self.error = error

    def _take(self, event: Mapping[str, Any]) -> str:
        text, message_id = "", str(event.get("message_id"))
        match event:
            case {"parent_tool_use_id": str()}:
                pass  # a subagent speaks only to the agent
            case {"type": "delta"}:
                text = event["content"]
                self._streamed.add(message_id)
            case {"type": "message", "role": "assistant"} if message_id not in self._streamed:
                text = "".join(block["text"] for block in event["content"] if block["type"] == "text")
            case {"type": "error"}:
                self.error = PorticoError(event["error"], code=event["code"])
            case {"type": "complete", "stop_reason": reason} if reason not in ("error", "timeout"):
                self.error, self._usage = None, _usage(event["usage"])
                self._finish = "stop" if reason == "end_turn" else "length"
        if text:
            text, self._last = f"\n\n{text}" if self._last not in (None, message_id) else text, message_id
        return text

    async def whole(self, reader: Reader) -> Response:
        said = {"role": "assistant", "content": "".join([text async for text in self.text(reader)])}
        if self.error is not None:
            return _problem(self.error)
        choice = {"index": 0, "message": said, "finish_reason": self._finish}
        return JSONResponse({**self._head, "object": "chat.completion", "choices": [choice], "usage": self._usage})

    async def frames(self, reader: Reader) -> AsyncIterator[bytes]:
        yield self._chunk({"role": "assistant", "content": ""})
        async for text in self.text(reader):
            if text:
                yield self._chunk({"content": text})
        failed = b"data: %b\n\n" % json.dumps(_error(self.error)).encode() if self.error else None
        yield failed or self._chunk({}, usage=self._usage) + b"data: [DONE]\n\n"

    def _chunk(self, delta: Mapping[str, str], **more: Any) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": None if delta else self._finish}
        body = {**self._head, "object": "chat.completion.chunk", "choices": [choice], **more}
        return b"data: %b\n\n" % json.dumps(body).encode()


def _usage(usage: Mapping[str, Any]) -> dict[str, int]:
    """Convert the usage of https://docs.claude.com/en/api/messages, in which ``input_tokens`` exclude cached tokens."""
    names = "input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"
    prompt, completion = sum(usage.get(name) or 0 for name in names), usage.get("output_tokens") or 0
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _error(error: PorticoError) -> dict[str, Any]:
    return {"error": {"message": error.detail, "type": error.code, "param": None, "code": error.code}}


def _problem(error: PorticoError) -> Response:
    status = 400 if isinstance(error, InvalidRequest) else problem(error)[0]
    # A failed turn may already have done much, and a client that retries would do it all again.
    return JSONResponse(_error(error), status, {"x-should-retry": "true" if status in (429, 503) else "false"})


class ChatCompletions:
    """An implementation of `portico.Routes`, and itself the second route: it closes a session after its response."""

    def __init__(self, context: Context) -> None:
        self._max_body = context.settings.max_body

    def routes(self, engine: Sessions) -> Sequence[BaseRoute]:
        self._engine = engine
        return [Route("/v1/models", _models), Route("/v1/chat/completions", self, methods=["POST"])]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            await self._chat(request, check(Chat, await read_object(request, self._max_body)), send)
        except PorticoError as error:
            await _problem(error)(scope, receive, send)

    async def _chat(self, request: Request, chat: Chat, send: Send) -> None:
        principal, named = principal_of(request), request.headers.get("x-portico-session")
        turn = {"query": chat.query(whole=named is None), "turn_id": request.headers.get("idempotency-key")}
        session_id = named or (await self._engine.create(principal, chat.session()))["session_id"]
        principal = await self._engine.bind(principal, session_id)  # another session may have this id later
        try:
            begun = await self._engine.query(principal, session_id, check(TurnBody, turn).request())
            reader = await self._engine.reader(principal, session_id, turn_id=begun.turn_id)
            await self._send(request, chat, Answer(begun.turn_id, chat.model), reader, send)
        finally:
            if named is None:
                with anyio.CancelScope(shield=True), suppress(PorticoError):  # otherwise it closes a little later
                    await self._engine.close(principal, session_id, purge=True)

    async def _send(self, request: Request, chat: Chat, answer: Answer, reader: Reader, send: Send) -> None:
        """Send the answer for as long as the client waits."""
        async with anyio.create_task_group() as tasks:

            async def leave(gone: Callable[[], Awaitable[object]]) -> None:
                await gone()
                tasks.cancel_scope.cancel()

            for gone in (request.receive, (half_closed(request.scope) or anyio.Event()).wait):
                tasks.start_soon(leave, gone)
            stream = StreamingResponse(answer.frames(reader), media_type="text/event-stream")
            response = stream if chat.stream else await answer.whole(reader)
            await response(request.scope, request.receive, send)
            tasks.cancel_scope.cancel()


async def _models(request: Request) -> Response:
    listed = {"id": "portico", "object": "model", "created": 0, "owned_by": "portico"}
    return JSONResponse({"object": "list", "data": [listed]})


@hookimpl
def portico_routes() -> Mapping[str, Callable[[Context], Routes]]:
    return {"openai": ChatCompletions}

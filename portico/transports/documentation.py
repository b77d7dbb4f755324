"""The routes of the OpenAPI document, and of a page to read it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from anyio import to_thread
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from portico.transports.admission import PUBLIC
from portico.transports.endpoint import route
from portico.transports.mount import mount_of
from portico.transports.operation import ETAG, HTML, IF_NONE_MATCH, JSON, Answer, operation

MOUNTS = 8
"""The most mounts for which the document and the page are kept."""


class Documentation:
    """The documentation of ``routes`` and of its own routes."""

    def __init__(self, routes: Sequence[BaseRoute]) -> None:
        self._routes = [*routes, *self.routes()]
        # Bounded: the path of a mount may have parameters, which anybody can fill in.
        self._document = lru_cache(MOUNTS)(self._make_document)
        self._page = lru_cache(MOUNTS)(self._make_page)

    def routes(self) -> list[Route]:
        return [route("/openapi.json", GET=self._get_document), route("/docs", GET=self._get_page)]

    @operation(
        "getDocument",
        "This document",
        Answer(200, "OpenAPI 3.1.", dict, headers=(ETAG,)),
        Answer(304, "It is the one that the client has."),
        headers=(IF_NONE_MATCH,),
        admission=PUBLIC,
    )
    async def _get_document(self, request: Request) -> Response:
        # Made on the first request, in a thread, as it takes a while.
        return _answer(request, await to_thread.run_sync(self._document, mount_of(request.scope)))

    @operation(
        "getPage",
        "A page to read this document",
        Answer(200, "HTML.", str, HTML, headers=(ETAG,)),
        Answer(304, "It is the one that the client has."),
        headers=(IF_NONE_MATCH,),
        admission=PUBLIC,
    )
    async def _get_page(self, request: Request) -> Response:
        return _answer(request, await to_thread.run_sync(self._page, mount_of(request.scope)))

    @cached_property
    def _made(self) -> dict[str, Any]:
        from portico.transports.openapi import document

        return document(self._routes)

    def _at(self, mount: str) -> dict[str, Any]:
        return {**self._made, "servers": [{"url": mount or "/"}]}

    def _make_document(self, mount: str) -> _Content:
        return _Content.of(json.dumps(self._at(mount), separators=(",", ":")), {"content-type": JSON})

    def _make_page(self, mount: str) -> _Content:
        from portico.transports.page import CONTENT_SECURITY_POLICY, page

        headers = {"content-type": f"{HTML}; charset=utf-8", "content-security-policy": CONTENT_SECURITY_POLICY}
        return _Content.of(page(self._at(mount)), headers)


@dataclass(frozen=True, slots=True)
class _Content:
    body: bytes
    etag: str
    headers: Mapping[str, str]

    @classmethod
    def of(cls, text: str, headers: Mapping[str, str]) -> _Content:
        body = text.encode()
        etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
        return cls(body, etag, {**headers, "etag": etag, "cache-control": "no-cache"})


def _answer(request: Request, content: _Content) -> Response:
    known = {each.strip().removeprefix("W/") for each in request.headers.get("if-none-match", "").split(",")}
    if known & {content.etag, "*"}:
        return Response(status_code=304, headers=content.headers)
    return Response(content.body, 200, content.headers)

"""The OpenAPI document, made from the operations of the routes: https://spec.openapis.org/oas/v3.1.1.html."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode
from starlette.routing import BaseRoute, Route

from portico import __version__
from portico.transports import models
from portico.transports.answer_bodies import Problem
from portico.transports.codes import ANYWHERE, CODES, OPEN, by_status
from portico.transports.endpoint import Endpoint
from portico.transports.operation import (
    ALLOW,
    JSON,
    RETRY_AFTER,
    WWW_AUTHENTICATE,
    X_PORTICO,
    Header,
    Operation,
    operation_of,
)
from portico.transports.shapes import ClientMessage, PlainMessage, ServerMessage, ServerSentEvent, WireEvent
from portico.transports.wire import PROBLEM_TYPE, phrase

log = logging.getLogger("portico.transports")

Json = dict[str, Any]

OVERVIEW = """Long-lived Claude Code sessions on the network.

Every request needs `Authorization: Bearer SECRET`, unless the operation is marked as needing no credentials or the \
network itself vouches for the caller. HEAD is answered like GET, without a body. Errors are problem documents \
(RFC 9457), whose `code` is stable. Objects that the server sends may get further members; in objects that clients \
send, unknown members are refused.

A stream (`text/event-stream`) is a series of Server-Sent Events; the schema here is that of one event. Comments \
keep the connection alive: one every 4 seconds in the stream of a turn, 15 in that of a session, or as often as \
`heartbeat` says, in seconds.
"""

PATH_PARAMETERS: Mapping[str, tuple[Any, str]] = {
    "session_id": (models.Name, "The session's id."),
    "seq": (models.EventId, "The event's number, its `seq`."),
    "turn_id": (models.TurnId, "The turn's id."),
    "request_id": (models.RequestId, "The permission request's id, from its event."),
    "rule_id": (models.SuggestionId, "The permission rule's id, from the session."),
}
SECURITY_SCHEMES: Mapping[str, Json] = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "A token that the operator hands out."},
    "ticket": {
        "type": "apiKey",
        "in": "query",
        "name": "ticket",
        "description": "From `createTicket`, for clients that can't send headers; for one session, until it expires.",
    },
}

PENDING_PERMISSION = {
    "operationId": "answerPermission",
    "parameters": {
        "session_id": "$response.body#/session_id",
        "request_id": "$response.body#/pending_permissions/0/request_id",
    },
}
"""The link from a session to the permission request that it waits for."""

_COMPONENTS: Mapping[str, Any] = {
    "Event": WireEvent,
    "ClientMessage": ClientMessage,
    "ServerMessage": ServerMessage,
    "PlainMessage": PlainMessage,
}
"""Types that are named in the document, though Python has no name for them."""

_REFERENCE = "#/components/schemas/"


def document(routes: Iterable[BaseRoute], server: str = "/") -> Json:
    """Return the document of all ``routes`` that are operations; the others are left out. ``server`` is their root."""
    schemas, paths = _Schemas(), Json()
    for path, method, known, max_body in _described(routes):
        paths.setdefault(path, {})[method.lower()] = _operation(path, known, schemas, max_body)
    if streamed := schemas.definitions.get(ServerSentEvent.__name__):
        streamed["properties"]["data"]["contentSchema"] = {"$ref": f"{_REFERENCE}Event"}
    _link(paths, schemas.definitions)
    return {
        "openapi": "3.1.1",
        "info": {"title": "Portico", "version": __version__, "description": OVERVIEW, "license": {"name": "MIT"}},
        "jsonSchemaDialect": "https://json-schema.org/draft/2020-12/schema",
        "servers": [{"url": server}],
        "security": [{"bearer": []}],
        "paths": paths,
        "components": {
            "schemas": dict(sorted(schemas.definitions.items())),
            "securitySchemes": dict(SECURITY_SCHEMES),
        },
    }


def operations_of(routes: Iterable[BaseRoute]) -> Iterator[tuple[str, str, Operation | None]]:
    """Yield the path, method and description of each operation, but not of HEAD, which follows GET."""
    for path, method, handler, _ in _handlers(routes):
        yield path, method, operation_of(handler)


def _described(routes: Iterable[BaseRoute]) -> Iterator[tuple[str, str, Operation, int | None]]:
    for path, method, handler, max_body in _handlers(routes):
        if (known := operation_of(handler)) is not None:
            yield path, method, known, max_body


def _handlers(routes: Iterable[BaseRoute]) -> Iterator[tuple[str, str, Any, int | None]]:
    """Yield the path, method, handler and the limit of the body in bytes, or None if that is not known."""
    for route in routes:
        if isinstance(route, Route):
            endpoint = route.endpoint if isinstance(route.endpoint, Endpoint) else None
            handlers = endpoint.handlers if endpoint else {}
            methods = handlers or dict.fromkeys(route.methods or ("GET",), route.endpoint)
            for method, handler in methods.items():
                if method != "HEAD":
                    yield route.path, method, handler, endpoint.max_body if endpoint else None


def _operation(path: str, known: Operation, schemas: _Schemas, max_body: int | None) -> Json:
    made: Json = {"operationId": known.id, "summary": known.summary}
    if known.description:
        made["description"] = known.description
    if known.admission.public:
        made["security"] = []
    elif known.admission.ticket:
        made["security"] = [{"bearer": []}, {"ticket": []}]
    if parameters := [*_path_parameters(path), *_query_parameters(known, schemas), *_header_parameters(known)]:
        made["parameters"] = parameters
    if body := known.models.get("body"):
        schema = schemas.of(body)
        required = any(field.is_required() for field in body.model_fields.values())
        made["requestBody"] = {"required": required, "content": {JSON: {"schema": schema}}}
        if max_body is not None:
            made["requestBody"]["description"] = f"At most {max_body:,} bytes."
    made["responses"] = _responses(path, known, schemas)
    return made


def _path_parameters(path: str) -> Iterator[Json]:
    for name in re.findall(r"{(\w+)", path):
        type_, description = PATH_PARAMETERS.get(name, (str, ""))
        schema = _schema(type_)
        yield {"name": name, "in": "path", "required": True, "description": description, "schema": schema}


def _query_parameters(known: Operation, schemas: _Schemas) -> Iterator[Json]:
    model = known.models.get("query")
    schema = schemas.inline(model) if model else {}
    for name, member in schema.get("properties", {}).items():
        description = member.pop("description", "")
        member = _never_null(member)
        required = name in schema.get("required", ())
        yield {"name": name, "in": "query", "required": required, "description": description, "schema": member}


def _header_parameters(known: Operation) -> Iterator[Json]:
    for header in (*known.headers, X_PORTICO) if known.admission.changes else known.headers:
        yield {"name": header.name, "in": "header", "required": False, **_header(header)}


def _header(header: Header) -> Json:
    return {"description": header.description, "schema": _schema(header.type)}


def _responses(path: str, known: Operation, schemas: _Schemas) -> Json:
    found: dict[int, Json] = {}
    for answer in known.answers:
        response = found.setdefault(answer.status, {"description": ""})
        response["description"] = f"{response['description']} {answer.description}".strip()
        if answer.headers:
            response["headers"] = {header.name: _header(header) for header in answer.headers}
        if answer.type is not None:
            response.setdefault("content", {})[answer.media_type] = {"schema": schemas.of(answer.type)}
    for status, codes in by_status(_codes(path, known)).items():
        found[status] = _problem(status, codes, schemas)
    return {str(status): found[status] for status in sorted(found)}


def _codes(path: str, known: Operation) -> set[str]:
    """Return the codes of the operation, and those that follow from what it reads."""
    codes = {*known.codes, *ANYWHERE}
    if not known.admission.public:
        codes |= {"unauthenticated", "too_many_attempts", "host_not_allowed", "origin_not_allowed", "not_allowed"}
        codes |= {"origin_unproven", "authenticator_failed", "store_failed"}
    if "{session_id}" in path:
        codes |= {"session_not_found"}
    if known.models:
        codes |= {"invalid"}
    if "body" in known.models:
        codes |= {"request_timeout", "too_large", "too_many_values", "too_many_bodies", "unsupported_media_type"}
    else:
        codes |= {"too_large"}
    return codes


def _problem(status: int, codes: Sequence[str], schemas: _Schemas) -> Json:
    lines = "".join(f"\n- `{code}`: {CODES[code][1]}" for code in codes)
    more = "\n\nPlugins may have codes of their own." if status in OPEN else ""
    schema = schemas.of(Problem)
    if status not in OPEN:
        schema = {"allOf": [schema, {"properties": {"code": {"enum": list(codes)}}}]}
    made: Json = {"description": f"{phrase(status)}:\n{lines}{more}", "content": {PROBLEM_TYPE: {"schema": schema}}}
    headers = {401: WWW_AUTHENTICATE, 405: ALLOW, 429: RETRY_AFTER, 503: RETRY_AFTER}
    if header := headers.get(status):
        made["headers"] = {header.name: _header(header)}
    return made


def _link(paths: Json, definitions: Json) -> None:
    """Link each answer to the operations whose path parameters are all among its members."""
    wanting = [
        (known["operationId"], {each["name"] for each in known.get("parameters", ()) if each["in"] == "path"})
        for methods in paths.values()
        for known in methods.values()
    ]
    for methods in paths.values():
        for known in methods.values():
            for status, response in known["responses"].items():
                reference = response.get("content", {}).get(JSON, {}).get("schema", {}).get("$ref", "")
                members = definitions.get(reference.removeprefix(_REFERENCE), {}).get("properties", {})
                links = {
                    operation_id: {
                        "operationId": operation_id,
                        "parameters": {name: f"$response.body#/{name}" for name in sorted(names)},
                    }
                    for operation_id, names in wanting
                    if names and names <= members.keys() and operation_id != known["operationId"]
                }
                if "pending_permissions" in members and status == "200":  # a new session waits for nothing
                    links["answerPermission"] = PENDING_PERMISSION
                if links:
                    response["links"] = links


class _Generator(GenerateJsonSchema):
    """A generator that leaves out titles, which only repeat names."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


class _Schemas:
    """The JSON Schemas of what clients send (pydantic models) and of what the server sends. ``definitions`` has those
    with a name."""

    def __init__(self) -> None:
        self.definitions: Json = {}
        for name, type_ in _COMPONENTS.items():
            self.definitions[name] = self.inline(type_)

    def of(self, type_: Any) -> Json:
        for name, known in _COMPONENTS.items():
            if type_ is known:
                return {"$ref": _REFERENCE + name}
        schema = self.inline(type_)
        if "properties" not in schema:
            return schema
        name = type_.__name__
        self.definitions[name] = schema
        return {"$ref": _REFERENCE + name}

    def inline(self, type_: Any) -> Json:
        schema = _schema(type_)
        self.definitions |= {name: value for name, value in schema.pop("$defs", {}).items()}
        return schema


def _schema(type_: Any) -> Json:
    # A model describes what clients may send, any other type what the server writes.
    mode: JsonSchemaMode = "validation" if _is_model(type_) else "serialization"
    adapter: TypeAdapter[Any] = TypeAdapter(type_)
    made = adapter.json_schema(schema_generator=_Generator, mode=mode, ref_template=_REFERENCE + "{model}")
    tidied: Json = _tidied(made)
    return tidied


def _is_model(type_: Any) -> bool:
    return isinstance(type_, type) and issubclass(type_, BaseModel)


def _tidied(node: Any) -> Any:
    """Remove titles of classes and defaults of null, and turn the code in descriptions into Markdown."""
    if isinstance(node, list):
        return [_tidied(each) for each in node]
    if not isinstance(node, dict):
        return node
    kept = {key: _tidied(value) for key, value in node.items()}
    if isinstance(kept.get("title"), str):
        del kept["title"]
    if kept.get("default", ...) is None:
        del kept["default"]
    if isinstance(text := kept.get("description"), str):
        kept["description"] = " ".join(text.replace("``", "`").split())
    return kept


def _never_null(schema: Json) -> Json:
    """Remove null from the schema of a parameter: a URL can leave it out, but can't send null."""
    kinds = [kind for kind in schema.get("anyOf", ()) if kind != {"type": "null"}]
    if len(kinds) != 1:
        return schema
    rest = {key: value for key, value in schema.items() if key != "anyOf"}
    return {**kinds[0], **rest}

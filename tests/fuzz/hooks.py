"""Hooks for schemathesis: values that lead further in a Portico whose agents are echoes, and a check of our own.

It is loaded by the `st` command, see tests/fuzz/test_api.py.
"""

from __future__ import annotations

import json
import re
from typing import Any

import requests
import schemathesis
from schemathesis import Case, CheckContext, GenerationMode, HookContext, Response
from schemathesis.core.failures import Failure
from schemathesis.openapi.checks import EnsureResourceAvailability, IgnoredAuth

from tests.support.limits import HANG_SECONDS

QUERIES = (
    json.dumps({"ask": {"tool_name": "Write", "input": {"file_path": "a"}}}),
    json.dumps({"deltas": 20, "gap": 0.05}),
    json.dumps({"fail": True}),
    json.dumps({"deltas": 3, "size": 1000}),
)
RARE = frozenset("0123456")
"""The beginning of the ids of one in nine cases."""
OTHER = {
    "Bearer secret-of-alice": "Bearer secret-of-bob",
    "Bearer secret-of-bob": "Bearer secret-of-alice",
}
TURNS = ("startTurn", "streamTurn")


def _operation_id(case: Case[Any]) -> str | None:
    found: str | None = case.operation.definition.raw.get("operationId")
    return found


def _is_positive(case: Case[Any]) -> bool:
    return bool(case.meta is not None and case.meta.generation.mode is GenerationMode.POSITIVE)


@schemathesis.hook
def before_call(context: HookContext, case: Case[Any], kwargs: dict[str, Any]) -> None:
    """Only what is good anyway is changed: into what gets past the rules of one server, and has agents do things."""
    operation_id = _operation_id(case)
    if not _is_positive(case):
        return
    if operation_id == "createSession" and isinstance(case.body, dict):
        refused_here = ("driver", "cwd", "setting_sources")
        case.body = {name: value for name, value in case.body.items() if name not in refused_here}
        if case.body.get("permission_mode") is not None:
            case.body["permission_mode"] = "plan"
    if operation_id == "closeSession":
        case.query = {"purge": "true"}  # what is closed can still be read, and what is purged can't
    if operation_id == "readEvents" and ("limit" in (case.query or {}) or case.id[0] not in RARE):
        case.query = {**(case.query or {}), "live": "false"}  # or it would be waited for in vain, each time
    if operation_id == "readEvents" and str((case.query or {}).get("live", True)).lower() in (
        "false",
        "0",
        "no",
        "off",
    ):
        case.query = {name: value for name, value in (case.query or {}).items() if name != "heartbeat"}
    if operation_id in TURNS and isinstance(case.body, dict):
        query = case.body.get("query")
        if isinstance(query, str) and len(query) % 2:
            case.body = {**case.body, "query": QUERIES[len(query) // 2 % len(QUERIES)]}


owners: dict[str, str | bytes | None] = {}
"""The owner of each session: by its id, the credentials with which it was made."""


def _owner(response: Response) -> str | bytes | None:
    """Return the owner of the session that a case asks for, if that session exists."""
    found = re.search(r"/claude/(?:sessions|stream|ws)/([^/?]+)", response.request.url or "")
    return owners.get(found[1]) if found else None


def _is_somebody_elses(response: Response) -> bool:
    return _owner(response) not in (None, response.request.headers.get("Authorization"))


@schemathesis.hook
def after_call(context: HookContext, case: Case[Any], response: Response) -> None:
    if _operation_id(case) == "createSession" and response.status_code == 201:
        owners[response.json()["session_id"]] = response.request.headers.get("Authorization")


@schemathesis.hook
def filter_failure(context: HookContext, failure: Failure, case: Case[Any], response: Response) -> bool:
    """Tell whether a failure counts: False for an expectation of schemathesis that does not hold here.

    What one caller has made is not there for another, and who comes with wrong credentials again and again has to wait.
    """
    hidden = isinstance(failure, EnsureResourceAvailability) and _is_somebody_elses(response)
    slowed = isinstance(failure, IgnoredAuth) and "`429 Too Many Requests`" in failure.message
    return not hidden and not slowed


@schemathesis.check
def a_session_is_its_owners(context: CheckContext, response: Response, case: Case[Any]) -> None:
    """Check that another caller gets 404 for the session whose owner gets an answer."""
    sent = response.request
    if response.status_code >= 400 or _owner(response) is None:
        return
    assert not _is_somebody_elses(response), response.text
    headers = {**sent.headers, "Authorization": OTHER.get(str(sent.headers.get("Authorization")), "")}
    with requests.request(
        str(sent.method), str(sent.url), data=sent.body, headers=headers, stream=True, timeout=HANG_SECONDS
    ) as others:
        assert others.status_code in (401, 404), others.status_code


@schemathesis.check
def what_the_schema_allows_is_not_invalid(context: CheckContext, response: Response, case: Case[Any]) -> None:
    """422 is for what only this server, or this moment, makes wrong: an unknown driver, an event yet to come."""
    if response.status_code == 422 and _is_positive(case):
        problem = response.json()
        assert problem["code"] != "invalid", problem


@schemathesis.check
def no_fault_of_the_server(context: CheckContext, response: Response, case: Case[Any]) -> None:
    assert response.status_code < 500, response.text

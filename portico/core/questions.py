"""The answers to requests that ask for more than permission, checked against what was asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import jsonschema_rs
from anyio import to_thread

from portico.core.agent import Decision
from portico.core.errors import InvalidRequest
from portico.core.events import PermissionRequest, kind_of

MAX_MISTAKES = 20
MAX_MESSAGE = 1000

Mistake = tuple[Sequence[str | int], str]
"""The path to a wrong value, and what is wrong with it."""


async def fitting(decision: Decision, request: PermissionRequest) -> Decision:
    """Return ``decision``, with the answers to questions apart from its ``updated_input``, and each of them one text.

    Raises `InvalidRequest` (``invalid_answer``) if it does not fit ``request``.
    """
    kind = kind_of(request)
    _refuse_others(decision, kind)
    if decision.behavior == "deny":
        return decision
    if kind == "question":
        return _answered(decision, request)
    if kind == "plan" and decision.permission_mode == "plan":
        raise _wrong([(["permission_mode"], "a plan that is carried out ends the mode plan")])
    if kind == "elicitation":
        return replace(decision, content=await _content(decision.content, request))
    return decision


def _refuse_others(decision: Decision, kind: str) -> None:
    """Refuse the members that do not go with a request of this kind."""
    members = {
        "answers": (decision.answers, ("question",)),
        "permission_mode": (decision.permission_mode, ("plan",)),
        "content": (decision.content, ("elicitation",)),
        "updated_input": (decision.updated_input, ("tool", "question", "plan")),
        "remember": (decision.remember or None, ("tool", "plan")),  # its mode stays in any case
    }
    wrong = [name for name, (value, kinds) in members.items() if value is not None and kind not in kinds]
    if wrong:
        raise _wrong([([name], f"it does not go with a request of the kind {kind}") for name in wrong])


def _answered(decision: Decision, request: PermissionRequest) -> Decision:
    given, updated = decision.answers, decision.updated_input
    if updated is not None and "answers" in updated:
        given = given or (updated["answers"] if isinstance(updated["answers"], Mapping) else None)
        updated = {name: value for name, value in updated.items() if name != "answers"}
    questions = {asked["question"]: asked for asked in request.get("questions", [])}
    if not given:
        raise _wrong([(["answers"], f"answer at least one of the questions: {_listed(questions)}")])
    mistakes: list[Mistake] = []
    answers: dict[str, str] = {}
    for name, answer in given.items():
        if name not in questions:
            mistakes.append((["answers", name], f"it was not asked; asked was {_listed(questions)}"))
            continue
        several: list[Any] = list(answer) if isinstance(answer, list | tuple) else [answer]
        if not several or not all(isinstance(each, str) and each.strip() for each in several):
            mistakes.append((["answers", name], "it must be text, or a list of texts, and not blank"))
        elif isinstance(answer, list | tuple) and not questions[name]["multi_select"]:
            mistakes.append((["answers", name], "it takes one answer, not a list"))
        else:
            answers[name] = ", ".join(dict.fromkeys(several))
    if mistakes:
        raise _wrong(mistakes)
    return replace(decision, answers=answers, updated_input=updated)


def with_answers(decision: Decision, request: PermissionRequest) -> Decision:
    """Return ``decision`` with the answers of the user in its ``updated_input``."""
    if decision.answers is None:
        return decision
    changed = request["input"] if decision.updated_input is None else decision.updated_input
    return replace(decision, updated_input={**changed, "answers": dict(decision.answers)})


async def _content(content: Mapping[str, Any] | None, request: PermissionRequest) -> Mapping[str, Any] | None:
    schema = request.get("schema")
    if schema is None:
        if content is not None:
            raise _wrong([(["content"], "this request asks for no data")])
        return None
    content = {} if content is None else content
    if mistakes := await to_thread.run_sync(_mistakes, schema, content):
        raise _wrong(mistakes)
    return content


def _mistakes(schema: Mapping[str, Any], content: Mapping[str, Any]) -> list[Mistake]:
    """Return the reasons why ``content`` does not fit. The schema is the MCP server's: if it is none, all fits."""
    try:
        validator = jsonschema_rs.validator_for(dict(schema), retriever=_refuse_to_fetch, validate_formats=True)
        found: list[Mistake] = []
        for error in validator.iter_errors(dict(content)):
            found.append((["content", *error.instance_path], error.message[:MAX_MESSAGE]))
            if len(found) == MAX_MISTAKES:
                break
        return found
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError):
        return []


def _refuse_to_fetch(uri: str) -> Any:
    raise ValueError(f"{uri} is somewhere else")


def _wrong(mistakes: Sequence[Mistake]) -> InvalidRequest:
    errors = [{"loc": list(path), "msg": text, "type": "answer"} for path, text in mistakes]
    path, text = mistakes[0]
    return InvalidRequest(f"{'.'.join(map(str, path))}: {text}", code="invalid_answer", errors=errors)


def _listed(names: Mapping[str, Any]) -> str:
    return ", ".join(map(repr, names))

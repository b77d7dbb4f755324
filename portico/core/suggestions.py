"""The suggestions of an agent: permissions for the future, beside the one use of a tool that it asks for.

A suggestion has one of these forms, which are the CLI's:

    {"type": "setMode", "mode": "acceptEdits"}
    {"type": "addRules", "behavior": "allow", "rules": [{"toolName": "Bash", "ruleContent": "ls:*"}]}
    {"type": "addDirectories", "directories": ["/srv/project"]}

For clients each has an ``id`` as well, which is the same wherever the same is suggested. A suggestion that is no mode
is kept in the session as a permission rule, under that id.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from anyio import to_thread

from portico.core.agent import Suggestion
from portico.core.errors import InvalidRequest, NotAllowed
from portico.core.events import PermissionRequest
from portico.core.folders import Folders
from portico.core.policy import Policy
from portico.core.tool_rule import ToolRule

MAX_FOLDERS = 32
"""The most folders in one request that are checked; if there are more, none is remembered."""


MAX_RULES, MAX_RULE_BYTES = 256, 32 * 1024
"""The most permission rules of a session, and their most bytes as JSON."""


def named(suggestions: object) -> list[dict[str, Any]]:
    """Return the suggestions with their ids, each once. Whatever else is in the list is left out."""
    found = [each for each in _listed(suggestions) if isinstance(each, Mapping)]
    return list({name: {"id": name, **without_id(each)} for each in found for name in [_id(each)]}.values())


def without_id(suggestion: Suggestion) -> dict[str, Any]:
    """Return ``suggestion`` as agents know it."""
    return {name: value for name, value in suggestion.items() if name != "id"}


def kept(suggestion: Suggestion) -> Suggestion | None:
    """Return the permission rule that an accepted ``suggestion`` makes; None for a mode, which the agent reports."""
    if suggestion.get("type") == "setMode":
        return None
    return {"id": suggestion["id"], **_meaning(suggestion)}


def chosen(request: PermissionRequest, remember: bool | Collection[str]) -> list[Suggestion]:
    """Return the suggestions of ``request`` that an answer with ``remember`` accepts: all (True), or those it names.

    Raises `InvalidRequest` (``unknown_suggestion``).
    """
    suggestions: list[Suggestion] = [*named(request.get("suggestions"))]
    if isinstance(remember, bool):
        return suggestions if remember else []
    for name in remember:
        if name not in [each["id"] for each in suggestions]:
            raise InvalidRequest(f"the request has no suggestion {name!r}", code="unknown_suggestion")
    return [each for each in suggestions if each["id"] in remember]


def whole_tool(request: PermissionRequest) -> Suggestion:
    """Return the rule that ``remember`` accepts if a request has no suggestions: the whole tool."""
    return {"type": "addRules", "behavior": "allow", "rules": [{"toolName": request["tool_name"]}]}


async def open_folders(suggestions: object, cwd: str, folders: Folders) -> dict[str, str]:
    """Return the folders in ``suggestions`` that a session working in ``cwd`` may work in.

    The keys are the names in the suggestion, the values the paths without links.
    """
    names = [name for suggestion in named(suggestions) for name in _names(suggestion)]
    if len(names) > MAX_FOLDERS:
        return {}
    found: dict[str, str] = {}
    for name in names:
        path = await to_thread.run_sync(os.path.realpath, name)
        if os.path.isabs(name) and Path(path).is_relative_to(cwd):
            found[name] = path
            continue
        with suppress(NotAllowed, InvalidRequest):
            found[name] = str(await folders.given(name))
    return found


def allowed(suggestion: Suggestion, policy: Policy, folders: Mapping[str, str]) -> Suggestion | None:
    """Return ``suggestion`` as it may be remembered, or None if it may not be. ``folders`` are from `open_folders`."""
    match suggestion:
        case {"type": "setMode", "mode": str(mode)} if mode in policy.permission_modes:
            return suggestion
        case {"type": "addRules", "behavior": "deny" | "ask"}:
            return suggestion
        case {"type": "addRules", "behavior": "allow", "rules": [*rules]} if all(
            _covered(rule, policy) for rule in rules
        ):
            return suggestion
        case {"type": "addDirectories", "directories": [*names]} if all(name in folders for name in names):
            return {**suggestion, "directories": [folders[name] for name in names]}
    return None


def fitting(rules: Sequence[Suggestion], more: Suggestion) -> bool:
    """Tell whether a session with ``rules`` may have another one."""
    return len(rules) < MAX_RULES and len(json.dumps([*rules, more])) <= MAX_RULE_BYTES


def _id(suggestion: Suggestion) -> str:
    means = json.dumps(_meaning(suggestion), sort_keys=True, default=str)
    return hashlib.sha256(means.encode()).hexdigest()[:12]


def _meaning(suggestion: Suggestion) -> dict[str, Any]:
    """Return the part that says what would be allowed, whatever its name, and wherever it would be kept."""
    return {name: value for name, value in suggestion.items() if name not in ("id", "destination")}


def _listed(value: object) -> Sequence[Any]:
    """Return the list, or an empty one for anything else, as drivers may be third-party code."""
    return value if isinstance(value, list | tuple) else ()


def _covered(rule: Any, policy: Policy) -> bool:
    match rule:
        case {"toolName": str(tool)}:
            return policy.covers(ToolRule(tool, rule.get("ruleContent") or None))
    return False


def _names(suggestion: Suggestion) -> Sequence[str]:
    match suggestion:
        case {"type": "addDirectories", "directories": [*names]}:
            return [name for name in names if isinstance(name, str) and "\0" not in name]
    return ()

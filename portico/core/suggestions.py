"""The suggestions of an agent: permissions for the future, beside the one use of a tool that it asks for.

A suggestion has one of these forms, which are the CLI's:

    {"type": "setMode", "mode": "acceptEdits"}
    {"type": "addRules", "behavior": "allow", "rules": [{"toolName": "Bash", "ruleContent": "ls:*"}]}
    {"type": "addDirectories", "directories": ["/srv/project"]}
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from anyio import to_thread

from portico.core.errors import InvalidRequest, NotAllowed
from portico.core.events import PermissionRequest
from portico.core.folders import Folders
from portico.core.policy import Policy
from portico.core.tool_rule import ToolRule

Suggestion = Mapping[str, Any]

MAX_FOLDERS = 32
"""The most folders in one request that are checked; if there are more, none is remembered."""


def chosen(suggestions: Sequence[Suggestion]) -> Sequence[Suggestion]:
    """Return the suggestions that ``remember`` accepts, if allowed: those that change no mode, or else all."""
    return [suggestion for suggestion in suggestions if suggestion.get("type") != "setMode"] or suggestions


def suggested(request: PermissionRequest) -> Sequence[Suggestion]:
    """Return the suggestions that ``remember`` accepts in an answer to ``request``; none if it has none."""
    return chosen([each for each in _listed(request.get("suggestions")) if isinstance(each, Mapping)])


def whole_tool(request: PermissionRequest) -> Suggestion:
    """Return the rule that ``remember`` accepts if a request has no suggestions: the whole tool."""
    return {"type": "addRules", "behavior": "allow", "rules": [{"toolName": request["tool_name"]}]}


async def open_folders(request: PermissionRequest, cwd: str, folders: Folders) -> dict[str, str]:
    """Return the folders that ``request`` suggests to add and that a session working in ``cwd`` may work in.

    The keys are the names in the suggestion, the values the paths without links.
    """
    names = [name for suggestion in suggested(request) for name in _names(suggestion)]
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

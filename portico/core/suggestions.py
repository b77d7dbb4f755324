"""What an agent suggests to allow from now on, beside the one use of a tool that it asks for.

A suggestion is one of these, as the CLI has them:

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
"""Of one request that are looked at; with more of them, none is remembered."""


def chosen(suggestions: Sequence[Suggestion]) -> Sequence[Suggestion]:
    """What ``remember`` means, where all of it is allowed: rules where there are any, else a change of mode."""
    return [suggestion for suggestion in suggestions if suggestion.get("type") != "setMode"] or suggestions


def suggested(request: PermissionRequest) -> Sequence[Suggestion]:
    """What ``remember`` means in an answer to ``request``; empty where it suggests nothing."""
    return chosen([each for each in _listed(request.get("suggestions")) if isinstance(each, Mapping)])


def whole_tool(request: PermissionRequest) -> Suggestion:
    """What it means then."""
    return {"type": "addRules", "behavior": "allow", "rules": [{"toolName": request["tool_name"]}]}


async def open_folders(request: PermissionRequest, cwd: str, folders: Folders) -> dict[str, str]:
    """Of the folders that ``request`` suggests to add, those in which a session may work that works in ``cwd``.

    By the name that the suggestion has, without links.
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
    """``suggestion`` as it may be remembered, with ``folders`` as from `open_folders`; None where it may not be."""
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
    """A driver may be anybody's."""
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

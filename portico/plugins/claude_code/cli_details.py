"""The structured parts of the CLI's lines about tools, measured on 2.1.330. Sans-IO.

The result of a tool is a ``user`` line, whose ``tool_use_result`` has a patch, or an MCP tool's structured content, and
whose ``tool_result_meta`` says whether the tool was denied. Neither goes to the model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from portico.core.tool_details import Hunk, Patch, ToolDetails, Why

Json = Mapping[str, Any]

MAX_PATCH = 256 * 1024
"""Characters of the lines of a patch. The tool's input has them too."""

_CAPITAL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[@-Z\\-_])")


def details(line: Json, tool_use_id: str) -> ToolDetails | None:
    """Return the details of the only tool result in a ``user`` line, or None if there are none."""
    found = ToolDetails()
    result = line.get("tool_use_result")
    if isinstance(result, dict):
        if (patch := _patch(result)) is not None:
            found["patch"] = patch
        if isinstance(content := result.get("structuredContent"), dict):
            found["structured_content"] = content
        if links := [link for link in _listed(result.get("resourceLinks")) if isinstance(link, dict)]:
            found["resource_links"] = links
    for meta in _listed(line.get("tool_result_meta")):
        if isinstance(meta, dict) and meta.get("id") == tool_use_id and (denied := _denied(meta)) is not None:
            found["denied"] = denied
    return found or None


def why_asked(request: Json) -> Why | None:
    """Return the reason in a request for permission, or None if the CLI gives none."""
    kind, text, path = (request.get(name) for name in ("decision_reason_type", "decision_reason", "blocked_path"))
    if not isinstance(kind, str) and not isinstance(text, str) and not isinstance(path, str):
        return None
    why = Why(kind=_snake(kind) if isinstance(kind, str) else "working_dir" if isinstance(path, str) else "other")
    if isinstance(text, str):
        why["text"] = _ESCAPE.sub("", text)
    if isinstance(path, str):
        why["path"] = path
    return why


def _patch(result: Json) -> Patch | None:
    path, hunks = result.get("filePath"), result.get("structuredPatch")
    if not isinstance(path, str) or not isinstance(hunks, list):
        return None
    if result.get("type") == "create":
        return Patch(path=path, change="created", hunks=[])
    if sum(len(line) for hunk in hunks for line in _lines(hunk)) > MAX_PATCH:
        hunks = []
    patch = Patch(path=path, change="updated", hunks=[_hunk(hunk) for hunk in hunks if isinstance(hunk, dict)])
    # The CLI itself leaves the hunks out of a change that takes it too long to compare.
    if not hunks and result.get("originalFile") != result.get("content"):
        patch["too_long"] = True
    return patch


def _hunk(hunk: Json) -> Hunk:
    def number(name: str) -> int:
        return value if isinstance(value := hunk.get(name), int) else 0

    return Hunk(
        old_start=number("oldStart"),
        old_lines=number("oldLines"),
        new_start=number("newStart"),
        new_lines=number("newLines"),
        lines=_lines(hunk),
    )


def _lines(hunk: Any) -> list[str]:
    return [line for line in _listed(hunk.get("lines") if isinstance(hunk, dict) else None) if isinstance(line, str)]


def _denied(meta: Json) -> Why | None:
    decision = meta.get("permission_decision")
    if not isinstance(decision, dict) or decision.get("decision") != "reject":
        return None
    if str(decision.get("source")).startswith("user"):
        return Why(kind="answer")  # the result has its words
    kind = decision.get("reason_type")
    return Why(kind=_snake(kind) if isinstance(kind, str) else "other")


def _snake(name: str) -> str:
    return _CAPITAL.sub("_", name).lower()


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []

"""The CLI's answers to control requests, reduced to the answers of `portico.core.abilities`. Measured on 2.1.330.

Only members that are named here reach clients: the rest may hold an operator's paths, addresses and secrets.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from portico.core.abilities import CommandInfo, ContextPart, ContextUse, McpServer, McpTool, ModelInfo, Rewind

Json = Mapping[str, Any]

KINDS: Mapping[str, Literal["used", "free", "reserved", "deferred"]] = {
    "used": "used",
    "free": "free",
    "buffer": "reserved",
    "deferred": "deferred",
}


def context_use(response: Json) -> ContextUse:
    """Read the answer to ``get_context_usage``."""
    most = _number(response, "rawMaxTokens") or _number(response, "maxTokens")
    tokens = _number(response, "totalTokens")
    threshold = response.get("autoCompactThreshold")
    return ContextUse(
        model=_text(response, "model"),
        tokens=tokens,
        max_tokens=most,
        percent=round(100 * tokens / most, 1) if most else 0.0,
        compacts_at=threshold if isinstance(threshold, int) and response.get("isAutoCompactEnabled") else None,
        parts=[
            ContextPart(
                id=_text(each, "id") or _text(each, "name"),
                name=_text(each, "name"),
                tokens=_number(each, "tokens"),
                kind=KINDS.get(_text(each, "kind"), "used"),
            )
            for each in _objects(response, "categories")
        ],
    )


def commands(response: Json) -> list[CommandInfo]:
    """Read the answer to ``initialize``."""
    return [
        CommandInfo(
            name=_text(each, "name"), description=_text(each, "description"), arguments=_text(each, "argumentHint")
        )
        for each in _objects(response, "commands")
    ]


def mcp_servers(response: Json) -> list[McpServer]:
    """Read the answer to ``mcp_status``. The server's configuration and its error stay here: both may hold secrets."""
    servers = []
    for each in _objects(response, "mcpServers"):
        tools = [
            McpTool(name=_text(tool, "name"), description=_text(tool, "description"))
            for tool in _objects(each, "tools")
        ]
        server = McpServer(name=_text(each, "name"), status=_text(each, "status"), tools=tools)
        about = each.get("serverInfo")
        if isinstance(about, Mapping) and (version := _text(about, "version")):
            server["version"] = version
        servers.append(server)
    return servers


def models(response: Json) -> list[ModelInfo]:
    """Read the answer to ``list_models``."""
    return [
        ModelInfo(
            model=_text(each, "value"),
            stands_for=_text(each, "resolvedModel") or _text(each, "value"),
            name=_text(each, "displayName"),
            description=_text(each, "description"),
            efforts=[effort for effort in each.get("supportedEffortLevels") or () if isinstance(effort, str)],
        )
        for each in _objects(response, "models")
    ]


def rewind(response: Json, turn_id: str, *, dry_run: bool) -> Rewind:
    """Read the answer to a ``rewind_files`` that only looked."""
    files = response.get("filesChanged")
    return Rewind(
        turn_id=turn_id,
        dry_run=dry_run,
        files=[str(file) for file in files] if isinstance(files, list) else [],
        insertions=_number(response, "insertions"),
        deletions=_number(response, "deletions"),
    )


def _objects(response: Json, name: str) -> Iterator[Json]:
    found = response.get(name)
    for each in found if isinstance(found, list) else ():
        if isinstance(each, Mapping):
            yield each


def _text(response: Json, name: str) -> str:
    found = response.get(name)
    return found if isinstance(found, str) else ""


def _number(response: Json, name: str) -> int:
    found = response.get(name)
    return found if isinstance(found, int) else 0

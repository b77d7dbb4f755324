"""Files that the server and its agents rely on: no session may change them, or move a link that leads there."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from portico.config.settings import Settings


def relied_on(settings: Settings, files: Sequence[Path], environment: Mapping[str, str]) -> tuple[Path, ...]:
    """Return the server's own ``files``, those that it reads and writes, its code and programs, and those it shows
    agents.

    ``environment`` is the agents' environment. Any name in a folder of programs or code stands for the whole folder.
    """
    own = (settings.tls_cert, settings.tls_key, settings.ziti_identity_file, settings.audit_log, settings.uds)
    search_path = environment.get("PATH", "").split(os.pathsep)
    others = [value for name, value in environment.items() if name != "PATH"]
    found = [
        *files,
        *(path for path in (*own, settings.claude_cli_path) if path is not None),
        *(path / "any" for path in _absolute([*search_path, *sys.path, sys.prefix])),
        *_absolute(part for value in others for part in value.split(os.pathsep)),
        *_absolute(_texts(settings.mcp_servers)),
    ]
    return tuple(dict.fromkeys(found))


def _absolute(texts: Iterable[str]) -> Iterator[Path]:
    for text in texts:
        if text.startswith("/") and "\0" not in text:
            yield Path(os.path.normpath(text))


def _texts(servers: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Yield the texts in the operator's MCP servers."""
    for server in servers.values():
        arguments, variables = server.get("args"), server.get("env")
        texts = [server.get("command"), *(arguments if isinstance(arguments, list) else ())]
        texts += variables.values() if isinstance(variables, dict) else ()
        yield from (text for text in texts if isinstance(text, str))

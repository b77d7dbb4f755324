"""The destination and the format of log lines."""

from __future__ import annotations

import logging
import sys


def configure(level: str, form: str) -> None:
    """Log to standard error from ``level`` on, as ``text`` for people or ``json`` for machines, one line per record."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        _json() if form == "json" else logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    )
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # Libraries log only when something is wrong: httpx logs a line for each request at info, and sse-starlette
    # everything that is said in a session at debug.
    for library in ("uvicorn", "httpx", "httpcore", "asyncio", "sse_starlette"):
        logging.getLogger(library).setLevel(max(logging.WARNING, logging.getLevelName(level.upper())))


def _json() -> logging.Formatter:
    from pythonjsonlogger.json import JsonFormatter

    return JsonFormatter("{asctime}{levelname}{name}{message}", style="{", rename_fields={"levelname": "level"})

"""The event of an agent's work in the background."""

from __future__ import annotations

from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict  # pydantic makes schemas of these, and needs it before Python 3.12


class Task(TypedDict):
    """Work in the background, which goes on behind the agent's turns. It dies with the agent's process.

    ``kind`` is ``shell``, ``subagent`` or the agent's own word; ``description`` says in words what it does, and in
    ``progress`` what it does just now. ``outcome`` goes with ``ended``; ``lost``: it died with its process. ``summary``
    is the agent's own word about the end; ``usage`` counts tokens, uses of tools and milliseconds.
    """

    type: Literal["task"]
    task_id: str
    state: Literal["started", "progress", "ended"]
    kind: str
    description: str
    outcome: NotRequired[Literal["completed", "failed", "stopped", "lost"]]
    summary: NotRequired[str]
    tool_use_id: NotRequired[str]
    subagent: NotRequired[str]
    usage: NotRequired[dict[str, Any]]

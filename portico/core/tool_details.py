"""The parts of an event that say more about the use of a tool: what it has changed, and why it was denied or asked for.

They are in `portico.core.events`: `ToolResult` has ``details``, `PermissionRequest` has ``why``.
"""

from __future__ import annotations

from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict  # pydantic makes schemas of these, and needs it before Python 3.12


class Why(TypedDict):
    """The reason why a tool was denied, or needs permission.

    ``kind`` is a word, such as ``rule``, ``mode`` or ``working_dir``; more may come. ``text`` is for people, ``path``
    is the file or folder that it is about.
    """

    kind: str
    text: NotRequired[str]
    path: NotRequired[str]


class Hunk(TypedDict):
    """A changed place in a file, as in a unified diff: each line begins with a blank, ``+``, ``-`` or a backslash."""

    old_start: int
    old_lines: int
    new_start: int
    new_lines: int
    lines: list[str]


class Patch(TypedDict):
    """The change of a file. A file that was ``created`` has no hunks; nor has one whose change is too long to tell."""

    path: str
    change: Literal["created", "updated"]
    hunks: list[Hunk]
    too_long: NotRequired[bool]


class ToolDetails(TypedDict):
    """The details of a tool's result.

    ``structured_content`` and ``resource_links`` are an MCP tool's own. ``denied`` says why the tool was not used.
    """

    patch: NotRequired[Patch]
    structured_content: NotRequired[dict[str, Any]]
    resource_links: NotRequired[list[dict[str, Any]]]
    denied: NotRequired[Why]

"""The conversation of an agent, and the CLI's transcript of it.

It has the agent's id until a /clear begins one with another id, which is kept in a file in the agent's folder.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress

from portico.core.agent import AgentSpec
from portico.core.directory import Directory
from portico.plugins.claude_code.agent_files import open_folder

NAME = "conversation"

_UUID = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def current_conversation(spec: AgentSpec) -> str:
    """Return the id of the agent's conversation."""
    try:
        with open_folder(spec.folder) as folder:
            # The agent may have changed the file: a text that is no id must not be used.
            known = folder.read(NAME, 36).decode(errors="replace")
    except OSError:
        return spec.agent_id
    return known if _UUID.fullmatch(known) else spec.agent_id


def keep_conversation(spec: AgentSpec, conversation: str) -> None:
    """Store the agent's new conversation. Raises OSError."""
    with open_folder(spec.folder) as folder:
        folder.write(NAME, conversation)


def has_transcript(spec: AgentSpec, conversation: str) -> bool:
    found: list[str] = []
    _with_transcripts(spec, conversation, lambda project, name: found.append(name))
    return bool(found)


def set_transcripts_aside(spec: AgentSpec, conversation: str) -> None:
    """Rename the transcripts: one without a conversation can't be resumed, and its id can't be used again while it
    exists.
    """
    _with_transcripts(spec, conversation, lambda project, name: project.rename(name, f"{name}.unreadable"))


def _with_transcripts(spec: AgentSpec, conversation: str, act: Callable[[Directory, str], None]) -> None:
    """Call ``act`` with each folder that has a transcript, and its name there. No link of the agent is followed."""
    name = f"{conversation}.jsonl"
    with (
        suppress(FileNotFoundError, NotADirectoryError),
        open_folder(spec.folder) as folder,
        folder.child("config") as config,
        config.child("projects") as projects,
    ):
        for each in projects.names():
            with suppress(NotADirectoryError), projects.child(each) as project:
                if project.has(name):
                    act(project, name)

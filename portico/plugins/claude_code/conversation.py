"""Which conversation an agent is in, and the CLI's transcript of it.

It is named as the agent, until a /clear begins one of another name: that is kept in a file in the agent's folder.
"""

from __future__ import annotations

import re
from pathlib import Path

from portico.core.agent import AgentSpec
from portico.plugins.claude_code.files import replace_file

NAME = "conversation"

_UUID = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def current_conversation(spec: AgentSpec) -> str:
    """The id of the agent's conversation."""
    try:
        # The agent may have changed it: what is no id must not get to where it is used.
        known = (spec.folder / NAME).read_bytes()[:36].decode(errors="replace")
    except OSError:
        return spec.agent_id
    return known if _UUID.fullmatch(known) else spec.agent_id


def keep_conversation(spec: AgentSpec, conversation: str) -> None:
    """The agent has gone over to this one. Raises OSError."""
    replace_file(spec.folder / NAME, conversation)


def has_transcript(spec: AgentSpec, conversation: str) -> bool:
    return bool(_transcripts(spec, conversation))


def set_transcripts_aside(spec: AgentSpec, conversation: str) -> None:
    """A transcript that holds no conversation can't be resumed, and its id can't be used anew while it is there."""
    for transcript in _transcripts(spec, conversation):
        transcript.replace(transcript.with_suffix(".jsonl.unreadable"))


def _transcripts(spec: AgentSpec, conversation: str) -> list[Path]:
    return list((spec.folder / "config" / "projects").glob(f"*/{conversation}.jsonl"))

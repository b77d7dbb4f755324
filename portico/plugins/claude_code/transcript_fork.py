"""A copy of a CLI's transcript, up to the end of a turn, for another agent. Measured on 2.1.330.

Lines of one turn have one ``promptId``. The CLI finds the copy by its name, in the folder of the new working directory;
it tells the model of that directory. Checkpoints of files are left out: they would set the files of the first agent
back.
"""

from __future__ import annotations

import json
import os
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from portico.core.agent import AgentSpec
from portico.core.directory import Directory
from portico.core.errors import Conflict
from portico.plugins.claude_code.agent_files import open_folder
from portico.plugins.claude_code.cli_conversation import current_conversation
from portico.plugins.claude_code.message_ids import message_id

MAX_NAME = 200
"""The longest name of a folder for transcripts; the CLI shortens longer ones."""

LEFT_OUT = ("file-history", "cost-state", "queue-operation", "last-prompt")

ANCESTORS = "ancestors"
"""The file in the folder of a fork: the ids of the agents from which it has its messages."""

_MAX_ANCESTORS = 64 * 1024
_UUID = "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_TRANSCRIPT = re.compile(f"{_UUID}[.]jsonl")

Line = Mapping[str, Any]


def fork_transcript(source: AgentSpec, spec: AgentSpec, turns: Sequence[str] | None, own_turns: int) -> None:
    """Do as `DriverAbilities.fork`. Raises OSError too."""
    if turns is not None and not turns and not own_turns:
        return
    try:
        with open_folder(source.folder) as folder, folder.child("config") as config:
            projects = config.child("projects")
    except (FileNotFoundError, NotADirectoryError):  # it has had no turn yet
        if turns:
            raise _unknown() from None
        return
    with projects:
        if turns is None:
            _copy_whole(projects, source, spec)
        else:
            _copy_part(projects, source, spec, turns, own_turns)


def _copy_whole(projects: Directory, source: AgentSpec, spec: AgentSpec) -> None:
    conversation = current_conversation(source)
    for project in _projects(projects):
        if project.has(f"{conversation}.jsonl"):
            _write(source, spec, _lines(project, f"{conversation}.jsonl"))


def _copy_part(projects: Directory, source: AgentSpec, spec: AgentSpec, turns: Sequence[str], own_turns: int) -> None:
    ids = {
        message_id(agent_id, turn, steered=steered): place
        for agent_id in _ancestors(source)
        for place, turn in enumerate(turns)
        for steered in (False, True)
    }
    best: tuple[int, str, str] | None = None  # the last turn that is known, and the transcript that has it
    for name in projects.names():
        with suppress(NotADirectoryError), projects.child(name) as project:
            for file in filter(_TRANSCRIPT.fullmatch, project.names()):
                places = [ids[said] for line in _lines(project, file) if (said := _said(line)) in ids]
                if places and (best is None or max(places) > best[0]):
                    best = max(places), name, file
    if best is None:
        raise _unknown()
    place, name, file = best
    last = {said for said, found in ids.items() if found == place}
    with projects.child(name) as project:
        _write(source, spec, _until(_lines(project, file), last, own_turns))


def _until(lines: Iterator[Line], last: set[str], own_turns: int) -> Iterator[Line]:
    """Yield the lines up to the end of the turn whose message is one of ``last``, and of so many turns behind it."""
    found, prompt, left = False, None, own_turns
    for line in lines:
        begins = line.get("type") == "user" and not line.get("isSidechain") and line.get("promptId") is not None
        if begins and line["promptId"] != prompt:
            if found and left == 0:
                return
            left -= found
            prompt = line["promptId"]
        found = found or _said(line) in last
        yield line


def _said(line: Line) -> str:
    """Return the id of the message that the line has, or an empty text."""
    if line.get("type") == "user" and not line.get("isSidechain"):
        return str(line.get("uuid"))
    attachment = line.get("attachment")
    if isinstance(attachment, dict) and attachment.get("type") == "queued_command":  # it was handed to a running turn
        return str(attachment.get("source_uuid"))
    return ""


def _lines(project: Directory, name: str) -> Iterator[Line]:
    with suppress(OSError), project.reading(name) as file:  # an agent may have put anything there
        for text in file:
            with suppress(ValueError, RecursionError):
                line = json.loads(text)
                if isinstance(line, dict):
                    yield line


def _ancestors(spec: AgentSpec) -> list[str]:
    """Return the ids of the agents whose messages are in this agent's transcript, its own first."""
    found = ""
    with suppress(OSError), open_folder(spec.folder) as folder:  # an agent may have put anything there
        found = folder.read(ANCESTORS, _MAX_ANCESTORS).decode(errors="replace")
    return [spec.agent_id, *re.findall(f"^{_UUID}$", found, re.MULTILINE)]


def _write(source: AgentSpec, spec: AgentSpec, lines: Iterator[Line]) -> None:
    parent = Path(os.path.realpath(spec.folder.parent))
    with (
        Directory.open(parent) as agents,
        agents.folder(spec.folder.name) as own,
        own.folder("config") as config,
        config.folder("projects") as projects,
        projects.folder(_folder_name(spec.cwd)) as project,
        project.writing(f"{spec.agent_id}.jsonl") as file,
    ):
        own.write(ANCESTORS, "\n".join(_ancestors(source)))
        for line in lines:
            if not str(line.get("type")).startswith(LEFT_OUT):
                renamed = {**line, "sessionId": spec.agent_id} if "sessionId" in line else line
                file.write(json.dumps(renamed).encode() + b"\n")


def _folder_name(cwd: Path) -> str:
    name = re.sub("[^a-zA-Z0-9]", "-", unicodedata.normalize("NFC", os.path.realpath(cwd)))
    if len(name) > MAX_NAME:
        raise Conflict("the path of the workspace is too long for a session with a history", code="not_forkable")
    return name


def _projects(projects: Directory) -> Iterator[Directory]:
    for name in projects.names():
        with suppress(NotADirectoryError), projects.child(name) as project:
            yield project


def _unknown() -> Conflict:
    return Conflict("the agent does not know where that turn ended", code="not_forkable")

"""The conversation that an agent is in: by its folder, and after a /clear of the real CLI."""

from __future__ import annotations

import json
import os
from pathlib import Path
from uuid import uuid4

import pytest

from portico.core.agent import AgentSpec, Turn
from portico.plugins.claude_code.cli_conversation import (
    NAME,
    current_conversation,
    has_transcript,
    keep_conversation,
    set_transcripts_aside,
)
from portico.plugins.claude_code.driver import ClaudeDriver
from portico.plugins.demo.model_server import ServedModel
from tests.support.agents import processes_with
from tests.support.claude import conversation, kill, new_spec, script, started, text, turn


def test_it_is_named_as_the_agent_until_another_is_kept(tmp_path: Path) -> None:
    spec = new_spec(tmp_path)
    assert current_conversation(spec) == spec.agent_id
    spec.folder.mkdir(parents=True)
    other = str(uuid4())
    keep_conversation(spec, other)
    assert current_conversation(spec) == other


@pytest.mark.parametrize("odd", [b"", b"x", b"--version", b"\xff" * 36, b"../" * 12, b"A" * 36, b"x" * 100_000])
def test_a_file_that_the_agent_has_spoilt_names_nothing(tmp_path: Path, odd: bytes) -> None:
    spec = new_spec(tmp_path)
    spec.folder.mkdir(parents=True)
    (spec.folder / NAME).write_bytes(odd)
    assert current_conversation(spec) == spec.agent_id


def test_a_link_in_its_place_is_replaced_and_not_written_to(tmp_path: Path) -> None:
    spec = new_spec(tmp_path)
    spec.folder.mkdir(parents=True)
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (spec.folder / NAME).symlink_to(victim)
    other = str(uuid4())
    keep_conversation(spec, other)
    assert victim.read_text() == "mine"
    assert current_conversation(spec) == other


def test_a_pipe_in_its_place_is_not_waited_for(tmp_path: Path) -> None:
    spec = new_spec(tmp_path)
    spec.folder.mkdir(parents=True)
    os.mkfifo(spec.folder / NAME)
    assert current_conversation(spec) == spec.agent_id


@pytest.mark.parametrize("linked", ["config", "projects", "project"])
def test_links_lead_to_no_transcript_of_anothers(tmp_path: Path, linked: str) -> None:
    """An agent may say that its conversation has the name of another's."""
    mine, other = new_spec(tmp_path), new_spec(tmp_path)
    theirs = other.folder / "config" / "projects" / "project" / f"{other.agent_id}.jsonl"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("{}")
    place = {"config": "config", "projects": "config/projects", "project": "config/projects/project"}[linked]
    (mine.folder / place).parent.mkdir(parents=True)
    (mine.folder / place).symlink_to(other.folder / place)
    assert not has_transcript(mine, other.agent_id)
    set_transcripts_aside(mine, other.agent_id)
    assert theirs.exists()
    assert has_transcript(other, other.agent_id)
    set_transcripts_aside(other, other.agent_id)
    assert not has_transcript(other, other.agent_id) and theirs.with_suffix(".jsonl.unreadable").exists()


@pytest.mark.anyio
@pytest.mark.real_cli
@pytest.mark.parametrize("killed", [True, False])
async def test_what_was_cleared_stays_so_when_the_agent_comes_back(
    driver: ClaudeDriver, spec: AgentSpec, model: ServedModel, killed: bool
) -> None:
    async with started(driver, spec) as agent:
        await turn(agent, "remember the heron")
        cleared = await turn(agent, Turn("c", "/clear", commands=True))
        assert [e.get("name", e["type"]) for e in cleared] == ["cleared", "complete"]
        if killed:
            kill(spec)
    async with started(driver, spec) as agent:
        await turn(agent, "remember the stork")
        assert "heron" not in conversation(model)
    async with started(driver, spec) as agent:
        await turn(agent, "what was it")
        assert "stork" in conversation(model) and "heron" not in conversation(model)
        assert not processes_with(f"--resume={spec.agent_id}")


@pytest.mark.anyio
@pytest.mark.real_cli
async def test_commands_and_files_act_only_where_they_are_asked_for(
    driver: ClaudeDriver, spec: AgentSpec, model: ServedModel
) -> None:
    (spec.cwd / "note.txt").write_text("the heron")
    async with started(driver, spec) as agent:
        await turn(agent, "look at @note.txt")
        assert "the heron" not in conversation(model)
        await turn(agent, Turn("f", "look at @note.txt", commands=True))
        assert "the heron" in conversation(model)
        asked = len(model.model.requests)
        events = await turn(agent, Turn("h", "/cost", commands=True))
        assert len(model.model.requests) == asked
        assert text(events) and events[-1]["stop_reason"] == "end_turn"
        assert "You said" in text(await turn(agent, Turn("n", "/nonsense", commands=True)))


@pytest.mark.anyio
@pytest.mark.real_cli
@pytest.mark.parametrize("sources", [(), ("project",)])
async def test_a_workspace_has_a_say_only_where_its_settings_are_asked_for(
    driver: ClaudeDriver, tmp_path: Path, model: ServedModel, sources: tuple[str, ...]
) -> None:
    spec = new_spec(tmp_path, setting_sources=sources)
    (spec.cwd / "CLAUDE.md").write_text("Herons are grey.")
    for folder in (".claude/commands", ".claude/skills/fishing"):
        (spec.cwd / folder).mkdir(parents=True)
    reply = script({"say": "fished for $ARGUMENTS"})
    (spec.cwd / ".claude/commands/fish.md").write_text(reply)
    (spec.cwd / ".claude/skills/fishing/SKILL.md").write_text(
        "---\nname: fishing\ndescription: How herons fish.\n---\nStand still."
    )
    async with started(driver, spec) as agent:
        first = await turn(agent, "hello")
        assert "hello" in text(first)
        known = json.dumps(model.model.requests[-1].body)
        assert ("Herons are grey." in known) is bool(sources)
        assert ("How herons fish." in known) is bool(sources)
        events = await turn(agent, Turn("t", "/fish trout", commands=True))
        assert (text(events) == "fished for trout") is bool(sources)

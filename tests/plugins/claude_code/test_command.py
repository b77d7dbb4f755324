"""The arguments of an agent: nothing that a client says can become a flag, or is read by others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from portico.core.agent import AgentOptions
from portico.core.errors import InvalidRequest
from portico.plugins.claude_code.arguments import Argument, PrivateArgument
from portico.plugins.claude_code.command import build_command

CLI = Path("/opt/claude")
ID = "4b2ac7d2-1df0-4683-ac60-804739c79a80"


def command(*, resume: bool = False, default_model: str | None = None, **options: object) -> list[Argument]:
    return build_command(CLI, ID, AgentOptions(**options), resume=resume, default_model=default_model)  # type: ignore[arg-type]


def test_the_least_that_is_asked() -> None:
    assert command() == [
        "/opt/claude",
        "--output-format=stream-json",
        "--verbose",
        "--disallowedTools=SendMessage,ListAgents",
        "--permission-prompt-tool=stdio",
        "--permission-mode=default",
        "--input-format=stream-json",
        "--include-partial-messages",
        "--strict-mcp-config",
        "--setting-sources=",
        f"--session-id={ID}",
    ]


def test_resume_takes_the_place_of_the_new_id() -> None:
    argv = command(resume=True)
    assert f"--resume={ID}" in argv and f"--session-id={ID}" not in argv


def test_every_option_is_one_argument_whatever_it_looks_like() -> None:
    argv = command(
        model="--model",
        permission_mode="plan",
        allowed_tools=("Read", "Bash(ls:*)"),
        disallowed_tools=("--verbose",),
        max_turns=3,
        setting_sources=("user", "project"),
    )
    assert {
        "--model=--model",
        "--permission-mode=plan",
        "--allowedTools=Read,Bash(ls:*)",
        "--disallowedTools=SendMessage,ListAgents,--verbose",
        "--max-turns=3",
        "--setting-sources=user,project",
    } <= set(argv)
    flags = [str(argument).split("=", 1)[0] for argument in argv[1:]]
    assert all(flag.startswith("--") for flag in flags)
    assert len(set(flags)) == len(flags)
    assert "--print" not in flags and "--version" not in flags


def test_prompts_and_mcp_servers_are_no_arguments_that_others_can_read() -> None:
    servers = {"a": {"command": "x", "args": ["--print"], "env": {"TOKEN": "a secret"}}}
    instead, appended = "--version, a secret", "a secret\n\0é" + "x" * (128 << 10)
    argv = command(mcp_servers=servers, system_prompt=instead, append_system_prompt=appended)
    assert "secret" not in str(argv)
    private = {argument.prefix: argument.data for argument in argv if isinstance(argument, PrivateArgument)}
    assert private == {
        "--system-prompt-file=/dev/fd/": instead.encode(),
        "--append-system-prompt-file=/dev/fd/": appended.encode(),
        "--mcp-config=/dev/fd/": json.dumps({"mcpServers": servers}).encode(),
    }
    assert [argument for argument in argv if isinstance(argument, str)] == command()


def test_a_model_of_the_sessions_own_goes_before_the_default() -> None:
    assert "--model=d" in command(default_model="d")
    assert "--model=own" in command(default_model="d", model="own")


@pytest.mark.parametrize(
    ("option", "bad"),
    [("model", "a\0b"), ("model", "\ud800"), ("model", "x" * (128 << 10)), ("append_system_prompt", "\ud800")],
)
def test_what_no_process_can_be_given_is_refused(option: str, bad: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        build_command(CLI, ID, AgentOptions().with_changes(**{option: bad}), resume=False)
    assert caught.value.code == "invalid_option"
    assert caught.value.extra["errors"][0]["name"] == option

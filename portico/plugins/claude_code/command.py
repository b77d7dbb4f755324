"""An agent's options as the command line of the CLI.

Every user of the machine can read the command line, so it contains nothing secret or private: the CLI reads the system
prompts and the configuration of MCP servers from files that only it can open.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from claude_code_sdk import ClaudeCodeOptions
from claude_code_sdk._internal.transport.subprocess_cli import SubprocessCLITransport

from portico.core.agent import AgentOptions
from portico.core.errors import InvalidRequest
from portico.plugins.claude_code.arguments import Argument, PrivateArgument

SWITCHES = frozenset({"--verbose", "--continue"})
"""Flags of the SDK's command that take no value."""

WITHHELD_TOOLS = ("SendMessage", "ListAgents")
"""Tools that no agent has: with them one session can find another on the same machine and start a turn in it."""

DEFAULT_MODEL = "default"
"""The CLI's name for the model that it chooses itself."""

MAX_ARGUMENT = 128 * 1024
"""The largest argument in bytes, with its terminator: MAX_ARG_STRLEN of Linux (execve(2))."""

STREAMING = (
    "--input-format=stream-json",
    "--include-partial-messages",
    "--strict-mcp-config",
)


def build_command(
    cli: Path,
    conversation: str,
    options: AgentOptions,
    *,
    resume: bool,
    default_model: str | None = None,
    withheld: Sequence[str] = (),
) -> list[Argument]:
    """Return the argv that starts an agent with a new ``conversation`` or, with ``resume``, with an existing one.

    The agent does not get the ``withheld`` tools.

    Raises `InvalidRequest` (``errors`` names the option) if a value can't be passed to a process.
    """
    if options.model is None:
        # Without --model a resumed conversation goes on with the model that it had.
        options = replace(options, model=default_model or (DEFAULT_MODEL if resume else None))
    command = SubprocessCLITransport("", _sdk_options(options, withheld), cli)._build_command()[
        :-2
    ]  # without --print PROMPT
    # A session does not use the operator's and the project's settings unless they are requested.
    sources = f"--setting-sources={','.join(options.setting_sources)}"
    identity = f"--resume={conversation}" if resume else f"--session-id={conversation}"
    argv = [*_joined(command), *STREAMING, sources, identity, *_flags(options)]
    for argument in argv:
        _check(argument)
    return [*argv, *_private(options)]


def _sdk_options(options: AgentOptions, withheld: Sequence[str]) -> ClaudeCodeOptions:
    # Always set, "default" too: otherwise the CLI uses the mode of the project's settings, or the plan mode of a
    # resumed conversation.
    mode: Any = options.permission_mode
    return ClaudeCodeOptions(
        model=options.model,
        permission_mode=mode,
        permission_prompt_tool_name="stdio",
        allowed_tools=list(options.allowed_tools),
        disallowed_tools=[*WITHHELD_TOOLS, *withheld, *options.disallowed_tools],
        max_turns=options.max_turns,
    )


def _flags(options: AgentOptions) -> Iterator[str]:
    """Yield the options that the SDK does not know."""
    if options.effort is not None:
        yield f"--effort={options.effort}"
    if options.fallback_model is not None:
        yield f"--fallback-model={options.fallback_model}"


def _private(options: AgentOptions) -> Iterator[PrivateArgument]:
    """Yield, as private arguments, the options that the SDK's command would pass as plain ones."""
    # The CLI reads each file once, at its start, and treats it exactly like the same text in an argument.
    if options.system_prompt:
        yield _in_file("--system-prompt-file", "system_prompt", options.system_prompt)
    if options.append_system_prompt:
        yield _in_file("--append-system-prompt-file", "append_system_prompt", options.append_system_prompt)
    if options.mcp_servers:
        yield _in_file("--mcp-config", "mcp_servers", json.dumps({"mcpServers": dict(options.mcp_servers)}))


def _in_file(flag: str, option: str, text: str) -> PrivateArgument:
    try:
        data = text.encode()
    except UnicodeEncodeError:
        raise _invalid(option, "holds half of a surrogate pair, which no file can hold") from None
    return PrivateArgument(f"{flag}=/dev/fd/", data)


def _joined(command: list[str]) -> Iterator[str]:
    """Join ``--flag value`` to ``--flag=value``, so that a value that starts with dashes is not taken for a flag."""
    arguments = iter(command)
    yield next(arguments)
    for flag in arguments:
        yield flag if flag in SWITCHES else f"{flag}={next(arguments)}"


def _check(argument: str) -> None:
    try:
        size = len(argument.encode())
    except UnicodeEncodeError:
        wrong = "holds half of a surrogate pair, which a process can't be given"
    else:
        if "\0" in argument:
            wrong = "holds a NUL character, which a process can't be given"
        elif size >= MAX_ARGUMENT:
            wrong = f"is too long: {size} bytes, where a process can be given {MAX_ARGUMENT}"
        else:
            return
    raise _invalid(argument.split("=", 1)[0].removeprefix("--").replace("-", "_"), wrong)


def _invalid(name: str, wrong: str) -> InvalidRequest:
    errors = [{"name": name, "message": wrong}]
    return InvalidRequest(f"The option {name} {wrong}.", code="invalid_option", errors=errors)

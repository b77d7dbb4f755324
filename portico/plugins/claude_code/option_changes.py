"""The options of an agent that a running CLI can change, measured on 2.1.330.

- model, effort and permission mode: at any time; ``bypassPermissions`` only if it was started with that;
- the system prompt: by the first ``initialize``, before the first message;
- permission rules, and with them the added folders: at any time, by ``apply_flag_settings``, which replaces each list
  that it names. (Rules that an answer to a permission request adds, by ``updatedPermissions``, can't be taken back by
  the host.)
- all other options are set on the command line. (``mcp_set_servers`` sets servers.)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from portico.core.agent import AgentOptions
from portico.plugins.claude_code.mode_hook import hooks, needs_mode_hook

Request = tuple[str, dict[str, Any]]
"""A control request: its subtype, and its other members."""

FOLDERS = "additionalDirectories"

UNSAFE_MODE = "bypassPermissions"

INTRODUCTION = "initialize"
"""The request that only the first time counts, and only before the first message."""

_MEMBERS = {"disallowed_tools": "disallowedTools", "max_turns": "maxTurns"}
"""The CLI's names for members of subagents, where they differ."""


def fixed_options(options: AgentOptions) -> AgentOptions:
    """See `AgentDriver.fixed`."""
    mode = UNSAFE_MODE if options.permission_mode == UNSAFE_MODE else "default"
    return replace(
        options,
        model=None,
        effort=None,
        permission_mode=mode,
        system_prompt=None,
        append_system_prompt=None,
        permission_rules=(),
    )


def first_requests(options: AgentOptions) -> Iterator[Request]:
    """Yield the requests that a CLI started with ``options`` must accept before its first message."""
    if members := _introduction(options):
        yield INTRODUCTION, members
    if options.permission_rules or options.add_dirs:
        yield rules_request(options)


def _introduction(options: AgentOptions) -> dict[str, Any]:
    """Return the members of the `INTRODUCTION`. The CLI silently drops a schema that it can't use."""
    members: dict[str, Any] = {"hooks": hooks()} if needs_mode_hook(options) else {}
    if options.output_schema is not None:
        members["jsonSchema"] = options.output_schema
    if options.agents:
        members["agents"] = {
            name: {_MEMBERS.get(member, member): value for member, value in agent.items()}
            for name, agent in options.agents.items()
        }
    return members


def claim_requests(started: AgentOptions, options: AgentOptions, default_model: str | None) -> Iterator[Request]:
    """Yield the requests for a CLI that was ``started`` without system prompts, before its first message."""
    prompts: dict[str, Any] = {}
    if options.system_prompt is not None:
        prompts["systemPrompt"] = [options.system_prompt]
    if options.append_system_prompt is not None:
        prompts["appendSystemPrompt"] = options.append_system_prompt
    if prompts:
        yield INTRODUCTION, prompts
    yield from _model_request(started, options, default_model)
    yield from _effort_request(started, options)
    if options.permission_mode != started.permission_mode:
        yield _mode_request(options)


def change_requests(before: AgentOptions, options: AgentOptions, default_model: str | None) -> Iterator[Request]:
    """Yield the requests for a CLI between turns."""
    yield from _model_request(before, options, default_model)
    yield from _effort_request(before, options)
    if _rule_settings(options) != _rule_settings(before):
        yield rules_request(options)
    yield _mode_request(options)  # always: answers to permission requests change the mode too


def rules_request(options: AgentOptions) -> Request:
    """Return the request that gives the CLI these permission rules and folders, in place of those that it had."""
    return "apply_flag_settings", {"settings": {"permissions": _rule_settings(options)}}


def _rule_settings(options: AgentOptions) -> dict[str, list[str]]:
    """Return the member ``permissions`` of the CLI's settings. Whatever is no rule and no folder is left out."""
    found: dict[str, list[str]] = {name: [] for name in ("allow", "deny", "ask", FOLDERS)}
    found[FOLDERS] += options.add_dirs
    for rule in options.permission_rules:
        match rule:
            case {"type": "addRules", "behavior": "allow" | "deny" | "ask" as behavior, "rules": [*texts]}:
                found[behavior] += [_rule_text(each) for each in texts]
            case {"type": "addDirectories", "directories": [*names]}:
                found[FOLDERS] += names
    return {name: list(dict.fromkeys(values)) for name, values in found.items()}


def _rule_text(rule: Mapping[str, Any]) -> str:
    """Return a rule as the CLI writes it: in brackets it escapes backslashes and brackets."""
    content = rule.get("ruleContent")
    if not content:
        return str(rule["toolName"])
    for character in "\\()":
        content = content.replace(character, f"\\{character}")
    return f"{rule['toolName']}({content})"


def _model_request(before: AgentOptions, options: AgentOptions, default_model: str | None) -> Iterator[Request]:
    if options.model != before.model:
        yield "set_model", {"model": options.model or default_model}


def _effort_request(before: AgentOptions, options: AgentOptions) -> Iterator[Request]:
    if options.effort != before.effort:
        yield "apply_flag_settings", {"settings": {"effortLevel": options.effort}}


def _mode_request(options: AgentOptions) -> Request:
    return "set_permission_mode", {"mode": options.permission_mode}

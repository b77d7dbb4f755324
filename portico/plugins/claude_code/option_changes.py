"""The options of an agent that a running CLI can change, measured on 2.1.330.

- model and permission mode: at any time; ``bypassPermissions`` only if it was started with that;
- the system prompt: by the first ``initialize``, before the first message;
- permission rules: at any time, by ``apply_flag_settings``, which replaces each list that it names. (Rules that an
  answer to a permission request adds, by ``updatedPermissions``, can't be taken back by the host.)
- all other options are set on the command line. (``mcp_set_servers`` sets servers.)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from portico.core.agent import AgentOptions, Suggestion
from portico.plugins.claude_code.mode_hook import hooks, needs_mode_hook

Request = tuple[str, dict[str, Any]]
"""A control request: its subtype, and its other members."""

FOLDERS = "additionalDirectories"

UNSAFE_MODE = "bypassPermissions"


def fixed_options(options: AgentOptions) -> AgentOptions:
    """See `AgentDriver.fixed`."""
    mode = UNSAFE_MODE if options.permission_mode == UNSAFE_MODE else "default"
    return replace(
        options,
        model=None,
        permission_mode=mode,
        system_prompt=None,
        append_system_prompt=None,
        permission_rules=(),
    )


def first_requests(options: AgentOptions) -> Iterator[Request]:
    """Yield the requests that a CLI started with ``options`` must accept before its first message."""
    if needs_mode_hook(options):
        yield "initialize", {"hooks": hooks()}
    if options.permission_rules:
        yield rules_request(options.permission_rules)


def claim_requests(started: AgentOptions, options: AgentOptions, default_model: str | None) -> Iterator[Request]:
    """Yield the requests for a CLI that was ``started`` without system prompts, before its first message."""
    prompts: dict[str, Any] = {}
    if options.system_prompt is not None:
        prompts["systemPrompt"] = [options.system_prompt]
    if options.append_system_prompt is not None:
        prompts["appendSystemPrompt"] = options.append_system_prompt
    if prompts:
        yield "initialize", prompts
    yield from _model_request(started, options, default_model)
    if options.permission_mode != started.permission_mode:
        yield _mode_request(options)


def change_requests(before: AgentOptions, options: AgentOptions, default_model: str | None) -> Iterator[Request]:
    """Yield the requests for a CLI between turns."""
    yield from _model_request(before, options, default_model)
    if rule_settings(options.permission_rules) != rule_settings(before.permission_rules):
        yield rules_request(options.permission_rules)
    yield _mode_request(options)  # always: answers to permission requests change the mode too


def rules_request(rules: Sequence[Suggestion]) -> Request:
    """Return the request that gives the CLI these permission rules, in place of those that it was given before."""
    return "apply_flag_settings", {"settings": {"permissions": rule_settings(rules)}}


def rule_settings(rules: Sequence[Suggestion]) -> dict[str, list[str]]:
    """Return the member ``permissions`` of the CLI's settings. Whatever is no rule and no folder is left out."""
    found: dict[str, list[str]] = {name: [] for name in ("allow", "deny", "ask", FOLDERS)}
    for rule in rules:
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


def _mode_request(options: AgentOptions) -> Request:
    return "set_permission_mode", {"mode": options.permission_mode}

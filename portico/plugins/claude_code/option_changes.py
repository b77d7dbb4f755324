"""The options of an agent that a running CLI can change, measured on 2.1.330.

- model and permission mode: at any time; ``bypassPermissions`` only if it was started with that;
- the system prompt: by the first ``initialize``, before the first message;
- all other options are set on the command line. (``apply_flag_settings`` can add tools that are allowed or denied, and
  ``mcp_set_servers`` sets servers; but permission to use a tool must not depend on requests that may fail.)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from portico.core.agent import AgentOptions

Request = tuple[str, dict[str, Any]]
"""A control request: its subtype, and its other members."""

UNSAFE_MODE = "bypassPermissions"


def fixed_options(options: AgentOptions) -> AgentOptions:
    """See `AgentDriver.fixed`."""
    mode = UNSAFE_MODE if options.permission_mode == UNSAFE_MODE else "default"
    return replace(options, model=None, permission_mode=mode, system_prompt=None, append_system_prompt=None)


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
    yield _mode_request(options)  # always: answers to permission requests change the mode too


def _model_request(before: AgentOptions, options: AgentOptions, default_model: str | None) -> Iterator[Request]:
    if options.model != before.model:
        yield "set_model", {"model": options.model or default_model}


def _mode_request(options: AgentOptions) -> Request:
    return "set_permission_mode", {"mode": options.permission_mode}

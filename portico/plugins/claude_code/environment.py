"""The folders and the environment of one agent: its own, and nothing of the server's."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from pathlib import Path

from portico.core.agent import AgentSpec
from portico.core.directory import Directory
from portico.core.gateway import Door
from portico.core.short import make_short, prepare_short
from portico.core.tool_rule import ToolRule
from portico.plugins.claude_code.config import DriverConfig

SUBFOLDERS = ("home", "config", "tmp", "run")

CREDENTIALS = frozenset({"ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "CLAUDE_CODE_OAUTH_TOKEN"})

MAX_RUNTIME_DIR = 80
"""The longest path of a runtime folder, in bytes. If the path of its socket does not fit (84 measured, with a pid of 4
digits), CLI 2.1.330 silently uses ``/tmp/cc-socks-UID``, which the agents of all sessions share."""


def make_folders(folder: Path) -> Path:
    """Make the agent's folders, all of mode 0700; return its runtime folder.

    That is ``folder/run``, or a short one if that path is too long (see `portico.core.short`); the caller must remove a
    short one. Raises OSError.
    """
    parent = Path(os.path.realpath(folder.parent))
    with Directory.open(parent, make=True) as agents, agents.folder(folder.name) as own:
        own.close_to_others()
        for name in SUBFOLDERS:
            with own.folder(name) as made:  # replaces a link, which only the agent can have made
                made.close_to_others()
    return make_short(folder) if needs_short(folder) else folder / "run"


def prepare_agents(agents: Path) -> None:
    """Make the folder that agents in ``agents`` will share, so that a sandbox can hide it. Raises OSError."""
    if needs_short(agents / str(uuid.UUID(int=0))):
        prepare_short(agents)


def needs_short(folder: Path) -> bool:
    """Tell whether the path of the socket in the agent's own folder would be too long."""
    return len(os.fsencode(folder / "run")) > MAX_RUNTIME_DIR


def build_environment(config: DriverConfig, spec: AgentSpec, runtime: Path, door: Door | None = None) -> dict[str, str]:
    """Return all variables of the agent. ``config.environment`` comes first, so it can't override the rest.

    With a ``door`` to the gateway the agent gets no credential from any source.
    """
    environment = {
        **{name: value for name, value in config.environment.items() if door is None or name not in CREDENTIALS},
        "HOME": str(spec.folder / "home"),
        "CLAUDE_CONFIG_DIR": str(spec.folder / "config"),
        "TMPDIR": str(spec.folder / "tmp"),
        "CLAUDE_CODE_TMPDIR": str(spec.folder / "tmp"),
        "XDG_RUNTIME_DIR": str(runtime),
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "DISABLE_AUTOUPDATER": "1",
        "CLAUDE_CODE_ENABLE_SDK_FILE_CHECKPOINTING": "1",  # for rewinding
        **(_credentials(config) if door is None else door.environment),
    }
    if config.subagents:
        environment["CLAUDE_CODE_FORWARD_SUBAGENT_TEXT"] = "1"  # else only those in the background are heard
    if config.max_tokens is not None:
        environment["CLAUDE_CODE_MAX_OUTPUT_TOKENS"] = str(config.max_tokens)
    if spec.options.permission_mode == "bypassPermissions" and os.geteuid() == 0:
        environment["IS_SANDBOX"] = "1"  # as root the CLI refuses this mode otherwise
    if any(ToolRule.may_forbid(text, "Read") for text in spec.options.disallowed_tools):
        # The CLI reads an @file of a query even if a rule forbids the whole tool. It obeys only rules with a content.
        environment["CLAUDE_CODE_DISABLE_FILE_MENTIONS"] = "1"
    return environment


def _credentials(config: DriverConfig) -> Mapping[str, str]:
    values = {
        "ANTHROPIC_API_KEY": config.api_key,
        "CLAUDE_CODE_OAUTH_TOKEN": config.oauth_token,
        "ANTHROPIC_BASE_URL": config.base_url,
    }
    return {name: value for name, value in values.items() if value is not None}

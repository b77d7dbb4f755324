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
"""Bytes. Where the path of its socket would not fit (84 measured, with a pid of 4 digits), CLI 2.1.330 silently takes
``/tmp/cc-socks-UID``, which the agents of all sessions share."""


def make_folders(folder: Path) -> Path:
    """Make the agent's folders, all of mode 0700; return its runtime folder.

    That one is ``folder/run``, or where this would be too long a path a short one (see `portico.core.short`): then it
    is the caller's to remove. Raises OSError.
    """
    parent = Path(os.path.realpath(folder.parent))
    with Directory.open(parent, make=True) as agents, agents.folder(folder.name) as own:
        own.close_to_others()
        for name in SUBFOLDERS:
            with own.folder(name) as made:  # in place of a link, which is the agent's doing
                made.close_to_others()
    return make_short(folder) if needs_short(folder) else folder / "run"


def prepare_agents(agents: Path) -> None:
    """Make what the agents with folders in here will share, so that a sandbox can hide it. Raises OSError."""
    if needs_short(agents / str(uuid.UUID(int=0))):
        prepare_short(agents)


def needs_short(folder: Path) -> bool:
    """Whether the path of its socket would be too long in the agent's own folder."""
    return len(os.fsencode(folder / "run")) > MAX_RUNTIME_DIR


def build_environment(config: DriverConfig, spec: AgentSpec, runtime: Path, door: Door | None = None) -> dict[str, str]:
    """All the variables that the agent gets. ``config.environment`` comes first, so it can't undo the rest.

    With a ``door`` to the gateway it gets no credential, from wherever.
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
        **(_credentials(config) if door is None else door.environment),
    }
    if config.max_tokens is not None:
        environment["CLAUDE_CODE_MAX_OUTPUT_TOKENS"] = str(config.max_tokens)
    if spec.options.permission_mode == "bypassPermissions" and os.geteuid() == 0:
        environment["IS_SANDBOX"] = "1"  # as root the CLI refuses this mode without
    if any(ToolRule.may_forbid(text, "Read") for text in spec.options.disallowed_tools):
        # The CLI reads an @file of a query where a rule forbids the whole tool. A rule with a content it obeys.
        environment["CLAUDE_CODE_DISABLE_FILE_MENTIONS"] = "1"
    return environment


def _credentials(config: DriverConfig) -> Mapping[str, str]:
    values = {
        "ANTHROPIC_API_KEY": config.api_key,
        "CLAUDE_CODE_OAUTH_TOKEN": config.oauth_token,
        "ANTHROPIC_BASE_URL": config.base_url,
    }
    return {name: value for name, value in values.items() if value is not None}

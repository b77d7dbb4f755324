"""The folders and the environment of one agent: its own, and nothing of the server's."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

from portico.core.agent import AgentSpec
from portico.core.gateway import Door
from portico.plugins.claude_code.config import DriverConfig

SUBFOLDERS = ("home", "config", "tmp", "run")

CREDENTIALS = frozenset({"ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "CLAUDE_CODE_OAUTH_TOKEN"})

MAX_RUNTIME_DIR = 80
"""Bytes. Where the path of its socket would not fit (84 measured, with a pid of 4 digits), CLI 2.1.330 silently takes
``/tmp/cc-socks-UID``, which the agents of all sessions share."""


def make_folders(folder: Path) -> Path:
    """Make the agent's folders, all of mode 0700; return its runtime folder.

    That one is ``folder/run``, or one in the temporary folder where this would be too long a path: then it is the
    caller's to remove.
    """
    for path in (folder, *(folder / name for name in SUBFOLDERS)):
        if path.is_symlink():  # the agent's doing, and where it leads is not ours to change
            path.unlink()
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.chmod(0o700)
    runtime = folder / "run"
    if len(os.fsencode(runtime)) > MAX_RUNTIME_DIR:
        return _short_folder(folder)
    return runtime


def clear_short_folder(path: Path, folder: Path) -> None:
    """Remove what `make_folders` made elsewhere for the agent whose folder this is; anything else is left alone."""
    if path.is_absolute() and path.name.startswith(_short_name(folder)):
        shutil.rmtree(path, ignore_errors=True)  # follows no symbolic link


def _short_name(folder: Path) -> str:
    return f"portico-{sha256(os.fsencode(os.path.realpath(folder))).hexdigest()[:16]}"


def _short_folder(folder: Path) -> Path:
    """Always the same one, so that a server that is killed time and again leaves no more than one."""
    name = _short_name(folder)
    path = Path(tempfile.gettempdir(), name)
    path.mkdir(mode=0o700, exist_ok=True)
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():  # somebody else was there first
        return Path(tempfile.mkdtemp(prefix=f"{name}-"))
    path.chmod(0o700)
    return path


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
    return environment


def _credentials(config: DriverConfig) -> Mapping[str, str]:
    values = {
        "ANTHROPIC_API_KEY": config.api_key,
        "CLAUDE_CODE_OAUTH_TOKEN": config.oauth_token,
        "ANTHROPIC_BASE_URL": config.base_url,
    }
    return {name: value for name, value in values.items() if value is not None}

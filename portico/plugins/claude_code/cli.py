"""Finding the `claude` program, and checking that its version is supported."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

import anyio
import anyio.to_thread
from claude_code_sdk import CLINotFoundError

from portico.core.errors import AgentUnavailable

Version = tuple[int, int, int]

MINIMUM: Version = (2, 1, 0)
"""The oldest version. The protocol was measured on 2.1.330, and the parts of it that the driver needs
(``client_composed``, ``command_lifecycle``) are not documented for any version. The whole 2.1 line is accepted;
anything older is refused."""

VERSION_TIME = 10.0
"""Seconds that ``claude --version`` may take (it takes 0.02; a cold disk may have to read 380 MB)."""

_ANSWER = 4096  # bytes of its answer that are read
_HOW = "install one with `pip install 'portico-server[claude]'`, or name it in PORTICO_CLAUDE_CLI_PATH"


def find_cli(claude_cli_path: Path | None, search_path: str) -> Path:
    """Find the program: the one that the operator names, else `claude` on ``search_path``, else the bundled one.

    Raises `AgentUnavailable`: ``cli_not_found``, ``cli_not_executable``.
    """
    if claude_cli_path is not None:
        return _usable(claude_cli_path)
    if found := shutil.which("claude", path=search_path):
        return Path(found).absolute()
    # Importing the package takes 0.7 s, and only its binary is needed.
    spec = importlib.util.find_spec("claude_agent_sdk")
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        bundled = Path(folder, "_bundled", "claude")
        if bundled.is_file():
            return _usable(bundled)
    raise _not_found(f"There is no `claude` on PATH, nor one in an installed package: {_HOW}.")


class CliVersions:
    """The versions of programs. Each program is asked once, until its file changes."""

    def __init__(self) -> None:
        self._known: dict[tuple[Path, int, int], Version] = {}

    async def check(self, path: Path, env: Mapping[str, str]) -> Version:
        """Return the version of the CLI at ``path``, run with only ``env``, in 10 s at most.

        Raises `AgentUnavailable`: ``cli_too_old``, ``cli_broken``, ``cli_not_found``, ``cli_not_executable``.
        """
        file = await anyio.Path(_usable(path)).stat()
        key = (path, file.st_mtime_ns, file.st_size)
        version = self._known.get(key)
        if version is None:
            version = await _ask(path, env)
            self._known = {key: version}  # only one is in use at a time
        if version < MINIMUM:
            text = f"{path} is version {_text(version)}; {_text(MINIMUM)} or newer is needed: {_HOW}."
            raise AgentUnavailable(text, code="cli_too_old")
        return version


async def _ask(path: Path, env: Mapping[str, str]) -> Version:
    answer = b""
    try:
        process = await anyio.open_process(
            [path, "--version"],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.STDOUT,
            cwd=tempfile.gettempdir(),
            env=env,
            start_new_session=True,
        )
    except OSError as error:
        raise _broken(path, str(error)) from error
    try:
        with anyio.fail_after(VERSION_TIME):
            assert process.stdout is not None  # noqa: S101
            with contextlib.suppress(anyio.EndOfStream):
                while len(answer) < _ANSWER:
                    answer += await process.stdout.receive(_ANSWER)
                raise _broken(path, "its answer is far too long")
            status = await process.wait()
    except TimeoutError as error:
        raise _broken(path, f"no answer within {VERSION_TIME:.0f} s") from error
    finally:
        # Kill the group, because `claude` may be a script that waits for another program.
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
        await process.aclose()
    text = answer.decode(errors="replace").strip()
    found = re.match(r"(\d+)\.(\d+)\.(\d+)", text)
    if status != 0 or found is None:
        raise _broken(path, f"exit status {status}, {text[:300]!r}")
    return (int(found[1]), int(found[2]), int(found[3]))


def _usable(path: Path) -> Path:
    if not path.is_file():
        raise _not_found(f"There is no file {path}: {_HOW}.")
    if not os.access(path, os.X_OK):
        raise AgentUnavailable(f"{path} may not be executed: `chmod +x` it, or {_HOW}.", code="cli_not_executable")
    return path.absolute()


def _not_found(text: str) -> AgentUnavailable:
    error = AgentUnavailable(text, code="cli_not_found")
    error.__cause__ = CLINotFoundError(text)
    return error


def _broken(path: Path, why: str) -> AgentUnavailable:
    return AgentUnavailable(f"`{path} --version` does not work ({why}): {_HOW}.", code="cli_broken")


def _text(version: Version) -> str:
    return ".".join(map(str, version))

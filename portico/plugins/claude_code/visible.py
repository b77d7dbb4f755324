"""The parts of the machine that an agent in the sandbox sees beside its own folders: programs, libraries; read-only."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

SYSTEM = (
    "/usr",
    "/opt",
    "/nix",
    "/etc",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/var/lib/ca-certificates",
)
"""The system's folders, if they exist. A symbolic link here is a symbolic link there too."""

_BESIDE_PROGRAMS = ("lib", "lib64", "libexec", "include", "pyvenv.cfg")
"""The parts beside a folder named ``bin`` that its programs need. Never everything: the user's own things, and this
server's, are beside ``~/.local/bin``."""


def system_folders() -> list[Path]:
    return [path for path in map(Path, SYSTEM) if path.exists()]


def named_paths(environment: Mapping[str, str]) -> list[Path]:
    """Return the paths that an agent's variables name: the folders of PATH with what belongs to them, others as they
    are.
    """
    found: list[Path] = []
    for name, value in environment.items():
        paths = list(absolute_paths(value.split(os.pathsep)))
        found += [part for path in paths for part in _with_what_it_needs(path)] if name == "PATH" else paths
    found += absolute_paths([os.path.realpath("/etc/resolv.conf")])
    return found


def program_paths(program: Path) -> list[Path]:
    """Return what a program needs to run: its real file, its package, and its interpreter."""
    if not program.is_absolute():
        return []  # it is searched on PATH
    real = Path(os.path.realpath(program))
    found = [real]
    if real != program:
        found.append(program)
    if (real.parent / "package.json").is_file():  # installed by npm
        found.append(real.parent)
    try:
        with real.open("rb") as file:
            line = file.read(256).partition(b"\n")[0]
    except OSError:
        return found
    if line.startswith(b"#!") and (words := os.fsdecode(line[2:]).split()):
        interpreter = Path(words[0])
        found += [interpreter, Path(os.path.realpath(interpreter)), *_with_what_it_needs(interpreter.parent)]
    return found


def server_paths(servers: Mapping[str, Mapping[str, Any]]) -> list[Path]:
    """Return the paths that the operator's MCP servers name: programs, and files and folders among the arguments."""
    found: list[Path] = []
    for server in servers.values():
        for program in absolute_paths([str(server.get("command", ""))]):
            found += [*_with_what_it_needs(program.parent)] if program.parent.name in ("bin", "sbin") else []
            found += program_paths(program)
        arguments, variables = server.get("args"), server.get("env")
        texts = [*(arguments if isinstance(arguments, list) else ())]
        texts += [*(variables.values() if isinstance(variables, dict) else ())]
        found += absolute_paths(text for text in texts if isinstance(text, str))
    return found


def absolute_paths(texts: Iterable[str]) -> Iterator[Path]:
    """Yield the texts that are the absolute path of something that exists, except for the root."""
    for text in texts:
        if text.startswith("/") and "\0" not in text and text.strip("/") and os.path.exists(text):
            yield Path(os.path.normpath(text))


def unreadable(folder: Path) -> list[Path]:
    """Return the files and folders in ``folder`` that not everybody may read, such as keys and /etc/shadow."""
    found = []
    for base, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            path = Path(base, name)
            try:
                mode = path.lstat().st_mode
            except OSError:
                continue
            if stat.S_ISDIR(mode) and mode & 0o005 != 0o005:
                folders.remove(name)
                found.append(path)
            elif stat.S_ISREG(mode) and not mode & 0o004:
                found.append(path)
    return found


def _with_what_it_needs(programs: Path, *, depth: int = 2) -> Iterator[Path]:
    yield programs
    if programs.name not in ("bin", "sbin"):
        return
    yield from (path for name in _BESIDE_PROGRAMS if (path := programs.parent / name).exists())
    if depth and (base := _base_of_environment(programs.parent)) is not None:
        yield from _with_what_it_needs(base, depth=depth - 1)


def _base_of_environment(prefix: Path) -> Path | None:
    """Return the program folder of the Python that made a virtual environment."""
    try:
        lines = (prefix / "pyvenv.cfg").read_text().splitlines()
    except (OSError, ValueError):
        return None
    homes = [line.partition("=")[2].strip() for line in lines if line.partition("=")[0].strip() == "home"]
    return next(absolute_paths(homes), None)

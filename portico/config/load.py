"""Finds the values of the settings: the only reader of the environment and of settings' files.

Where a setting stands in several places, the first of these holds: the command line, PORTICO_NAME in the
environment, PORTICO_NAME in `.env`, NAME in the environment, NAME in `.env`, the default. A bare NAME is read
only for the settings in `BARE_NAMES`. Names are upper case exactly; an empty value counts as unset.
"""

import io
import os
import re
import stat
from collections import ChainMap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs
from dotenv.parser import parse_stream
from pydantic import ValidationError

from .mask import masked
from .mistakes import SettingsError, explain, unknown_options, unknown_variables
from .origins import PREFIX, Given, from_options, from_variables, read
from .settings import Settings

__all__ = ["Loaded", "SettingsError", "agent_environment", "data_dir", "describe", "here", "load"]

_DOTENV = ".env"
_LARGEST_FILE = 1024 * 1024
_PATHS = ("claude_cli_path", "uds", "data_dir")  # these may be relative to the working directory
_ALWAYS_FOR_AGENTS = ("PATH", "LANG", "LC_ALL", "TZ")


@dataclass(frozen=True)
class Loaded:
    """`sources`: setting → "default", "environment NAME", ".env NAME" or "option --name".

    `warnings` are lines for the log.
    """

    settings: Settings
    sources: dict[str, str]
    warnings: list[str]


def here() -> tuple[Mapping[str, str], Path]:
    """This process's environment and working directory, for `load`."""
    return os.environ, Path.cwd()


def load(argv_options: Mapping[str, Any], environ: Mapping[str, str], cwd: Path) -> Loaded:
    """The effective settings. `argv_options`: setting → value; None counts as unset.

    Raises SettingsError with every mistake that there is.
    """
    mistakes: list[str] = []
    dotenv = _read_dotenv(cwd / _DOTENV, mistakes)
    mistakes += unknown_options(argv_options)
    mistakes += unknown_variables(environ, "")
    mistakes += unknown_variables(dotenv, f"{_DOTENV}: ")
    origins = [
        from_options(argv_options),
        from_variables(environ, PREFIX, "", "environment"),
        from_variables(dotenv, PREFIX, f"{_DOTENV}: ", _DOTENV),
        from_variables(environ, "", "", "environment"),
        from_variables(dotenv, "", f"{_DOTENV}: ", _DOTENV),
        {"data_dir": Given(f"{PREFIX}DATA_DIR", "default", _platform_data_dir())},
    ]
    winners = ChainMap(*origins)
    warnings: list[str] = []
    origins.insert(0, _prepared(winners, cwd, mistakes, warnings))
    try:
        settings = read(origins)
    except ValidationError as error:
        mistakes += explain(error, winners)
        raise SettingsError(mistakes) from None
    if mistakes:
        raise SettingsError(mistakes)
    sources = {name: winners[name].source if name in winners else "default" for name in Settings.model_fields}
    return Loaded(settings, sources, warnings)


def data_dir(argv_options: Mapping[str, Any], environ: Mapping[str, str], cwd: Path) -> Path:
    """The data folder alone, for who needs nothing else: no other setting is looked at, and none is a mistake."""
    dotenv = _read_dotenv(cwd / _DOTENV, [])
    for origin in (
        from_options(argv_options),
        from_variables(environ, PREFIX, "", "environment"),
        from_variables(dotenv, PREFIX, "", _DOTENV),
    ):
        if "data_dir" in origin:
            return _path(cwd, str(origin["data_dir"].value))
    return Path(_platform_data_dir())


def describe(loaded: Loaded) -> list[tuple[str, str, str]]:
    """(name, value with secrets masked, source) of every setting."""
    return [(name, masked(getattr(loaded.settings, name)), loaded.sources[name]) for name in Settings.model_fields]


def agent_environment(settings: Settings, environ: Mapping[str, str]) -> dict[str, str]:
    """All that agents get of the server's environment: PATH, language and time zone, and `agent_env`."""
    passed = {name: environ[name] for name in _ALWAYS_FOR_AGENTS if name in environ}
    for variable in settings.agent_env:
        if variable.value is not None:
            passed[variable.name] = variable.value.get_secret_value()
        elif variable.name in environ:
            passed[variable.name] = environ[variable.name]
    return passed


def _platform_data_dir() -> str:
    # This one follows HOME and XDG_DATA_HOME of the process, whatever `environ` load() was given.
    return platformdirs.user_data_dir("portico", appauthor=False)


def _path(cwd: Path, text: str) -> Path:
    """``~`` is not the shell's matter in a file or an option of the form ``--name=~/x``."""
    try:
        return cwd / Path(text).expanduser()
    except RuntimeError:  # nobody's home
        return cwd / text


def _read_dotenv(path: Path, mistakes: list[str]) -> dict[str, str]:
    """Values as written: `${NAME}` is not expanded, so a secret may hold it."""
    try:
        text = _read_file(path)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        mistakes.append(f"{_DOTENV}: it can't be read: {_why(error)}")
        return {}
    found = {}
    for binding in parse_stream(io.StringIO(text)):
        if binding.error:
            mistakes.append(f"{_DOTENV}: line {binding.original.line} is not NAME=value")
        elif binding.key is not None and binding.value is not None:
            found[binding.key] = binding.value
    return found


def _prepared(winners: Mapping[str, Given], cwd: Path, mistakes: list[str], warnings: list[str]) -> dict[str, Given]:
    """What needs the world before it can be checked: paths made absolute, and the tokens of an `@FILE`."""
    prepared = {}
    for name in _PATHS:
        given = winners.get(name)
        if given and given.source != "default" and isinstance(given.value, str):
            prepared[name] = Given(given.label, given.source, str(_path(cwd, given.value)))
    tokens = winners.get("auth_tokens")
    if tokens and isinstance(tokens.value, str) and tokens.value.startswith("@"):
        entries: tuple[str, ...] = ()
        try:
            entries = _read_tokens(cwd / tokens.value[1:], tokens.label, warnings)
        except (OSError, ValueError) as error:
            # The name of the file stays unsaid: it may be a secret that begins with @.
            mistakes.append(f"{tokens.label}: the file after @ can't be used: {_why(error)}")
        prepared["auth_tokens"] = Given(tokens.label, tokens.source, entries)
    return prepared


def _read_tokens(path: Path, label: str, warnings: list[str]) -> tuple[str, ...]:
    lines = (re.sub(r"(^|\s)#.*", "", line).strip() for line in _read_file(path).splitlines())
    if not (entries := tuple(filter(None, lines))):
        raise ValueError("there is no token in it")
    if (mode := stat.S_IMODE(path.stat().st_mode)) & 0o077:
        warnings.append(f"{label}: others on this machine can get at {path} (mode {mode:04o}); chmod 600 it")
    return entries


def _read_file(path: Path) -> str:
    # A pipe or a device could hold up the start for ever.
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError("it is not a regular file")
    with path.open("rb") as file:
        data = file.read(_LARGEST_FILE + 1)
    if len(data) > _LARGEST_FILE:
        raise ValueError(f"it is larger than {_LARGEST_FILE} bytes")
    return data.decode("utf-8-sig")


def _why(error: OSError | ValueError) -> str:
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    if isinstance(error, UnicodeError):
        return "it is not UTF-8 text"
    return str(error)

"""Finds the values of the settings: the only reader of the environment and of settings' files.

Where a setting stands in several places, the first of these holds: the command line, PORTICO_NAME in the
environment, PORTICO_NAME in `.env`, NAME in the environment, NAME in `.env`, the default. A bare NAME is read
only for the settings whose field says so. Names are upper case exactly; an empty value counts as unset.
"""

import io
import os
import re
import stat
from collections import ChainMap
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_origin

import platformdirs
from dotenv.parser import parse_stream
from pydantic import BaseModel, ValidationError

from .mask import masked
from .mistakes import (
    HOMELESS,
    SettingsError,
    explain,
    explain_plugin,
    unknown_options,
    unknown_variables,
)
from .origins import BARE_NAMES, PREFIX, Given, from_options, from_variables, option
from .settings import Settings, accepts, facts
from .values import Token, is_secret_type, token

__all__ = [
    "Loaded",
    "SettingsError",
    "agent_environment",
    "data_dir",
    "describe",
    "here",
    "load",
    "needed",
    "plugin_choice",
    "renumber",
    "secret_options",
    "secret_variables",
    "ziti_environment",
]

_DOTENV = ".env"
_LARGEST_FILE = 1024 * 1024
_ALWAYS_FOR_AGENTS = ("PATH", "LANG", "LC_ALL", "TZ")
_FOR_ZITI = ("PATH", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "ZITI_LOG", "ZITI_TIME_FORMAT")


@dataclass(frozen=True)
class Loaded:
    """`sources`: setting → "default", "environment NAME", ".env NAME" or "option --name".

    `warnings` are lines for the log. `plugin_settings`: those of plugins, by their prefix; in `sources` they are named
    `prefix_field`. `files` are those that values were looked for in.
    """

    settings: Settings
    sources: dict[str, str]
    warnings: list[str]
    plugin_settings: Mapping[str, BaseModel] = field(default_factory=dict)
    files: tuple[Path, ...] = ()


def here() -> tuple[Mapping[str, str], Path]:
    """Return this process's environment and working directory, for `load`. Raises SettingsError if that is gone."""
    try:
        return os.environ, Path.cwd()
    except OSError:
        raise SettingsError(["the folder in which this command was started is gone: start it in another one"]) from None


def load(
    argv_options: Mapping[str, Any],
    environ: Mapping[str, str],
    cwd: Path,
    *,
    plugins: Mapping[str, type[BaseModel]] | None = None,
    lenient: bool = False,
    defaults: Mapping[str, Any] | None = None,
) -> Loaded:
    """The effective settings. `argv_options`: setting → value; None counts as unset. `defaults` replace the usual ones.

    `plugins` are the settings of plugins by their prefix. `lenient`: a variable that nobody knows is only warned of, as
    it may belong to a plugin that is left out. Raises SettingsError with every mistake that there is.
    """
    mistakes: list[str] = []
    warnings: list[str] = []
    plugins = plugins or {}
    names = list(Settings.model_fields)
    names += [f"{prefix}_{name}" for prefix, model in plugins.items() for name in model.model_fields]
    dotenv = _read_dotenv(cwd / _DOTENV, mistakes)
    mistakes += unknown_options(argv_options, names)
    unknown = warnings if lenient else mistakes
    unknown += unknown_variables(environ, names, "")
    unknown += unknown_variables(dotenv, names, f"{_DOTENV}: ")
    origins = _origins(names, argv_options, environ, dotenv)
    usual = {"data_dir": folder} if (folder := _platform_data_dir()) else {}
    known = {**usual, **(defaults or {})}
    origins.append({name: Given(f"{PREFIX}{name.upper()}", "default", value) for name, value in known.items()})
    winners = ChainMap(*origins)
    plugin_settings = _read_plugins(plugins, winners, mistakes)
    values = ChainMap(_prepared(winners, cwd, mistakes, warnings), winners)
    try:
        settings = Settings(**{name: values[name].value for name in Settings.model_fields if name in values})
    except ValidationError as error:
        mistakes += explain(error, winners)
        raise SettingsError(mistakes) from None
    if mistakes:
        raise SettingsError(mistakes)
    sources = {name: winners[name].source if name in winners else "default" for name in names}
    return Loaded(settings, sources, warnings, plugin_settings, _files(winners, cwd))


def plugin_choice(
    argv_options: Mapping[str, Any], environ: Mapping[str, str], cwd: Path
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """`plugins` and `disabled_plugins`, which must be known before it is known what settings there are.

    What is wrong with them is `load`'s to say.
    """
    names = ("plugins", "disabled_plugins")
    winners = ChainMap(*_origins(names, argv_options, environ, _read_dotenv(cwd / _DOTENV, [])))
    plugins, disabled = ([e.strip() for e in str(winners[n].value).split(",")] if n in winners else [] for n in names)
    return tuple(filter(None, plugins)), tuple(filter(None, disabled))


def data_dir(argv_options: Mapping[str, Any], environ: Mapping[str, str], cwd: Path) -> Path | None:
    """The data folder alone, for who needs nothing else: no other setting is looked at, and none is a mistake.

    None if nothing names it, and the user has no home folder.
    """
    winners = ChainMap(*_origins(("data_dir",), argv_options, environ, _read_dotenv(cwd / _DOTENV, [])))
    if "data_dir" in winners:
        return _path(cwd, str(winners["data_dir"].value))
    folder = _platform_data_dir()
    return Path(folder) if folder else None


def needed(data_dir: Path | None) -> Path:
    """The data folder for who can't do without it. Raises SettingsError if there is none."""
    if data_dir is None:
        raise SettingsError([f"{PREFIX}DATA_DIR: {HOMELESS}; accepted: {accepts('data_dir')}"])
    return data_dir


def renumber(former: int) -> None:
    """Take over the variables of a service manager that were meant for the process `former`, which this one was."""
    for name in ("LISTEN_PID", "WATCHDOG_PID"):
        if os.environ.get(name) == str(former):
            os.environ[name] = str(os.getpid())


def describe(loaded: Loaded) -> list[tuple[str, str, str]]:
    """(name, value with secrets masked, source) of every setting."""
    values = {name: getattr(loaded.settings, name) for name in Settings.model_fields}
    for prefix, model in loaded.plugin_settings.items():
        values |= {f"{prefix}_{name}": getattr(model, name) for name in type(model).model_fields}
    return [(name, masked(value), loaded.sources[name]) for name, value in values.items()]


def agent_environment(settings: Settings, environ: Mapping[str, str]) -> dict[str, str]:
    """All that agents get of the server's environment: PATH, language and time zone, and `agent_env`."""
    passed = {name: environ[name] for name in _ALWAYS_FOR_AGENTS if name in environ}
    for variable in settings.agent_env:
        if variable.value is not None:
            passed[variable.name] = variable.value.get_secret_value()
        elif variable.name in environ:
            passed[variable.name] = environ[variable.name]
    return passed


def ziti_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """All that Ziti's library gets of the server's environment."""
    # Not all of ZITI_*: ZITI_PWD is the password of a quickstart's admin, and ZITI_IDENTITIES are loaded on import.
    return {name: environ[name] for name in _FOR_ZITI if name in environ}


def _origins(
    names: Collection[str], options: Mapping[str, Any], environ: Mapping[str, str], dotenv: Mapping[str, str]
) -> list[dict[str, Given]]:
    bare = BARE_NAMES.intersection(names)
    return [
        from_options(options, names),
        from_variables(environ, names, PREFIX, "", "environment"),
        from_variables(dotenv, names, PREFIX, f"{_DOTENV}: ", _DOTENV),
        from_variables(environ, bare, "", "", "environment"),
        from_variables(dotenv, bare, "", f"{_DOTENV}: ", _DOTENV),
    ]


def _read_plugins(
    plugins: Mapping[str, type[BaseModel]], winners: Mapping[str, Given], mistakes: list[str]
) -> dict[str, BaseModel]:
    found = {}
    for prefix, model in plugins.items():
        given = {name: winners[f"{prefix}_{name}"] for name in model.model_fields if f"{prefix}_{name}" in winners}
        values = {name: _entries(model, name, value.value) for name, value in given.items()}
        try:
            found[prefix] = model.model_validate(values)
        except ValidationError as error:
            mistakes += explain_plugin(prefix, model, error, winners)
    return found


def _entries(model: type[BaseModel], name: str, value: Any) -> Any:
    if isinstance(value, str) and get_origin(model.model_fields[name].annotation) in (list, tuple, set, frozenset):
        return [entry.strip() for entry in value.split(",") if entry.strip()]
    return value


def _platform_data_dir() -> str | None:
    """None for a user without a home folder: with a HOME that is no path, or without one and not in the passwd file."""
    if not (os.environ.get("XDG_DATA_HOME") or os.path.isabs(os.environ.get("HOME", "/"))):
        return None
    # This one follows HOME and XDG_DATA_HOME of the process, whatever `environ` load() was given.
    try:
        folder = platformdirs.user_data_dir("portico", appauthor=False)
    except (RuntimeError, KeyError):
        return None
    return folder if os.path.isabs(folder) else None


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
    """Return the values that depend on the file system: paths made absolute, and the contents of each `@FILE`."""
    prepared = {}
    for name in Settings.model_fields:
        given, known = winners.get(name), facts(name)
        if given is None or given.source == "default" or not isinstance(given.value, str):
            continue
        if known.path and given.value != known.no_path:
            prepared[name] = Given(given.label, given.source, str(_path(cwd, given.value)))
        elif file := _file(name, given, cwd):
            value: Any = {} if name in ("mcp_servers", "model_prices") else ()
            try:
                value = _read_tokens(file, given.label, warnings) if name == "auth_tokens" else _read_file(file)
            except (OSError, ValueError) as error:
                # The name of the file stays unsaid: it may be a secret that begins with @.
                mistakes.append(f"{given.label}: the file after @ can't be used: {_why(error)}")
            prepared[name] = Given(given.label, given.source, value)
    return prepared


def _file(name: str, given: Given, cwd: Path) -> Path | None:
    """The file that a value of the form ``@FILE`` stands in."""
    there = facts(name).from_file and isinstance(given.value, str) and given.value.startswith("@")
    return cwd / given.value[1:] if there else None


def _files(winners: Mapping[str, Given], cwd: Path) -> tuple[Path, ...]:
    files = (_file(name, winners[name], cwd) for name in Settings.model_fields if name in winners)
    return (cwd / _DOTENV, *filter(None, files))


def secret_variables(plugins: Mapping[str, type[BaseModel]] | None = None) -> frozenset[str]:
    """The names of all variables in which a setting may stand that must not be shown, those of plugins too."""
    every = _secrets(plugins or {})
    return frozenset({PREFIX + name.upper() for name in every} | {name.upper() for name in every & BARE_NAMES})


def secret_options(plugins: Mapping[str, type[BaseModel]] | None = None) -> frozenset[str]:
    """The same as options of the command line."""
    return frozenset(map(option, _secrets(plugins or {})))


def _secrets(plugins: Mapping[str, type[BaseModel]]) -> set[str]:
    own = {name for name in Settings.model_fields if facts(name).secret}
    fields = ((prefix, name, field) for prefix, model in plugins.items() for name, field in model.model_fields.items())
    return own | {f"{prefix}_{name}" for prefix, name, field in fields if is_secret_type(field.annotation)}


def _read_tokens(path: Path, label: str, warnings: list[str]) -> tuple[str, ...]:
    lines = (re.sub(r"(^|\s)#.*", "", line).strip() for line in _read_file(path).splitlines())
    if not (entries := tuple(filter(None, lines))):
        raise ValueError("there is no token in it")
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o002:
        raise ValueError(
            f"everybody on this machine could put a token of their own in it (mode {mode:04o}); chmod 600 it"
        )
    plain = any("$" not in entry for entry in entries)
    # Not refused: what runs containers mounts secrets so that everybody in the container may read them.
    if mode & (0o077 if plain else 0o022):
        warnings.append(f"{label}: others on this machine can get at {path} (mode {mode:04o}); chmod 600 it")
    if plain:
        warnings.append(f"{label}: there are secrets in {path} that are not hashed; `portico token hash` hashes them")
    return tuple(_hashed(entry) for entry in entries)


def _hashed(entry: str) -> str:
    """``entry`` without its secret; what is wrong with it is the setting's to say."""
    try:
        found: Token = token(entry)
    except ValueError:
        return entry
    return found.line()


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

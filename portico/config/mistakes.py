"""Explanations of wrong settings, one line a mistake: the name as written, the value, and the accepted values."""

import difflib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from .mask import MASK
from .origins import PREFIX, Given, is_set, option
from .settings import accepts, facts
from .values import is_secret_type

# What `portico ask` and `portico chat` read: a shell that has them may start a server too.
CLIENT_VARIABLES = frozenset({"PORTICO_URL", "PORTICO_TOKEN", "PORTICO_CAFILE"})
HOMELESS = "this user has no home folder for the server's data"
_LONGEST_SHOWN = 100


class SettingsError(Exception):
    """The settings can't be used. `lines`: one a mistake, for people, without any secret."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


def unknown_options(options: Mapping[str, Any], names: Collection[str]) -> list[str]:
    known = [option(name) for name in names]
    return [
        f"{_one_line(option(name))}: unknown setting{_did_you_mean(option(name), known)}"
        for name, value in options.items()
        if name not in names and is_set(value)
    ]


def unknown_variables(variables: Mapping[str, str], names: Collection[str], where: str) -> Iterator[str]:
    known = {PREFIX + name.upper() for name in names}
    for variable, value in variables.items():
        # The value stays unsaid: a misspelt name may hold a secret.
        if variable.startswith(PREFIX) and variable not in known | CLIENT_VARIABLES and is_set(value):
            yield f"{where}{_one_line(variable)}: unknown setting{_did_you_mean(variable.upper(), known)}"


def explain(error: ValidationError, winners: Mapping[str, Given]) -> Iterator[str]:
    """The lines for what pydantic refused; `winners` are the values that it was given."""
    for detail in error.errors(include_url=False):
        if detail["type"] == "default_factory_not_called":
            continue  # follows from the mistake in the setting that it is made of
        name, *place = detail["loc"]
        setting = str(name)
        given = winners.get(setting)
        line = given.label if given else PREFIX + setting.upper()
        if given is None:
            pass  # it is missing
        elif facts(setting).secret:
            line += "".join(f" entry {int(index) + 1}" for index in place[:1])
        else:
            line += f"={_shown(detail['input'] if place else given.value)}"
        reason = f"{detail['ctx']['error']}; " if detail["type"] == "value_error" else ""
        if detail["type"] == "missing":  # the data folder, which has a default for whoever has a home
            reason = f"{HOMELESS}; "
        yield f"{line}: {_one_line(reason)}accepted: {accepts(setting)}"


def explain_plugin(
    prefix: str, model: type[BaseModel], error: ValidationError, winners: Mapping[str, Given]
) -> Iterator[str]:
    """The same for the settings of a plugin, which are named ``prefix`` and its field."""
    for detail in error.errors(include_url=False):
        field = str(detail["loc"][0]) if detail["loc"] else ""
        given = winners.get(f"{prefix}_{field}")
        if given is None:
            line = PREFIX + f"{prefix}_{field}".rstrip("_").upper()
        elif is_secret_type(model.model_fields[field].annotation):
            line = given.label
        else:
            line = f"{given.label}={_shown(given.value)}"
        yield f"{line}: {_one_line(detail['msg'])}"


def _shown(value: Any) -> str:
    text = re.sub(r"//.*@", f"//{MASK}@", str(value), flags=re.DOTALL)  # a URL may hold a password
    text = re.sub(r"(https?://[^?#]*[?#]).*", rf"\1{MASK}", text, flags=re.DOTALL)  # or have it in its query
    return _one_line(text)


def _one_line(text: str) -> str:
    text = text if text.isprintable() else repr(text)
    return text if len(text) <= _LONGEST_SHOWN else text[:_LONGEST_SHOWN] + "..."


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name[:_LONGEST_SHOWN], known, n=1)
    return f", did you mean {near[0]}?" if near else ""

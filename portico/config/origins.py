"""The places that values of settings come from, and the names that settings have there."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import create_model
from pydantic_settings import BaseSettings, EnvSettingsSource

from .settings import Settings, facts

PREFIX = "PORTICO_"
BARE_NAMES = frozenset(name for name in Settings.model_fields if facts(name).bare)


@dataclass(frozen=True)
class Given:
    """A value as somebody wrote it. `label` is how they wrote the name, `source` also says where."""

    label: str
    source: str
    value: Any


class Variables(EnvSettingsSource):
    """The variables of one place, read by pydantic-settings; an empty one counts as unset.

    It looks for names in the case that fields have, so the fields that it gets have theirs in upper case.
    """

    def __init__(self, names: Collection[str], variables: Mapping[str, str], prefix: str) -> None:
        fields: dict[str, Any] = {name.upper(): (str, "") for name in names}
        super().__init__(create_model("Names", __base__=BaseSettings, **fields), case_sensitive=True, env_prefix=prefix)
        self.env_vars = {name: value for name, value in variables.items() if is_set(value)}


def from_options(options: Mapping[str, Any], names: Collection[str]) -> dict[str, Given]:
    return {
        name: Given(option(name), f"option {option(name)}", value)
        for name, value in options.items()
        if name in names and is_set(value)
    }


def from_variables(
    variables: Mapping[str, str], names: Collection[str], prefix: str, where: str, source: str
) -> dict[str, Given]:
    found = Variables(names, variables, prefix)()
    return {
        name: Given(f"{where}{prefix}{name.upper()}", f"{source} {prefix}{name.upper()}", found[name.upper()])
        for name in names
        if name.upper() in found
    }


def option(name: str) -> str:
    """Return the spelling of a setting on the command line."""
    return "--" + name.replace("_", "-")


def is_set(value: Any) -> bool:
    return value is not None and value != ""

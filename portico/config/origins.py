"""The places that values of settings come from, and reading them in order with pydantic-settings."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from .settings import Settings, facts

PREFIX = "PORTICO_"
BARE_NAMES = frozenset(name for name in Settings.model_fields if facts(name).bare)


@dataclass(frozen=True)
class Given:
    """A value as somebody wrote it. `label` is how they wrote the name, `source` also says where."""

    label: str
    source: str
    value: Any


class Origin(PydanticBaseSettingsSource):
    """One place that values come from, as pydantic-settings knows it."""

    def __init__(self, given: Mapping[str, Given]) -> None:
        super().__init__(Settings)
        self.given = given

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        return self.given[field_name].value, field_name, False

    def __call__(self) -> dict[str, Any]:
        return {name: given.value for name, given in self.given.items() if name in Settings.model_fields}


def read(origins: Iterable[Mapping[str, Given]]) -> Settings:
    """Settings of the values that stand first. Raises pydantic.ValidationError."""

    class Reader(Settings):
        @classmethod
        def settings_customise_sources(
            cls, settings_cls: type[BaseSettings], *_: Any, **__: Any
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return tuple(Origin(given) for given in origins)

    return Reader()


def from_options(options: Mapping[str, Any], names: Collection[str]) -> dict[str, Given]:
    return {
        name: Given(option(name), f"option {option(name)}", value)
        for name, value in options.items()
        if name in names and is_set(value)
    }


def from_variables(
    variables: Mapping[str, str], names: Collection[str], prefix: str, where: str, source: str
) -> dict[str, Given]:
    by_variable = {prefix + name.upper(): name for name in names}
    return {
        name: Given(where + variable, f"{source} {variable}", variables[variable])
        for variable, name in by_variable.items()
        if is_set(variables.get(variable))
    }


def option(name: str) -> str:
    """How a setting is spelled on the command line."""
    return "--" + name.replace("_", "-")


def is_set(value: Any) -> bool:
    return value is not None and value != ""

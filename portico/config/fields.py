"""The fields that settings are made of. All facts about a setting stand on its field, and are read from there."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, cast, get_args

from pydantic import AfterValidator, Field
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from . import values

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
AbsolutePath = Annotated[Path, AfterValidator(values.absolute)]

_YEAR = 31_536_000


@dataclass(frozen=True, kw_only=True)
class Facts:
    """All about a setting that its type does not say."""

    accepts: str
    """The accepted values, in words."""
    secret: bool = False
    """The value, or a part of it, must not be shown."""
    reloadable: bool = False
    """A running server takes a new value at SIGHUP."""
    bare: bool = False
    """The variable is read without the prefix too."""
    path: bool = False
    """The value is a path, which may be relative to the working directory."""
    no_path: str | None = None
    """The one value of such a setting that is no path."""
    from_file: bool = False
    """The value may be ``@FILE``, a file that holds it."""


class SettingsGroup(BaseSettings):
    """Settings that belong together. A group reads nothing: it takes the values that it is given."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        defer_build=True,
        protected_namespaces=(),  # older versions would refuse `model_prices`
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)


def setting(
    description: str,
    accepts: str,
    default: Any = ...,
    *,
    secret: bool = False,
    reloadable: bool = False,
    bare: bool = False,
    path: bool = False,
    no_path: str | None = None,
    from_file: bool = False,
    **field: Any,
) -> Any:
    """Make the field of a setting. ``field`` is what pydantic's `Field` takes."""
    facts = Facts(
        accepts=accepts,
        secret=secret,
        reloadable=reloadable,
        bare=bare,
        path=path,
        no_path=no_path,
        from_file=from_file,
    )
    if default is not ...:
        field["default"] = default
    return Field(description=description, json_schema_extra=asdict(facts), **field)


def facts_of(field: FieldInfo) -> Facts:
    """Return the facts that `setting` has put on a field."""
    return Facts(**cast(dict[str, Any], field.json_schema_extra))


def whole_number(description: str, default: int | None, least: int, most: int, **field: Any) -> Any:
    accepts = f"a whole number from {least} to {most}"
    return setting(description, accepts, default, ge=least, le=most, **field)


def number(description: str, default: float | None, unit: str, most: int, **field: Any) -> Any:
    accepts = f"a number of {unit} above 0, at most {most}"
    return setting(description, accepts, default, gt=0, le=most, **field)


def seconds(description: str, default: float, *, zero: bool = False, **field: Any) -> Any:
    """``zero``: 0 is accepted too."""
    if zero:
        return setting(description, f"a number of seconds from 0 to {_YEAR}", default, ge=0, le=_YEAR, **field)
    return number(description, default, "seconds", _YEAR, **field)


def size(description: str, default: int) -> Any:
    accepts = "a size from 1KiB to 1GiB, such as 1048576, 512KiB or 32MiB"
    return setting(description, accepts, default, ge=1024, le=1024**3)


def one_of(description: str, literal: object, default: str) -> Any:
    """Make the field of a setting that takes one of the words of a `Literal`."""
    return setting(description, ", ".join(get_args(literal)), default)


def made_of(function: Callable[[dict[str, Any]], Any]) -> Callable[[], Any]:
    """Return the default factory that makes a value of those of the settings before it."""
    return cast(Callable[[], Any], function)

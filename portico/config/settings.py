"""The settings of the server. `load` finds their values; there is no I/O here.

A setting that is not built is not here, and so is refused as unknown. All about a setting stands on its field, in the
group that it belongs to.
"""

from .fields import Facts, facts_of
from .model_settings import ModelSettings
from .network_settings import NetworkSettings
from .server_settings import ServerSettings
from .session_settings import PermissionMode, SessionSettings, SettingSource

__all__ = ["PermissionMode", "SettingSource", "Settings", "accepts", "facts"]


# Pydantic puts the fields of the last base first.
class Settings(NetworkSettings, ServerSettings, SessionSettings, ModelSettings):
    """The server's settings, checked. Built by hand it takes what it is given and reads nothing.

    A wrong value raises pydantic.ValidationError, whose text does not hold the value.
    """


def facts(name: str) -> Facts:
    """Return all that is known of a setting beside its type and its default."""
    return facts_of(Settings.model_fields[name])


def accepts(name: str) -> str:
    """Return in words what the setting accepts, for error lines and ``--help``."""
    return facts(name).accepts

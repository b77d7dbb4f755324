"""What a plugin's factory is given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from portico.config.settings import Settings
    from portico.core.principal import Authenticator


@dataclass(frozen=True, slots=True)
class Context:
    """The server that a plugin finds itself in.

    ``agent_environment`` is what agents may have of the server's environment. ``authenticators`` are asked in order;
    it is empty while authenticators themselves are being made.
    """

    settings: Settings
    data_dir: Path
    agent_environment: Mapping[str, str] = field(default_factory=dict)
    authenticators: tuple[Authenticator, ...] = ()

    def with_authenticators(self, *authenticators: Authenticator) -> Context:
        return replace(self, authenticators=authenticators)

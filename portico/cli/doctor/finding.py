"""The result of a check, and what a check may look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from portico.config.load import Loaded
from portico.config.settings import Settings
from portico.core.agent import needs_credentials
from portico.plugins.context import Context
from portico.plugins.manager import Plugin
from portico.plugins.registry import Registry

State = Literal["ok", "warning", "failure"]


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of a check. ``failure``: `portico serve` would not start, or no session could open. ``fix`` says what
    to do.
    """

    state: State
    text: str
    fix: str | None = None


@dataclass(frozen=True)
class Place:
    """The environment of `portico serve`: everything it would be started with. Checks change nothing in it."""

    loaded: Loaded
    registry: Registry
    plugins: Sequence[Plugin]
    agent_environment: Mapping[str, str]

    @property
    def settings(self) -> Settings:
        return self.loaded.settings

    @property
    def context(self) -> Context:
        return Context(
            self.settings,
            self.settings.data_dir,
            self.agent_environment,
            dict(self.loaded.plugin_settings),
            settings_files=self.loaded.files,
        )

    @cached_property  # it makes every driver
    def needs_credentials(self) -> bool:
        """Tell whether sessions run the `claude` program, which asks the model API."""
        return any(map(self._needs_credentials, self.settings.driver))

    def _needs_credentials(self, name: str) -> bool:
        try:
            return needs_credentials(self.registry.driver(name)(self.context))
        except Exception:  # another check reports the error
            return False


def ok(text: str) -> Finding:
    return Finding("ok", text)


def warning(text: str, fix: str | None = None) -> Finding:
    return Finding("warning", text, fix)


def failure(text: str, fix: str | None = None) -> Finding:
    return Finding("failure", text, fix)

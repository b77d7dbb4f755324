"""The drivers of an engine, by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from portico.core.agent import AgentDriver
from portico.core.errors import InvalidRequest, PorticoError, Unavailable
from portico.core.guard import GuardedDriver
from portico.core.store import SessionRecord


class Drivers:
    """The drivers by name. A driver whose check fails is in ``failed``, with the reason, until a check succeeds."""

    def __init__(self, drivers: Mapping[str, AgentDriver], default: str, failed: dict[str, str]) -> None:
        self.default_name = default
        self._drivers = {name: GuardedDriver(name, driver) for name, driver in drivers.items()}
        self._failed = failed

    def __contains__(self, name: object) -> bool:
        return name in self._drivers

    def __iter__(self) -> Iterator[AgentDriver]:
        return iter(self._drivers.values())

    @property
    def default(self) -> AgentDriver:
        return self._drivers[self.default_name]

    def named(self, name: str | None) -> AgentDriver:
        """Return the driver of this name (None: the default). Raises `InvalidRequest` (``unknown_driver``)."""
        name = name or self.default_name
        if name not in self._drivers:
            known = ", ".join(self._drivers)
            raise InvalidRequest(f"there is no driver {name!r}; there are: {known}", code="unknown_driver")
        return self._drivers[name]

    def of(self, record: SessionRecord) -> AgentDriver:
        """Return the driver of a session. Raises `Unavailable` (``driver_not_loaded``)."""
        if record.driver not in self._drivers:
            raise Unavailable(f"the session's driver {record.driver!r} is not loaded", code="driver_not_loaded")
        return self._drivers[record.driver]

    async def check(self, name: str | None) -> None:
        """Do as `Engine.check_driver`."""
        driver = self.named(name)
        part = f"driver {driver.name}"
        try:
            await driver.check()
        except PorticoError as problem:
            self._failed[part] = problem.detail
            raise
        self._failed.pop(part, None)

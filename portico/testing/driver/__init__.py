"""The requirements on every driver, as a class of tests.

class TestMyDriver(DriverConformance):
    def create(self, folder: Path) -> AgentDriver:
        return MyDriver(folder / "agents")

    def says(self, text: str) -> Content:
        return f"Say exactly this: {text}"

    def endless(self) -> Content:
        return "Count, and never stop."
"""

from __future__ import annotations

from portico.testing.driver.ability_tests import AbilityTests
from portico.testing.driver.driver_harness import CAPABILITIES, OPTIONS, WORDS, Stage
from portico.testing.driver.ending_tests import EndingTests
from portico.testing.driver.lasting_tests import LastingTests
from portico.testing.driver.outcomes import ended, text_of
from portico.testing.driver.permission_tests import PermissionTests
from portico.testing.driver.steering_tests import SteeringTests
from portico.testing.driver.turn_tests import TurnTests

__all__ = [
    "CAPABILITIES",
    "OPTIONS",
    "WORDS",
    "DriverConformance",
    "Stage",
    "ended",
    "text_of",
]


class DriverConformance(TurnTests, SteeringTests, PermissionTests, EndingTests, LastingTests, AbilityTests):
    """Subclass it, and say how the driver is made, and what makes its agents do things.

    Rules for what the driver's ``capabilities`` do not name are skipped. Needs pytest and anyio's plugin for it, which
    comes with anyio. What a driver needs around it (a server for its model ...) may be a fixture of the subclass, with
    ``autouse=True``.
    """

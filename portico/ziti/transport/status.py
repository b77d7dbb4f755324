"""The status of the transport, for logs and ``/readyz``."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

PROBE_FAILURES = ("crashed", "hung", "refused")


@dataclass(slots=True)
class Status:
    """``state`` is starting, loading, binding, bound or waiting; ``reason`` is why it waits, ``seconds`` how long.

    ``bound``: each of the ``services`` had its try. ``refused`` are those that are not bound, with the reasons.
    ``reached`` tells of each service that was probed whether it was reached. The rest are counts since the start of the
    server; ``probe_failures`` are those of the probes themselves, by kind.
    """

    services: tuple[str, ...] = ()
    state: str = "starting"
    reason: str = ""
    seconds: float = 0.0
    bound: set[str] = field(default_factory=set)
    refused: dict[str, str] = field(default_factory=dict)
    reached: dict[str, bool] = field(default_factory=dict)
    starts: int = 0
    failures: int = 0
    connections: int = 0
    refusals: Counter[str] = field(default_factory=Counter)
    probe_failures: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(PROBE_FAILURES, 0)))

    def trouble(self) -> str | None:
        """Return the reason why not all services are bound; None if they are."""
        match self.state:
            case "bound":
                missing = [service for service in self.services if service not in self.bound]
                reasons = [self.refused.get(service) or f"the service {service}: not yet" for service in missing]
                return f"not bound: {'; '.join(reasons)}; it is tried again and again" if reasons else None
            case "waiting":
                return f"not bound: {self.reason}; the next try comes within {self.seconds:.0f} s"
        again = f"; before that: {self.reason}" if self.reason else ""
        return f"not bound yet: {self.state}{again}"

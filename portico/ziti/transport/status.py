"""The status of the transport, for logs and ``/readyz``."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Status:
    """``state`` is starting, loading, binding, bound or waiting; ``reason`` is why it waits, ``seconds`` how long.

    ``refused`` are the services that could not be bound while others are, with the reasons. The rest are counts since
    the start of the server.
    """

    state: str = "starting"
    reason: str = ""
    seconds: float = 0.0
    bound: set[str] = field(default_factory=set)
    refused: dict[str, str] = field(default_factory=dict)
    starts: int = 0
    failures: int = 0
    connections: int = 0

    def trouble(self) -> str | None:
        """Return the reason why not all services are bound; None if they are."""
        match self.state:
            case "bound" if not self.refused:
                return None
            case "bound":
                return "not bound: " + "; ".join(self.refused.values())
            case "waiting":
                return f"not bound: {self.reason}; the next try comes within {self.seconds:.0f} s"
        again = f"; before that: {self.reason}" if self.reason else ""
        return f"not bound yet: {self.state}{again}"

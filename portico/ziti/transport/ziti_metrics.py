"""The metrics of the transport."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from weakref import WeakSet

from portico.metrics.collectors import Reading
from portico.ziti.transport.status import Status


class Open:
    """The open connections. Their owners close them without reporting it."""

    def __init__(self, services: Sequence[str]) -> None:
        self._sockets: dict[str, WeakSet[socket.socket]] = {service: WeakSet() for service in services}

    def add(self, service: str, connection: socket.socket) -> None:
        self._sockets[service].add(connection)

    def count(self, service: str) -> int:
        return sum(each.fileno() >= 0 for each in self._sockets[service])


def ziti_families(services: Sequence[str], status: Status, connections: Open) -> Sequence[Reading]:
    return [
        Reading(
            "portico_ziti_bound",
            "1 if a service is bound, else 0.",
            "service",
            read=lambda: {(name,): name in status.bound for name in services},
        ),
        Reading(
            "portico_ziti_refusals_total",
            "Times that a service could not be bound, or was lost.",
            "service",
            kind="counter",
            read=lambda: {(name,): status.refusals[name] for name in services},
        ),
        Reading(
            "portico_ziti_reached",
            "1 if the last probe has reached a service, 0 if not.",
            "service",
            read=lambda: {(name,): reached for name, reached in status.reached.items()},
        ),
        Reading(
            "portico_ziti_probe_failures_total",
            "Probes that have failed themselves, which says nothing about a service.",
            "reason",
            kind="counter",
            read=lambda: {(reason,): count for reason, count in status.probe_failures.items()},
        ),
        Reading(
            "portico_ziti_connections",
            "Open connections.",
            "service",
            read=lambda: {(name,): connections.count(name) for name in services},
        ),
        Reading(
            "portico_ziti_connections_accepted_total",
            "Connections that came in.",
            kind="counter",
            read=lambda: {(): status.connections},
        ),
        Reading(
            "portico_ziti_listener_up",
            "1 if the listener process has bound all services that it can, else 0.",
            read=lambda: {(): status.state == "bound"},
        ),
        Reading(
            "portico_ziti_listener_restarts_total",
            "Starts of the listener process after its first.",
            kind="counter",
            read=lambda: {(): max(0, status.starts - 1)},
        ),
    ]

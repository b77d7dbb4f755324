"""The requirements on every transport, as a class of tests.

class TestMyTransport(TransportConformance):
    def create(self, context: Context) -> Transport:
        return MyTransport(context)

    def connect(self, address: str, secret: str | None) -> AbstractAsyncContextManager[TransportClient]:
        return my_client(address, secret)
"""

from __future__ import annotations

from portico.testing.transport.absence_tests import AbsenceTests
from portico.testing.transport.request_tests import RequestTests
from portico.testing.transport.serving_tests import ServingTests
from portico.testing.transport.stopping_tests import StoppingTests
from portico.testing.transport.transport_client import (
    ALICE,
    BOB,
    FLOOD,
    GARBAGE,
    HUGE,
    KNOWN,
    ROOT,
    STEP,
    STRANGE,
    Refused,
    TransportClient,
)

__all__ = [
    "ALICE",
    "BOB",
    "FLOOD",
    "GARBAGE",
    "HUGE",
    "KNOWN",
    "ROOT",
    "STEP",
    "STRANGE",
    "Refused",
    "TransportClient",
    "TransportConformance",
]


class TransportConformance(ServingTests, AbsenceTests, RequestTests, StoppingTests):
    """Subclass it; say in `create` how the transport is made, and in `connect` how a client of it is.

    Needs pytest, and anyio's plugin for it, which comes with anyio. The transport runs before a real engine.
    """

"""For the tests of plugins: suites that a transport, a driver, a store and an authenticator must pass, and a server
around them. Needs pytest (the extra ``testing``)."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest

pytest.register_assert_rewrite(
    *(f"{__name__}.{name}" for name in ("authenticator", "driver", "event_shapes", "following", "store", "transport"))
)

if TYPE_CHECKING:
    from portico.testing.authenticator import AuthenticatorConformance
    from portico.testing.driver import DriverConformance
    from portico.testing.engine import scripted_engine
    from portico.testing.scripted import ScriptedDriver
    from portico.testing.served_model import ServedModel, serve_model
    from portico.testing.store import StoreConformance
    from portico.testing.transport import Refused, TransportClient, TransportConformance

__all__ = [
    "AuthenticatorConformance",
    "DriverConformance",
    "Refused",
    "ScriptedDriver",
    "ServedModel",
    "StoreConformance",
    "TransportClient",
    "TransportConformance",
    "scripted_engine",
    "serve_model",
]

_FROM = {
    "authenticator": "AuthenticatorConformance",
    "driver": "DriverConformance",
    "engine": "scripted_engine",
    "served_model": "ServedModel serve_model",
    "scripted": "ScriptedDriver",
    "store": "StoreConformance",
    "transport": "Refused TransportClient TransportConformance",
}
_MODULES = {name: f"{__name__}.{module}" for module, names in _FROM.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)

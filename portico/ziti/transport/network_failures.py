"""The failures on a Ziti network in words, and which of them last until somebody fixes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from portico.ziti.native.library_process import ending

_LOAD = {
    "identity": "Ziti's library does not take the identity for one: enroll it again",
    "authentication": "the controller does not know the identity (any more): enroll it again",
    "controller": "the controller can't be reached",
    "router": "no router can be reached",
}
_BIND = {
    "service": "the network has no such service, or this identity may not use it: create it, and a service policy of "
    "the type Bind",
    "permission": "this identity may not Bind it: create a service policy of the type Bind",
    "router": "no router can be reached",
}
_DIAL = {
    "service": "this identity may not dial it",
    "permission": "this identity may not dial it",
}
NEVER_SAID = "the listener has sent an invalid message"
_LASTING = ("identity", "authentication", "service", "permission")


class ListenerFailed(Exception):
    """The reason for the listener's end, in words. ``lasting``: no later try can succeed until somebody fixes it."""

    def __init__(self, words: str, *, lasting: bool = False) -> None:
        super().__init__(words)
        self.lasting = lasting


def refused(message: Mapping[str, Any]) -> ListenerFailed:
    """Make the error for a service that could not be bound."""
    kind = str(message.get("kind"))
    if message.get("hung"):
        words = f"binding it has hung ({message.get('text')}): perhaps it may use no router"
    else:
        words = _BIND.get(kind) or f"it can't be bound: {message.get('text')}"
    return ListenerFailed(f"the service {message.get('service')}: {words}", lasting=kind in _LASTING)


def lost(service: object, text: object) -> str:
    """Return the words for a service that was bound, and is no longer."""
    return f"the binding of the service {service} is lost: {text}"


def unprobed(message: Mapping[str, Any]) -> str:
    """Return the reason why this identity can't dial a service."""
    return _DIAL.get(str(message.get("kind"))) or str(message.get("text"))


def failed(message: Mapping[str, Any]) -> ListenerFailed:
    """Make the error for the listener's last message."""
    step, service, text, kind = (message.get(name) for name in ("step", "service", "text", "kind"))
    match step:
        case "import":
            return ListenerFailed(
                f"the package openziti can't be loaded ({text}): pip install 'portico-server[ziti]'", lasting=True
            )
        case "load" if message.get("hung"):
            return ListenerFailed(
                f"loading the identity has hung ({text}): the controller does not answer, or the identity may see no "
                "service"
            )
        case "load":
            words = _LOAD.get(str(kind)) or f"the identity can't be loaded: {text}"
            return ListenerFailed(words, lasting=kind in _LASTING)
        case "bind":
            return ListenerFailed(f"binding the service {service} has hung ({text}): perhaps no router can be reached")
        case "lost":
            return ListenerFailed(lost(service, text))
        case "spin":
            return ListenerFailed(f"Ziti's library was spinning: {text}")
    return ListenerFailed(f"the listener has failed: {text}")


def ended(status: int, last_words: str) -> ListenerFailed:
    """Make the error for a listener that has ended without a last message."""
    return ListenerFailed(ending(status) + (f"; it had said: {last_words}" if last_words else ""))

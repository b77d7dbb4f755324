"""The plan of what a network needs for a server, made from the command line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

NAME = r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}"
"""Names of identities, services, principals and role attributes: they must fit a Host header and a file's name."""


@dataclass(frozen=True, slots=True)
class Service:
    """A service. ``entry`` is its value in `ziti_service_name`. ``diallers`` are identities, or #ATTRIBUTE for all that
    have it."""

    name: str
    entry: str
    diallers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """The plan. ``server`` is the identity that binds the services."""

    server: str
    services: tuple[Service, ...]

    @property
    def diallers(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(who for service in self.services for who in service.diallers))


def make_plan(
    server: str, services: Sequence[str], diallers: Sequence[str], persons: Sequence[str], groups: Sequence[str]
) -> Plan:
    """Make a plan. Raises ValueError, whose text is for people.

    ``services`` are NAME[=PRINCIPAL[:admin]]; ``diallers`` are [SERVICE=]IDENTITY or [SERVICE=]#ATTRIBUTE; ``persons``
    and ``groups`` are NAME[:admin], and get the service portico-NAME.
    """
    _check(server, NAME, "--identity", "a name")
    found: dict[str, tuple[str, list[str]]] = {}

    def add(option: str, name: str, entry: str, *who: str) -> None:
        if name in found:
            raise ValueError(f"{option}: there is a service {name} already")
        found[name] = (entry, list(who))

    for text in services:
        _check(text, rf"{NAME}(={NAME}(:admin)?)?", "--service", "NAME, NAME=PRINCIPAL or NAME=PRINCIPAL:admin")
        add("--service", text.partition("=")[0], text)
    for option, mark, texts in (("--person", "", persons), ("--group", "#", groups)):
        for text in texts:
            _check(text, rf"{NAME}(:admin)?", option, "NAME or NAME:admin")
            name = text.removesuffix(":admin")
            add(option, f"portico-{name}", f"portico-{name}={text}", mark + name)
    if not found:
        raise ValueError("there is nothing to set up: give --person, --group or --service")
    for text in diallers:
        _check(text, rf"({NAME}=)?#?{NAME}", "--dialler", "[SERVICE=]IDENTITY or [SERVICE=]#ATTRIBUTE")
        service, equals, who = text.rpartition("=")
        if not equals and len(found) > 1:
            raise ValueError(f"--dialler: there are several services; write SERVICE={who}")
        service = service or next(iter(found))
        if service not in found:
            raise ValueError(f"--dialler: {service} is none of the services given")
        found[service][1].append(who)
    return Plan(server, tuple(Service(name, entry, tuple(who)) for name, (entry, who) in found.items()))


def _check(text: str, form: str, option: str, words: str) -> None:
    if not re.fullmatch(form, text):
        letters = "names are 1 to 64 letters, digits, dots, underscores, hyphens and @, a letter or digit first"
        raise ValueError(f"{option}: {text!r} is not {words}; {letters}")

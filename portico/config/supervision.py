"""The variables with which a service manager starts a server: systemd, or another that speaks its protocol."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from .mistakes import SettingsError

_FIRST_DESCRIPTOR = 3  # sd_listen_fds(3)
_MOST_DESCRIPTORS = 1024


@dataclass(frozen=True)
class Supervision:
    """The news of a service manager for this process.

    `notify` is the address of the datagram socket for news of this server; one that begins with a NUL is an abstract
    one. `watchdog` is the number of seconds within which the manager wants a sign of life. `descriptors` are the
    sockets that it has opened for the server, each with its name.
    """

    notify: str | None = None
    watchdog: float | None = None
    descriptors: tuple[tuple[int, str], ...] = ()


def supervision(environ: Mapping[str, str], pid: int) -> Supervision:
    """Read the variables that are meant for the process `pid`. Raises SettingsError for a value of another form.

    See sd_notify(3), sd_watchdog_enabled(3) and sd_listen_fds(3).
    """
    notify = environ.get("NOTIFY_SOCKET") or None
    if notify is not None and notify[0] not in "/@":
        notify = None  # such as vsock: of a virtual machine, whose own manager would be the one to hear this
    elif notify is not None and notify[0] == "@":
        notify = "\0" + notify[1:]
    watchdog = None
    if environ.get("WATCHDOG_USEC") and environ.get("WATCHDOG_PID", str(pid)) == str(pid):
        watchdog = _number(environ, "WATCHDOG_USEC", 1, 10**15) / 1_000_000
    return Supervision(notify, watchdog, _descriptors(environ, pid))


def _descriptors(environ: Mapping[str, str], pid: int) -> tuple[tuple[int, str], ...]:
    # They are inherited by every child, so the pid alone says who is meant.
    if not environ.get("LISTEN_FDS") or environ.get("LISTEN_PID") != str(pid):
        return ()
    count = _number(environ, "LISTEN_FDS", 0, _MOST_DESCRIPTORS)
    names = environ.get("LISTEN_FDNAMES", "").split(":")
    names += ["unknown"] * (count - len(names))
    return tuple((_FIRST_DESCRIPTOR + place, names[place] or "unknown") for place in range(count))


def _number(environ: Mapping[str, str], name: str, least: int, most: int) -> int:
    if not re.fullmatch("[0-9]{1,16}", environ[name]) or not least <= int(environ[name]) <= most:
        raise SettingsError([f"{name}: it is not what a service manager sets; accepted: a number up to {most}"])
    return int(environ[name])

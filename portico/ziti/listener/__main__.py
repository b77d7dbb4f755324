"""``python -m portico.ziti.listener DESCRIPTOR PARENT``: its end of the socket pair, and the pid of its parent."""

from __future__ import annotations

import os
import signal
import sys

from portico.ziti.listener.listener import Listener
from portico.ziti.listener.listener_control import ListenerControl


def main(descriptor: int, parent: int) -> None:
    # A service manager or terminal signals all processes, but connections must work until the server has ended them.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    control = ListenerControl(descriptor, parent)
    if (task := control.receive_task()) is not None:
        try:
            Listener(control, task).run()
        except ConnectionError:
            os._exit(0)  # the server has gone


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

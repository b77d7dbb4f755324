"""``python -m portico.client.dialler FD IDENTITY``: dials Ziti services for a client, which never loads libziti.

Messages out, once: ``{}`` when the identity is loaded, or ``{"failed": TEXT}``; then in: ``{"dial": NUMBER, "service":
NAME}``, and for each out: ``{"dialled": NUMBER}`` with the connection, or ``{"dialled": NUMBER, "failed": TEXT}``.
"""

from __future__ import annotations

import sys

from portico.ziti.control import Control
from portico.ziti.library import Library, LibraryFailed
from portico.ziti.limits import LOAD_SECONDS


def main(fd: int, identity: str) -> None:
    control = Control(fd)
    try:
        library = Library()
        library.load(identity, LOAD_SECONDS)
    except LibraryFailed as error:
        control.send({"failed": str(error)})
        control.receive()  # its end is the parent's to bring about
        return
    control.send({})
    while True:
        request = control.receive()
        answer = {"dialled": request["dial"]}
        try:
            with library.dial(request["service"]) as connection:
                control.send(answer, passing=connection.fileno())
        except LibraryFailed as error:
            control.send({**answer, "failed": str(error)})


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])

"""``python -m portico.ziti.dialling_process FD PARENT IDENTITY``: dials Ziti services for a client.

The client itself never loads libziti.

It first sends one message: ``{}`` when the identity is loaded, or ``{"failed": TEXT}``. Then it receives messages
``{"dial": NUMBER, "service": NAME}``, and answers each with ``{"dialled": NUMBER}`` and the connection, or with
``{"dialled": NUMBER, "failed": TEXT}``.
"""

from __future__ import annotations

import sys

from portico.ziti.native import descriptors
from portico.ziti.native.child_control import ChildControl
from portico.ziti.native.library import Library, LibraryError
from portico.ziti.native.limits import LOAD_SECONDS


def main(fd: int, parent: int, identity: str) -> None:
    control = ChildControl(fd, parent)
    control.end_with_parent()
    try:
        library = Library()
        library.load(identity, LOAD_SECONDS)
    except LibraryError as error:
        control.send({"failed": error.words})
        control.receive()  # wait for the parent to end us
        return
    control.send({})
    while (request := control.receive()) is not None:
        answer = {"dialled": request["dial"]}
        try:
            with library.dial(request["service"]) as connection:
                descriptors.hurry()  # 1.x leaves Nagle's algorithm on towards its routers: 42 ms a request
                control.send(answer, passing=connection.fileno())
        except LibraryError as error:
            control.send({**answer, "failed": error.words})


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])

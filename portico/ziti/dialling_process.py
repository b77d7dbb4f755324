"""``python -m portico.ziti.dialling_process FD PARENT IDENTITY``: dials Ziti services for a client, or for a probe.

The client itself never loads libziti; the listener does, but a dial there has crashed it.

It first sends one message: ``{}`` when the identity is loaded, or a refusal. Then it receives messages ``{"dial":
NUMBER, "service": NAME}``, and answers each with ``{"dialled": NUMBER}`` and the connection, or together with a
refusal. With ``"ask": PATH`` it sends a request instead, and answers with ``{"dialled": NUMBER}`` once something comes
back. A refusal is ``{"failed": TEXT, "kind": KIND, "said": TEXT OF THE LIBRARY}``.
"""

from __future__ import annotations

import socket
import sys

from portico.ziti.native import descriptors
from portico.ziti.native.child_control import ChildControl, Message
from portico.ziti.native.library import Library, LibraryError
from portico.ziti.native.limits import ANSWER_SECONDS, LOAD_SECONDS


def main(fd: int, parent: int, identity: str) -> None:
    control = ChildControl(fd, parent)
    control.end_with_parent()
    try:
        library = Library()
        library.load(identity, LOAD_SECONDS)
    except LibraryError as error:
        control.send(_refusal(error))
        control.receive()  # wait for the parent to end us
        return
    control.send({})
    while (request := control.receive()) is not None:
        answer = {"dialled": request["dial"]}
        try:
            with library.dial(request["service"]) as connection:
                descriptors.hurry()  # 1.x leaves Nagle's algorithm on towards its routers: 42 ms a request
                if (path := request.get("ask")) is None:
                    control.send(answer, passing=connection.fileno())
                else:
                    _ask(connection, path)
                    control.send(answer)
        except LibraryError as error:
            control.send({**answer, **_refusal(error)})


def _ask(connection: socket.socket, path: str) -> None:
    """Send a request. Raises `LibraryError` if no answer comes."""
    try:
        connection.settimeout(ANSWER_SECONDS)
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        answered = connection.recv(1)
    except OSError as error:
        raise LibraryError(error.errno, f"dialled, it does not answer ({error})") from error
    if not answered:
        raise LibraryError(None, "dialled, it closes without an answer")


def _refusal(error: LibraryError) -> Message:
    return {"failed": error.words, "kind": error.kind, "said": error.text}


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])

"""One end of a Ziti service, as a program: `peer.py echo IDENTITY SERVICE` or `peer.py ask IDENTITY SERVICE TEXT`.

The library is loaded here only: it may hang or crash, and what it has opened is closed by the end of the process.
"""

from __future__ import annotations

import sys
from typing import Any

import openziti  # type: ignore[import-untyped,unused-ignore]


def load(identity: str) -> Any:
    loaded = openziti.load(identity)
    return loaded[0] if isinstance(loaded, tuple) else loaded  # 1.x: with an error code


def echo(identity: str, service: str) -> None:
    """Says "bound", then sends one message back to everyone who dials, after the caller's name."""
    bound = load(identity).bind(service)
    bound.listen(2**31 - 1)  # 0.6.0 takes the backlog for a number of connections in all
    print("bound", flush=True)
    while True:
        connection, (caller, _) = bound.accept()
        connection.sendall(f"{caller}: ".encode() + connection.recv(1024))
        connection.close()


def ask(identity: str, service: str, text: str) -> None:
    """Prints what comes back."""
    library, context = openziti.zitilib, load(identity)
    with openziti.socket() as connection:
        # The context's own connect raises TypeError in 0.6.0, whatever it is given.
        if library._ziti_connect(connection.fileno(), context._ctx, service.encode(), None):
            library.check_error(-1)
        connection.sendall(text.encode())
        print(connection.recv(1024).decode(), flush=True)


if sys.argv[1] == "echo":
    echo(*sys.argv[2:])
else:
    ask(*sys.argv[2:])

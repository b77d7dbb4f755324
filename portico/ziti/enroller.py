"""``python -m portico.ziti.enroller FD``: trades an enrolment token for an identity, in a process of its own.

One message in, ``{"token": JWT}``, and one out: ``{"identity": JSON TEXT}`` or ``{"failed": TEXT}``.
"""

from __future__ import annotations

import sys

from portico.ziti.control import Control
from portico.ziti.library import Library, LibraryFailed


def main(fd: int) -> None:
    control = Control(fd)
    token = control.receive()["token"]
    try:
        control.send({"identity": Library().enroll(token)})
    except LibraryFailed as error:
        control.send({"failed": str(error)})
    control.receive()  # its end is the parent's to bring about


if __name__ == "__main__":
    main(int(sys.argv[1]))

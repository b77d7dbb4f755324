"""``python -m portico.ziti.setup.enroller FD PARENT``: trades an enrolment token for an identity.

It receives one message, ``{"token": JWT}``, and sends one: ``{"identity": JSON TEXT}`` or ``{"failed": TEXT}``.
"""

from __future__ import annotations

import sys

from portico.ziti.native.child_control import ChildControl
from portico.ziti.native.library import Library, LibraryError


def main(fd: int, parent: int) -> None:
    control = ChildControl(fd, parent)
    control.end_with_parent()
    if (asked := control.receive()) is None:
        return
    try:
        control.send({"identity": Library().enroll(asked["token"])})
    except LibraryError as error:
        control.send({"failed": error.words})
    control.receive()  # wait for the parent to end us


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

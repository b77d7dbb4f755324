from __future__ import annotations

import os
import socket
import sys

import pytest

from portico.ziti.native import descriptors
from tests.support.limits import HANG_SECONDS

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it looks into /proc")


def test_of_a_socket_with_two_descriptors_one_is_left_and_closing_it_is_seen() -> None:
    near, far = socket.socketpair()
    with near, far:
        twin = os.dup(near.fileno())
        descriptors.close_twins(near.fileno())
        with pytest.raises(OSError):
            os.fstat(twin)
        far.sendall(b"x")
        assert near.recv(1) == b"x"
        near.close()
        far.settimeout(HANG_SECONDS)
        assert far.recv(1) == b""


def test_tcp_connections_are_hurried_and_their_bytes_counted() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        with server.accept()[0] as other:
            before = descriptors.hurry()
            assert client.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            client.sendall(b"x" * 10_000)
            assert len(other.recv(10_000, socket.MSG_WAITALL)) == 10_000
            assert descriptors.hurry() - before >= 20_000  # here both ends are ours


def test_what_is_under_way_is_seen() -> None:
    before = descriptors.under_way()
    near, far = socket.socketpair()
    with near, far:
        near.sendall(b"x" * 1000)
        assert descriptors.under_way() == before + 1000
        near.close()
        assert descriptors.under_way() == before + 1000
        far.recv(2000)
        assert descriptors.under_way() == before

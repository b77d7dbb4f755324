import os
import shutil
import socket
import stat
from pathlib import Path
from typing import Any

import pytest

from portico.transports.base import TransportFailed
from portico.transports.listen import SocketAccess, listen_tcp, listen_unix
from tests.support.serving import serving
from tests.support.sse import events
from tests.support.users import STRANGER, needs_root

pytestmark = pytest.mark.anyio


async def test_a_free_port_is_named_in_the_address() -> None:
    (listener,), address = await listen_tcp("127.0.0.1", 0)
    with listener:
        assert address == f"http://127.0.0.1:{listener.getsockname()[1]}"
        assert listener.proto == socket.IPPROTO_TCP  # else Nagle's algorithm stays on


async def test_all_addresses_of_a_name_share_a_port() -> None:
    sockets, address = await listen_tcp("localhost", 0)
    assert {listener.getsockname()[1] for listener in sockets} == {int(address.rpartition(":")[2])}
    for listener in sockets:
        listener.close()


@pytest.mark.skipif(not socket.has_ipv6 or not os.path.exists("/proc/net/if_inet6"), reason="no IPv6 here")
async def test_an_ipv6_address_stands_in_brackets() -> None:
    (listener,), address = await listen_tcp("::1", 0)
    with listener:
        assert address == f"http://[::1]:{listener.getsockname()[1]}"


async def test_a_port_in_use_is_said() -> None:
    (taken,), _ = await listen_tcp("127.0.0.1", 0)
    port = taken.getsockname()[1]
    with taken, pytest.raises(TransportFailed) as caught:
        await listen_tcp("127.0.0.1", port)
    assert caught.value.detail == f"cannot listen on 127.0.0.1:{port}: the address is in use"


@pytest.mark.parametrize(
    ("host", "reason"),
    [("192.0.2.1", "this machine has no such address"), ("no-such-host.invalid", "the name is not known")],
)
async def test_an_address_that_is_not_ours_is_said(host: str, reason: str) -> None:
    with pytest.raises(TransportFailed, match=reason):
        await listen_tcp(host, 0)


@pytest.mark.parametrize("umask", [0, 0o777])
def test_a_unix_socket_is_for_its_group_whatever_the_umask_and_goes_away(tmp_path: Path, umask: int) -> None:
    path = tmp_path / "s.sock"
    before = os.umask(umask)
    try:
        with listen_unix(path):
            assert (stat.S_IMODE(path.stat().st_mode), path.stat().st_gid) == (0o660, os.getegid())
        with listen_unix(path, SocketAccess(0o600)):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
    finally:
        os.umask(before)
    assert not path.exists()


@needs_root
def test_the_group_of_a_folder_is_not_the_sockets(tmp_path: Path) -> None:
    os.chown(tmp_path, -1, STRANGER)
    tmp_path.chmod(0o2755)
    with listen_unix(tmp_path / "s.sock"):
        assert (tmp_path / "s.sock").stat().st_gid == os.getegid()


def test_a_socket_is_never_more_open_than_it_is_asked_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The modes and groups at each step, as another process would see them."""
    path, seen = tmp_path / "s.sock", []

    def seeing(module: Any, name: str) -> None:
        function = getattr(module, name)

        def looked(*arguments: Any, **options: Any) -> Any:
            seen.append((stat.S_IMODE(path.stat().st_mode), path.stat().st_gid))
            answer = function(*arguments, **options)
            seen.append((stat.S_IMODE(path.stat().st_mode), path.stat().st_gid))
            return answer

        monkeypatch.setattr(module, name, looked)

    seeing(shutil, "chown")
    seeing(Path, "chmod")
    umask = os.umask(0)
    try:
        with listen_unix(path, SocketAccess(0o660, str(os.getegid()))):
            monkeypatch.undo()
    finally:
        os.umask(umask)
    assert len(seen) == 4 and all(mode in ((0, 0o660) if group == os.getegid() else (0,)) for mode, group in seen)


def test_a_group_that_can_not_be_had_leaves_no_socket(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    with pytest.raises(TransportFailed, match="no such group"), listen_unix(path, SocketAccess(group="no-such-group")):
        pass
    assert not path.exists()


def test_the_socket_of_a_dead_server_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        dead.listen()
    with listen_unix(path), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_a_live_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    with listen_unix(path):
        with pytest.raises(TransportFailed, match="another server does"), listen_unix(path):
            pass
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_what_is_no_socket_is_left_alone(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "s.sock"
    if kind == "file":
        path.write_text("precious")
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(TransportFailed, match="no socket"), listen_unix(path):
        pass
    assert os.path.lexists(path)


def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(TransportFailed, match="the folder does not exist"), listen_unix(tmp_path / "no" / "s.sock"):
        pass


def test_the_socket_of_a_successor_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    with listen_unix(path):
        path.unlink()
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(path))
    assert path.exists()


async def test_the_whole_api_is_on_the_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    async with serving(tmp_path, uds=path) as served:
        assert served.url == f"unix:{path}"
        await served.session()
        async with served.client.stream("GET", "/claude/stream/s?query=hello+world") as answer:
            kinds = [event["type"] async for event in events(answer)]
        assert kinds == ["query", "delta", "delta", "message", "complete"]
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
    assert not path.exists()

"""The hold on a data folder, and what becomes of it."""

import json
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from portico.core.errors import Unavailable
from portico.server.lease import advertise, hold


@contextmanager
def full_disk() -> Iterator[None]:
    """No file can be written to."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_one_server_at_a_time(tmp_path: Path) -> None:
    with hold(tmp_path / "d"):
        with pytest.raises(Unavailable) as caught, hold(tmp_path / "d"):
            pass
        assert caught.value.code == "data_dir_in_use"
    with hold(tmp_path / "d") as lease:
        assert lease.check() is None


@pytest.mark.parametrize("successor", [False, True], ids=["gone", "another's"])
def test_a_folder_that_is_taken_away_is_noticed(tmp_path: Path, successor: bool) -> None:
    data_dir = tmp_path / "d"
    with hold(data_dir) as lease, advertise(data_dir, "http://one", ""):
        shutil.rmtree(data_dir)
        assert str(data_dir) in str(lease.check())
        if successor:
            with hold(data_dir) as other, advertise(data_dir, "http://two", ""):
                assert other.check() is None
                assert str(data_dir) in str(lease.check())


def test_the_address_of_a_successor_is_left_alone(tmp_path: Path) -> None:
    with advertise(tmp_path, "http://one", ""):
        (tmp_path / "server.json").unlink()
        second = advertise(tmp_path, "http://two", "")
        second.__enter__()
    assert json.loads((tmp_path / "server.json").read_text())["url"] == "http://two"
    second.__exit__(None, None, None)
    assert not (tmp_path / "server.json").exists()


def test_a_full_disk_is_said(tmp_path: Path) -> None:
    with full_disk():
        with pytest.raises(Unavailable) as held, hold(tmp_path):
            pass
        with pytest.raises(Unavailable) as advertised, advertise(tmp_path, "http://one", ""):
            pass
    assert held.value.code == advertised.value.code == "data_dir_unusable"
    with hold(tmp_path), advertise(tmp_path, "http://one", ""):
        pass

"""Opening: new files, those of other versions, and those that can't be opened."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import anyio
import pytest

from portico.core.errors import StoreFailed
from portico.core.events import Event
from portico.plugins.sqlite_store import database, lane
from portico.plugins.sqlite_store.database import open_database
from portico.plugins.sqlite_store.schema import MIGRATIONS
from portico.plugins.sqlite_store.store import SqliteStore
from portico.testing.store import event, read_all, record, turn
from tests.support.limits import HANG_SECONDS

pytestmark = pytest.mark.anyio

NEXT = max(MIGRATIONS) + 1
RED = ("ALTER TABLE sessions ADD COLUMN colour TEXT", "UPDATE sessions SET colour = 'red'")


async def refusal(path: Path) -> StoreFailed:
    with pytest.raises(StoreFailed) as caught:
        await SqliteStore(path).open()
    assert str(path) in caught.value.detail
    assert "\n" not in caught.value.detail
    return caught.value


async def fill(path: Path) -> dict[str, list[Event]]:
    """Two sessions, one with blocks and rows, one with rows only."""
    store = SqliteStore(path)
    await store.open()
    history: dict[str, list[Event]] = {}
    for name in ("packed", "rows"):
        await store.create(record(name))
        choose = random.Random(name)
        finished = turn(1, 3000, "t")
        history[name] = [
            event(found.seq, found.type, "t", choose.randbytes(200))
            for found in finished[: 3000 if name == "packed" else 900]
        ]
        await store.append(name, 0, history[name])
    await store.tidy()
    for name, events in history.items():
        more = [event(len(events) + n, "delta", "u", b"x" * 100) for n in range(1, 500)]
        await store.append(name, len(events), more)
        events += more
    await store.close()
    return history


# Versions.


def migrations_up_to(number: int) -> dict[int, Sequence[str]]:
    return {each: statements for each, statements in MIGRATIONS.items() if each <= number}


def test_migrations_are_numbered_from_1_without_a_hole() -> None:
    assert list(MIGRATIONS) == list(range(1, len(MIGRATIONS) + 1))


@pytest.mark.parametrize("version", [0, *MIGRATIONS])
async def test_every_older_version_is_brought_up(tmp_path: Path, version: int) -> None:
    path = tmp_path / "portico.db"
    open_database(path, sync="normal", migrations=migrations_up_to(version)).close()
    store = SqliteStore(path)
    await store.open()
    await store.create(record())
    await store.append("s", 0, turn(1, 5, "t"))
    assert await read_all(store) == turn(1, 5, "t")
    await store.close()


async def test_a_step_keeps_what_there_is(tmp_path: Path) -> None:
    path = tmp_path / "portico.db"
    history = await fill(path)
    connection = open_database(path, sync="normal", migrations={**MIGRATIONS, NEXT: RED})
    assert connection.execute("SELECT DISTINCT colour FROM sessions").fetchall() == [("red",)]
    assert connection.execute("SELECT max(last_seq) FROM sessions").fetchone() == (len(history["packed"]),)
    connection.close()
    error = await refusal(path)
    assert error.code == "store_too_new"
    assert f"format {NEXT}" in error.detail


WRITER = """
import os, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA wal_autocheckpoint = 0")
connection.execute(sys.argv[2])
os._exit(0)  # killed: the log stays
"""


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("statement", [f"PRAGMA user_version = {NEXT}", "PRAGMA application_id = 7"])
@pytest.mark.parametrize("without", [None, "-shm", "the log"])
async def test_what_is_newer_or_of_others_is_left_as_it_is_with_its_log(
    tmp_path: Path, statement: str, without: str | None
) -> None:
    path = tmp_path / "portico.db"
    await fill(path)
    path.chmod(0o640)
    await anyio.run_process([sys.executable, "-c", WRITER, str(path), statement])
    if without == "-shm":
        (tmp_path / "portico.db-shm").unlink()
    elif without == "the log":
        sqlite3.connect(path, isolation_level=None).execute("PRAGMA wal_checkpoint(TRUNCATE)").connection.close()
    before = contents(tmp_path)
    assert len(before) == {None: 3, "-shm": 2, "the log": 1}[without]
    assert (await refusal(path)).code == ("store_too_new" if "version" in statement else "store_damaged")
    after = contents(tmp_path)
    if without == "-shm":
        del after["portico.db-shm"]  # an index of the log, which is made where there is none
    assert after == before
    assert path.stat().st_mode & 0o777 == 0o640


async def test_a_step_that_fails_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "portico.db"
    history = await fill(path)
    with pytest.raises(StoreFailed):
        open_database(path, sync="normal", migrations={**MIGRATIONS, NEXT: ("DROP TABLE events", "NO SQL")})
    store = SqliteStore(path)
    await store.open()
    assert await read_all(store, "rows") == history["rows"]
    await store.close()


# What is no database of ours.


@pytest.mark.parametrize("content", [b"hello" * 1000, b"\0" * 8192, b"SQLite format 3\0" + b"\xff" * 5000, b"x"])
async def test_what_is_no_database_is_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "portico.db"
    path.write_bytes(content)
    assert (await refusal(path)).code == "store_damaged"
    assert path.read_bytes() == content


async def test_another_programs_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "portico.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE sessions (x)")
    connection.close()
    content = path.read_bytes()
    error = await refusal(path)
    assert "another program" in error.detail
    assert path.read_bytes() == content


async def test_a_damaged_header_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "portico.db"
    await fill(path)
    with path.open("r+b") as file:
        file.write(b"\0" * 100)
    assert (await refusal(path)).code == "store_damaged"


async def test_a_damaged_page_is_told_and_harms_no_other(tmp_path: Path) -> None:
    path, copy = tmp_path / "portico.db", tmp_path / "copy.db"
    history = await fill(path)
    damaged = 0
    pages = range(20, path.stat().st_size // 4096)
    for page in random.Random(2).sample(pages, 12):
        shutil.copy(path, copy)
        with copy.open("r+b") as file:
            file.seek(page * 4096)
            file.write(b"\xff" * 4096)
        store = SqliteStore(copy)
        await store.open()
        try:
            for name, events in history.items():
                try:
                    assert await read_all(store, name) == events
                except StoreFailed as error:
                    assert error.code == "store_damaged"
                    damaged += 1
            await store.create(record("new"))
            await store.append("new", 0, turn(1, 5, "t"))
            assert await read_all(store, "new") == turn(1, 5, "t")
        finally:
            await store.close()
    assert 6 <= damaged <= 18


async def test_a_damaged_record_and_a_damaged_block_are_told(tmp_path: Path) -> None:
    path = tmp_path / "portico.db"
    await fill(path)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE sessions SET record = '{}' WHERE session_id = 'rows'")
        connection.execute("UPDATE blocks SET data = zeroblob(100)")
    connection.close()
    store = SqliteStore(path)
    await store.open()
    for call in (store.get("rows"), store.read("packed", 0, 10), store.event("packed", 7)):
        with pytest.raises(StoreFailed) as caught:
            await call
        assert caught.value.code == "store_damaged"
    await store.tidy()
    await store.close()


# What can't be opened.


async def test_a_missing_folder_is_told(tmp_path: Path) -> None:
    assert "No such file" in (await refusal(tmp_path / "missing" / "portico.db")).detail


async def test_a_folder_in_its_place_is_told(tmp_path: Path) -> None:
    (tmp_path / "portico.db").mkdir()
    assert (await refusal(tmp_path / "portico.db")).code == "store_read_only"


@pytest.mark.parametrize("what", ["file", "folder"])
async def test_what_can_not_be_written_is_told(tmp_path: Path, what: str) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write everything; see the test with a read-only disk")
    path = tmp_path / "portico.db"
    await fill(path)
    target, mode = (path, 0o400) if what == "file" else (tmp_path, 0o500)
    target.chmod(mode)
    try:
        assert (await refusal(path)).code == "store_read_only"
    finally:
        target.chmod(0o700)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 6 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip("file systems can't be mounted here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def remount(disk: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(disk)], check=True)


async def test_a_read_only_disk_is_told(small_disk: Path) -> None:
    path = small_disk / "portico.db"
    store = SqliteStore(path)
    await store.open()
    await store.create(record())
    await store.close()
    remount(small_disk, "ro")
    assert (await refusal(path)).code == "store_read_only"
    assert (await refusal(small_disk / "new.db")).code == "store_read_only"
    remount(small_disk, "rw")
    await store.open()
    assert await store.get("s") == record()
    await store.close()


async def test_a_full_disk_loses_nothing(small_disk: Path) -> None:
    path = small_disk / "portico.db"
    store = SqliteStore(path)
    await store.open()
    names = ("a", "b", "c")
    for name in names:
        await store.create(record(name))
    history: dict[str, list[Event]] = {name: [] for name in names}
    (small_disk / "filler").write_bytes(b"x" * 4_000_000)
    refused: list[StoreFailed] = []

    async def append(name: str, size: int) -> None:
        end = len(history[name])
        events = [event(end + n, data=bytes([n]) * size) for n in (1, 2)]
        try:
            await store.append(name, end, events)
        except StoreFailed as error:
            refused.append(error)
        else:
            history[name] += events

    for _ in range(100):
        async with anyio.create_task_group() as tasks:
            for name in names:
                tasks.start_soon(append, name, 20_000)
        if refused:
            break
    assert [error.code for error in refused] == ["store_full"] * 3  # all of a transaction or nothing of it
    assert "free some space" in refused[0].detail
    for name in names:
        assert await read_all(store, name) == history[name]
        with pytest.raises(StoreFailed):
            await store.append(name, len(history[name]), [event(1, data=b"x" * 3_000_000)])
    (small_disk / "filler").unlink()
    refused.clear()
    for name in names:
        await append(name, 100)
    assert not refused
    await store.close()
    await store.open()
    for name in names:
        assert await read_all(store, name) == history[name]
    await store.close()


async def test_a_full_disk_is_told_at_the_first_start(small_disk: Path) -> None:
    with pytest.raises(OSError, match="No space"):
        (small_disk / "filler").write_bytes(b"x" * 7_000_000)
    assert (await refusal(small_disk / "portico.db")).code == "store_full"


# Another process.

HOLDER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.read()
"""


async def test_a_lock_of_another_program_is_told_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "OPEN_SECONDS", 0.2)
    monkeypatch.setattr(lane, "BUSY_SECONDS", 0.2)
    path = tmp_path / "portico.db"
    store = SqliteStore(path)
    await store.open()
    await store.create(record())
    with subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout and holder.stdin
        assert holder.stdout.readline() == b"held\n"
        with anyio.fail_after(HANG_SECONDS):
            with pytest.raises(StoreFailed) as caught:
                await store.append("s", 0, [event(1)])
            assert caught.value.code == "store_busy"
            assert (await refusal(path)).code == "store_busy"
            assert await store.get("s") == record()
        holder.stdin.close()
    await store.append("s", 0, [event(1)])
    await store.close()

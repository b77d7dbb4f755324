"""The file of the audit log."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from portico.core.errors import Unavailable
from portico.core.principal import Principal
from portico.server.audit_log import MAX_WAITING, AuditLog
from tests.support.limits import HANG_SECONDS
from tests.support.threads import no_threads

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def running(log: AuditLog) -> AsyncIterator[None]:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(log.run)
        yield
        tasks.cancel_scope.cancel()


async def test_what_was_noted_is_written_before_the_end(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    async with running(log := AuditLog(path)):
        for number in range(100):
            log.note("session.create", "ok", Principal(f"p{number}"))
    assert [json.loads(line)["principal"] for line in path.read_text().splitlines()] == [f"p{n}" for n in range(100)]


async def test_it_is_written_also_where_no_thread_can_be_started(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    async with running(log := AuditLog(path)), anyio.create_task_group() as tasks, no_threads(tasks):
        log.note("x", "ok", session_id="s")
        with anyio.fail_after(HANG_SECONDS):
            while not path.exists() or '"s"' not in path.read_text():
                await anyio.sleep(0.01)


async def test_it_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    log = AuditLog(path, max_bytes=10_000)
    async with running(log):
        for _ in range(MAX_WAITING + 7):  # more than wait for a disk
            log.note("x", "ok", session_id="y" * 100_000)
    first = path.with_name("audit.jsonl.1").read_text().splitlines()
    assert json.loads(first[-1]) | {"time": ""} == {"time": "", "action": "audit.lost", "outcome": "ok", "count": 7}
    assert len(first) == MAX_WAITING + 1 and max(map(len, first)) < 400
    async with running(log := AuditLog(path, max_bytes=10_000)):
        log.note("x", "ok")
    assert len(path.read_text().splitlines()) == 1


async def test_where_it_cannot_be_set_aside_it_grows_and_nothing_is_said_to_be_lost(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    path.with_name("audit.jsonl.1").mkdir()
    path.touch()
    async with running(log := AuditLog(path, max_bytes=100)):
        for number in range(5):
            log.note("x", "ok", session_id=f"s{number}")
            with anyio.fail_after(HANG_SECONDS):
                while f"s{number}" not in path.read_text():
                    await anyio.sleep(0.01)
    assert [json.loads(line)["action"] for line in path.read_text().splitlines()] == ["x"] * 5


async def test_a_line_that_a_killed_server_has_begun_is_ended(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    path.write_text('{"action":"beg')
    async with running(log := AuditLog(path)):
        log.note("x", "ok")
    begun, whole = path.read_text().splitlines()
    assert begun == '{"action":"beg' and json.loads(whole)["action"] == "x"


@pytest.mark.parametrize("kind", ["folder", "link", "pipe", "missing"])
def test_what_can_be_no_log_stops_the_start(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "audit.jsonl"
    match kind:
        case "folder":
            path.mkdir()
        case "link":
            path.symlink_to(tmp_path / "target")
        case "pipe":
            os.mkfifo(path)
        case "missing":
            path = tmp_path / "none" / "audit.jsonl"
    with pytest.raises(Unavailable, match=r"audit_log: .* can't be written: "):
        AuditLog(path).check()
    assert not (tmp_path / "target").exists()

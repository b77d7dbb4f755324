"""The record of spending, over days and restarts."""

from __future__ import annotations

import json
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from portico.gateway.api_errors import Refusal
from portico.gateway.ledger import Ledger
from portico.testing.background import background
from tests.support.limits import HANG_SECONDS
from tests.support.threads import no_threads

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def counting(ledger: Ledger) -> AsyncIterator[None]:
    await ledger.open()
    async with background() as tasks:
        tasks.start_soon(ledger.run)
        yield


async def kept(ledger: Ledger, path: Path, **usd: float) -> None:
    """Wait until the file says so."""
    with anyio.fail_after(HANG_SECONDS):
        while not path.exists() or json.loads(path.read_text())["usd"] != usd:
            await anyio.sleep(0.01)


async def test_a_restart_goes_on_where_the_day_was_and_a_new_day_begins_with_nothing(tmp_path: Path) -> None:
    path = tmp_path / "spending.json"
    day = "2026-11-22"
    async with counting(before := Ledger(path, 1.0, lambda: day)):
        before.add("alice", 0.75)
        await kept(before, path, alice=0.75)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        before.add("alice", 0.5)  # within the second: written at the end
    after = Ledger(path, 1.0, lambda: day)
    await after.open()
    with pytest.raises(Refusal, match=r"\$1\.25 of \$1\.00"):
        after.check("alice")
    after.check("bob")
    after.check(None)
    day = "2026-11-23"
    after.check("alice")
    assert after.spent("alice") == 0


async def test_what_was_spent_is_kept_also_where_no_thread_can_be_started(tmp_path: Path) -> None:
    path = tmp_path / "spending.json"
    ledger = Ledger(path, 1.0, lambda: "2026-11-22")
    async with counting(ledger), anyio.create_task_group() as busy, no_threads(busy):
        ledger.add("alice", 0.75)
        await kept(ledger, path, alice=0.75)


async def test_who_spends_on_a_new_day_just_what_was_spent_the_day_before_has_spent_it_after_a_restart(
    tmp_path: Path,
) -> None:
    path = tmp_path / "spending.json"
    day = "2026-11-22"
    async with counting(before := Ledger(path, 1.0, lambda: day)):
        before.add("alice", 1.0)
        await kept(before, path, alice=1.0)
        day = "2026-11-23"
        before.add("alice", 1.0)
    after = Ledger(path, 1.0, lambda: day)
    await after.open()
    with pytest.raises(Refusal, match=r"\$1\.00 of \$1\.00"):
        after.check("alice")


async def test_without_a_budget_it_is_only_counted(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "spending.json", None)
    await ledger.open()
    ledger.add("alice", 1e9)
    ledger.check("alice")


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "[" * 100_000, '{"usd": 3}', '{"day": "x", "usd": {"a": "b"}}', '{"usd": {"a": NaN}}'),
        *('{"usd": {"a": null}}', '{"usd": {"a": 1' + 400 * "0" + "}}"),
    ],
)
async def test_a_file_of_no_use_is_said_and_stops_nothing(
    tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "spending.json"
    path.write_text(text)
    ledger = Ledger(path, 1.0)
    await ledger.open()
    assert ledger.spent("a") == 0 and str(path) in caplog.text


async def test_a_folder_that_can_not_be_written_to_is_said_and_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ledger = Ledger(tmp_path / "nowhere" / "spending.json", 1.0)
    async with background() as tasks:
        tasks.start_soon(ledger.run)
        ledger.add("alice", 2.0)
        with anyio.fail_after(HANG_SECONDS):
            while "can't be written" not in caplog.text:
                await anyio.sleep(0.01)
    with pytest.raises(Refusal):
        ledger.check("alice")

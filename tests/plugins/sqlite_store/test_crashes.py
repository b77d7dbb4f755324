"""kill -9 of a process that writes: whatever it was told is stored is there, and nothing by halves."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from portico.plugins.sqlite_store.store import SqliteStore
from portico.testing.store import read_all
from tests.plugins.sqlite_store.writing import SESSIONS

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[3]


def write_and_kill(path: Path, seed: int) -> dict[str, int]:
    """Let a process write for a while; the last event of each session that it was told is stored."""
    choose = random.Random(seed)
    command = [sys.executable, "-m", "tests.plugins.sqlite_store.writing", str(path), str(seed)]
    told: dict[str, int] = {}
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout
        lines = [process.stdout.readline() for _ in range(choose.randint(4, 400))]
        time.sleep(choose.random() * 0.01)  # to hit any instant of a commit, not only its end
        process.kill()
        lines += process.stdout.readlines()
    for line in lines:
        if line.endswith(b"\n"):
            name, seq = line.split()
            told[name.decode()] = int(seq)
    return told


@pytest.mark.parametrize("seed", range(4))
async def test_a_kill_loses_nothing_and_leaves_nothing_half(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "portico.db"
    for n in range(4):
        told = write_and_kill(path, seed * 100 + n)
        assert told
        store = SqliteStore(path)
        await store.open()
        for name in SESSIONS:
            found = await store.get(name)
            if found is None:
                assert name not in told
                continue
            events = await read_all(store, name)
            assert [event.seq for event in events] == list(range(1, found.last_seq + 1))
            assert found.last_seq >= told.get(name, 0)
            for event in events:
                owner, before, count, _ = event.data.split(b" ")
                assert owner.decode() == name
                assert int(before) < event.seq <= int(before) + int(count) <= found.last_seq
            for event in events:
                span = await store.turn(name, str(event.turn_id))
                assert span is not None
                assert span.first_seq <= event.seq
                if event.type == "complete":
                    assert span.last_seq == event.seq
        await store.close()

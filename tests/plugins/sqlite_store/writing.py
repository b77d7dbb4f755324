"""A process that writes until it is killed; after every append it prints ``NAME LAST_SEQ``."""

from __future__ import annotations

import os
import random
import sys
from contextlib import suppress
from pathlib import Path

import anyio

from portico.core.errors import Conflict
from portico.plugins.sqlite_store.store import SqliteStore
from portico.testing.store import event, record

SESSIONS = ("a", "b", "c", "d")


async def write(store: SqliteStore, name: str, choose: random.Random) -> None:
    with suppress(Conflict):
        await store.create(record(name))
    found = await store.get(name)
    assert found
    seq = found.last_seq
    while True:
        count = choose.randint(1, 5)
        turn_id = f"t{seq // 20}"
        kind = "complete" if (seq + count) // 20 > seq // 20 else "delta"
        # Every event says with which others it was appended.
        events = [
            event(
                seq + n,
                kind if n == count else "delta",
                turn_id,
                b"%s %d %d %s" % (name.encode(), seq, count, b"." * (seq % 999)),
            )
            for n in range(1, count + 1)
        ]
        await store.append(name, seq, events)
        seq += count
        os.write(1, f"{name} {seq}\n".encode())


async def tidy(store: SqliteStore) -> None:
    while True:
        await store.tidy()
        await anyio.sleep(0.005)


async def main(path: Path, seed: str) -> None:
    store = SqliteStore(path)
    await store.open()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(tidy, store)
        for name in SESSIONS:
            tasks.start_soon(write, store, name, random.Random(seed + name))


if __name__ == "__main__":
    anyio.run(main, Path(sys.argv[1]), sys.argv[2])

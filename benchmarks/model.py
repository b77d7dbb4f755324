"""The scripted model as a process of its own, so that it takes no time of the programs under measurement."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import anyio

from benchmarks.servers import program
from portico.plugins.demo.model_server import serve_model


@contextmanager
def scripted_model() -> Iterator[str]:
    with program([sys.executable, "-m", "benchmarks.model"]) as server:
        yield server.url


async def _main() -> None:
    async with serve_model() as model:
        print(model.url, flush=True)
        await anyio.sleep_forever()


if __name__ == "__main__":
    anyio.run(_main)

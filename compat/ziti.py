"""The Ziti table: what clients and ``/readyz`` see in each situation, on the stand-in for both shapes of openziti."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio
import httpx

from benchmarks.build import Build, BuildError
from tests.support.dark import dark_server, deltas, listener, standin_environment
from tests.support.server import ROOT, RunningServer
from tests.support.talk import Talk
from tests.support.ziti import Network, Refused, Shape, network

SHAPES: tuple[Shape, ...] = ("0.6", "1.x")
GAP = 0.1
LONGEST_WORDS = 100


@dataclass(frozen=True)
class Situation:
    """``before`` the start, ``during`` it, and the seconds that it is watched from then on."""

    name: str
    seconds: float
    during: Callable[[Network, RunningServer], Awaitable[None]]
    before: Callable[[Network], None] = lambda net: None


@dataclass
class Seen:
    """Seen by clients of the service `one`: ``numbers`` of events, ``cuts``, seconds ``away``; ``words`` over HTTP."""

    numbers: list[int] = field(default_factory=list)
    cuts: int = 0
    away: float = 0.0
    words: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        exact = "exact" if self.numbers == list(range(1, len(self.numbers) + 1)) else "events lost"
        words = "; then ".join(word[:LONGEST_WORDS].replace("|", "/") for word in self.words) or "nothing failed"
        return f"cut {self.cuts} times, {exact}, no new connection for {self.away:.1f} s; {words}"


async def _nothing(net: Network, server: RunningServer) -> None:
    pass


def _miss(net: Network) -> None:
    net.moods("two", bind=-17 if net.shape == "0.6" else -18)


async def _delete(net: Network, server: RunningServer) -> None:
    net.delete("two")


async def _withdraw(net: Network, server: RunningServer) -> None:
    net.forbid("server", "bind", service="two")


async def _withdraw_all(net: Network, server: RunningServer) -> None:
    net.forbid("server", "bind")
    await anyio.sleep(5)
    net.allow("server", bind=["one", "two"])


async def _crash_of_probes(net: Network, server: RunningServer) -> None:
    net.moods("server", connect="segfault")


async def _crash(net: Network, server: RunningServer) -> None:
    listener(server).send_signal(signal.SIGSEGV)


def _outage(**away: Any) -> Callable[[Network, RunningServer], Awaitable[None]]:
    async def during(net: Network, server: RunningServer) -> None:
        net.outage(**away)
        await anyio.sleep(5)
        net.outage(controller="up", router="up")

    return during


SITUATIONS = (
    Situation("all is well", 5, _nothing),
    Situation("a probe crashes", 45, _crash_of_probes),
    Situation(
        "another service is missing", 5, _nothing, lambda net: net.moods("two", bind=-17 if net.shape == "0.6" else -18)
    ),
    Situation("another service is deleted", 10, _delete),
    Situation("the permission to bind another one is withdrawn", 60, _withdraw),
    Situation("that to bind all is withdrawn for 5 s", 120, _withdraw_all),
    Situation("the router is away for 5 s", 15, _outage(router="down")),
    Situation("the controller is away for 5 s", 15, _outage(controller="refuses")),
    Situation("both are away for 5 s", 120, _outage(controller="refuses", router="down")),
    Situation("the listener dies of SIGSEGV", 15, _crash),
)


def table(builds: Sequence[Build], names: Sequence[str]) -> Iterator[str]:
    """Raises `BuildError` for a name that is none. ``names`` are those of situations."""
    known = {situation.name: situation for situation in SITUATIONS}
    if unknown := {*names} - known.keys():
        raise BuildError(f"there is no {unknown.pop()!r}; there are {', '.join(known)}")
    columns = [(build, shape) for shape in SHAPES for build in builds]
    yield f"| situation | {' | '.join(f'{shape}, {build.label}' for build, shape in columns)} |"
    yield "|---" * (len(columns) + 1) + "|"
    for name in names or known:
        cells = anyio.run(_row, known[name], columns, backend_options={"use_uvloop": True})
        yield f"| {name} | {' | '.join(cells)} |"


async def _row(situation: Situation, columns: Sequence[tuple[Build, Shape]]) -> list[str]:
    cells = ["" for _ in columns]

    async def fill(place: int, build: Build, shape: Shape) -> None:
        cells[place] = await _cell(situation, build, shape)

    async with anyio.create_task_group() as tasks:
        for place, (build, shape) in enumerate(columns):
            tasks.start_soon(fill, place, build, shape)
    return cells


async def _cell(situation: Situation, build: Build, shape: Shape) -> str:
    seen = Seen()
    with TemporaryDirectory(dir=build.temporary) as name:
        folder = Path(name)
        async with AsyncExitStack() as stack:
            net = await stack.enter_async_context(network(folder, shape))
            situation.before(net)
            try:
                server = await stack.enter_async_context(_server(folder, net, build))
            except (AssertionError, ExceptionGroup) as error:
                while isinstance(error, ExceptionGroup):
                    error = error.exceptions[0]
                return f"no start: {str(error).strip().splitlines()[-1]}"  # the log is its message
            await _watch(situation, net, server, seen)
    return str(seen)


def _server(folder: Path, net: Network, build: Build) -> Any:
    path = standin_environment(folder, net)["PYTHONPATH"].replace(str(ROOT), str(build.root))
    variables = {"NETWORKING_MODE": "http,ziti", "PYTHONPATH": path}
    return dark_server(folder, net, services="one=alice,two=bob", probed=True, **variables)


async def _watch(situation: Situation, net: Network, server: RunningServer, seen: Seen) -> None:
    async with net.http("one", base_url="http://localhost/claude") as http:
        await Talk(http).open(session_id="s")
        await Talk(http).start("s", deltas(int(situation.seconds / GAP) + 50, GAP))
    async with anyio.create_task_group() as tasks:
        for watch in (_follow, _call):
            tasks.start_soon(watch, net, seen)
        tasks.start_soon(_ready, server, seen)
        while not seen.numbers:
            await anyio.sleep(GAP)
        await anyio.sleep(3)  # the first probe
        await situation.during(net, server)
        await anyio.sleep(situation.seconds)
        tasks.cancel_scope.cancel()


async def _follow(net: Network, seen: Seen) -> None:
    while True:
        async with net.http("one", base_url="http://localhost/claude") as http:
            count = len(seen.numbers)
            with suppress(httpx.HTTPError):
                async with http.stream("GET", f"/sessions/s/events?after={count}") as answer:
                    # Not with a parser of the tests: an earlier build may send what it does not take.
                    async for line in answer.aiter_lines():
                        if line.startswith("id:"):
                            seen.numbers.append(int(line.removeprefix("id:")))
            seen.cuts += len(seen.numbers) > count
        await anyio.sleep(GAP)


async def _call(net: Network, seen: Seen) -> None:
    last = anyio.current_time()
    while True:
        with suppress(Refused, OSError, TimeoutError):
            (await net.dial("one")).close()
            last = anyio.current_time()
        seen.away = max(seen.away, anyio.current_time() - last)
        await anyio.sleep(GAP)


async def _ready(server: RunningServer, seen: Seen) -> None:
    async with server.http() as http:
        while True:
            failed = (await http.get(f"{server.url}/readyz")).json().get("failed", {})
            words = failed.get("transport ziti", "")
            if words and words not in seen.words:
                seen.words.append(words)
            await anyio.sleep(GAP)

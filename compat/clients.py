"""The table of client libraries: the programs of docs/clients.md on two builds, over a network that breaks."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import anyio
import httpx

from benchmarks.build import Build, BuildError
from benchmarks.servers import portico_of
from compat.snippets import Snippet, read
from compat.toolchains import PROGRAMS, BuildFailed, Unavailable, build
from compat.trial import Report, ask
from tests.support.proxy import Cut

SECONDS = 60.0
"""The limit of one trial."""
AT_ONCE, SILENT_AT_ONCE = 6, 40
PAUSE = 17

SMALL = json.dumps({"deltas": 5})
LARGE = json.dumps({"size": 200_000})
SLOW = json.dumps({"deltas": 30, "gap": 0.1})
SILENT = json.dumps({"gap": PAUSE})
TRIALS: dict[str, tuple[str, tuple[Cut, ...]]] = {
    "normal turn": (SMALL, ()),
    "200 KB": (LARGE, ()),
    "cut": (SLOW, (1.2,)),
    "cut within an event": (SLOW, (b'"seq":9,',)),
    f"pause of {PAUSE} s": (SILENT, ()),
}
"""The question of each, and the cut."""
COLUMNS = (
    "library",
    "normal turn",
    "empty events",
    "200 KB",
    "cut",
    "cut within an event",
    f"pause of {PAUSE} s",
    "end",
)


@dataclass(slots=True)
class Row:
    """``reports`` are those of each trial, of the old build and of the new one."""

    snippet: Snippet
    argv: Sequence[str]
    reports: dict[tuple[str, int], Report] = field(default_factory=dict)

    def __str__(self) -> str:
        cells = [f"{self.snippet.language} {self.snippet.name}"]
        return _line([*cells, *(self._cell(column) for column in COLUMNS[1:])])

    def _cell(self, column: str) -> str:
        old, new = (self._value(column, build) for build in (0, 1))
        return new if old == new else f"{old} → {new}"

    def _value(self, column: str, build: int) -> str:
        if column == "empty events":
            return str(sum(report.empty for (_, of), report in self.reports.items() if of == build))
        if column == "end":
            return _requests(self.reports["normal turn", build])
        report = self.reports[column, build]
        return str(report) if "cut" in column or report.requests == 1 else f"{report}, {_requests(report)}"


def table(builds: Sequence[Build], names: Sequence[str]) -> Iterator[str]:
    """Raises `BuildError` for a name that is none, and for a program that does not compile."""
    known = [snippet for snippet in read() if snippet.language in PROGRAMS]
    if unknown := {*names} - {snippet.name for snippet in known}:
        raise BuildError(f"there is no {unknown.pop()!r}; there are {', '.join(snippet.name for snippet in known)}")
    rows, missing = _built([snippet for snippet in known if not names or snippet.name in names])
    with ExitStack() as running:
        settings = {"driver": "echo", "max_sessions": 1000}
        urls = [running.enter_context(portico_of(build.root, **settings)).url for build in builds]
        documents = [httpx.get(f"{url}/openapi.json", timeout=SECONDS, trust_env=False).text for url in urls]
        anyio.run(_fill, rows, urls, [bytes if "max_event" in document else _as_before for document in documents])
    yield _line(COLUMNS)
    yield _line(["---"] * len(COLUMNS))
    yield from map(str, rows)
    yield from (f"\nnot tried: {reason}" for reason in missing)


def _built(snippets: Sequence[Snippet]) -> tuple[list[Row], list[str]]:
    rows, missing = [], []
    for language in PROGRAMS:
        if not (own := [snippet for snippet in snippets if snippet.language == language]):
            continue
        print(f"building the clients in {language}", file=sys.stderr, flush=True)
        try:
            programs = build(language, own)
        except Unavailable as error:
            missing.append(str(error))
        except BuildFailed as error:
            raise BuildError(str(error)) from None
        else:
            rows += [Row(snippet, programs[snippet.name]) for snippet in own]
    return rows, missing


async def _fill(rows: Sequence[Row], urls: Sequence[str], rewrites: Sequence[Callable[[bytes], bytes]]) -> None:
    limit, patient = anyio.CapacityLimiter(AT_ONCE), anyio.CapacityLimiter(SILENT_AT_ONCE)

    async def trial(row: Row, name: str, number: int) -> None:
        query, cuts = TRIALS[name]
        async with patient if query is SILENT else limit:
            row.reports[name, number] = await ask(
                row.argv, urls[number], query, *cuts, seconds=SECONDS, rewrite=rewrites[number]
            )
        print(f"{row.snippet.name}, {name}, {('old', 'new')[number]}", file=sys.stderr, flush=True)

    async with anyio.create_task_group() as tasks:
        for name in reversed(TRIALS):
            for row in rows:
                for number in range(len(urls)):
                    tasks.start_soon(trial, row, name, number)


def _as_before(request: bytes) -> bytes:
    """Leave out the parameters that came with `max_event`: an older build refuses unknown ones."""
    names = rb"max_event|turn_id" if b"/ws/" in request.partition(b"\r\n")[0] else rb"max_event"
    return re.sub(rb"\b(?:" + names + rb")=[\w-]+&?", b"", request)


def _requests(report: Report) -> str:
    return "1 request" if report.requests == 1 else f"{report.requests} requests"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"

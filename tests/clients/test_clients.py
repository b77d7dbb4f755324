"""The programs of docs/clients.md do what the page says, each with the real library that it is about."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence

import anyio.to_thread
import pytest

from benchmarks.servers import portico
from compat.snippets import Snippet, read
from compat.toolchains import PROGRAMS, Programs, Unavailable, build
from compat.trial import Report, ask, run_program
from tests.support.limits import HANG_SECONDS
from tests.support.proxy import AWAY, proxy

# A toolchain's first build takes longer than a test may.
pytestmark = [pytest.mark.anyio, pytest.mark.long, pytest.mark.timeout(1200)]

SNIPPETS = [snippet for snippet in read() if snippet.language in PROGRAMS]
SILENCE = 11
"""Seconds: longer than OkHttp waits by default, and httpx, and okhttp-eventsource."""


@pytest.fixture(scope="session")
def url() -> Iterator[str]:
    with portico(driver="echo", max_sessions=1000) as server:
        yield server.url


@pytest.fixture(params=SNIPPETS, ids=lambda snippet: f"{snippet.language}-{snippet.name}")
def snippet(request: pytest.FixtureRequest) -> Snippet:
    found: Snippet = request.param
    return found


@pytest.fixture(scope="session")
def built() -> dict[str, Programs]:
    """Return the programs that were built so far, by their language."""
    return {}


@pytest.fixture
async def argv(snippet: Snippet, built: dict[str, Programs], testrun_uid: str) -> Sequence[str]:
    language = snippet.language
    if language not in built:
        own = [other for other in SNIPPETS if other.language == language]
        try:
            built[language] = await anyio.to_thread.run_sync(build, language, own, testrun_uid)
        except Unavailable as error:
            pytest.skip(str(error))
    return built[language][snippet.name]


def is_exact(report: Report) -> bool:
    return report.is_exact and report.turns == 1 and report.status == 0


async def test_a_turn_is_whole_and_the_program_ends(url: str, argv: Sequence[str]) -> None:
    report = await ask(argv, url, "one two three", seconds=HANG_SECONDS)
    assert is_exact(report), str(report)
    assert (report.requests, report.empty) == (1, 0)


async def test_wherever_a_connection_is_cut_each_event_comes_once(
    url: str, snippet: Snippet, argv: Sequence[str]
) -> None:
    slow = json.dumps({"deltas": 30, "gap": 0.1})
    # Within an event's data; behind its id, before the line ends; between two events, most often.
    second = b"\nid: 14" if "/stream/" in snippet.text else b'"seq":14,'
    report = await ask(argv, url, slow, b'"seq":9,', second, 0.75, seconds=HANG_SECONDS)
    assert is_exact(report), str(report)
    assert report.requests >= 3


async def test_a_large_event_and_a_long_silence_cut_no_connection(url: str, argv: Sequence[str]) -> None:
    report = await ask(argv, url, json.dumps({"size": 200_000, "gap": SILENCE}), seconds=HANG_SECONDS)
    assert is_exact(report), str(report)
    assert (report.requests, report.empty) == (1, 0)


async def test_a_refusal_ends_the_program(url: str, argv: Sequence[str]) -> None:
    async with proxy(url, []) as network:
        printed, status, complaints = await run_program(argv, network.url, "nobody", "hello", HANG_SECONDS)
    assert printed == []
    assert status not in (0, None), complaints
    assert len(network.requests) == 1


LOOPING = [snippet for snippet in SNIPPETS if re.search("502|StatusBadGateway|--retry", snippet.text)]


@pytest.mark.parametrize("snippet", LOOPING, indirect=True, ids=lambda snippet: snippet.name)
async def test_where_a_proxy_does_not_get_through_the_program_asks_again(url: str, argv: Sequence[str]) -> None:
    slow = json.dumps({"deltas": 30, "gap": 0.1})
    report = await ask(argv, url, slow, b'"seq":9,', AWAY, seconds=HANG_SECONDS)
    assert is_exact(report), str(report)
    assert report.requests == 3


LIMITED = [snippet for snippet in SNIPPETS if "max_event" in snippet.text]


@pytest.mark.parametrize("snippet", LIMITED, indirect=True, ids=lambda snippet: snippet.name)
async def test_an_event_above_a_librarys_limit_comes_shortened(url: str, snippet: Snippet, argv: Sequence[str]) -> None:
    (most,) = map(int, re.findall(r"max_event\W+(\d+)", snippet.text))
    size = most + most // 4
    report = await ask(argv, url, json.dumps({"size": size}), seconds=HANG_SECONDS)
    assert [event["seq"] for event in report.events] == [event["seq"] for event in report.history]
    (delta,) = [event for event in report.events if event["type"] == "delta"]
    assert delta.pop("cut") == {"/content": size}
    assert most // 2 < len(delta["content"]) < most
    assert (report.requests, report.turns, report.status) == (1, 1, 0)

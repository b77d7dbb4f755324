"""`/metrics` of a running server, read as Prometheus reads it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import httpx
import pytest
from prometheus_client import Counter, Histogram, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from portico.metrics.collectors import Reading
from portico.metrics.metrics import Metrics
from tests.support.dark import dark_server, listener
from tests.support.limits import HANG_SECONDS
from tests.support.server import running_server
from tests.support.talk import Talk
from tests.support.ziti import network as standin

pytestmark = pytest.mark.anyio

PAGE = Path(__file__).parents[3] / "docs" / "metrics.md"


class Numbers:
    """Return the text of ``/metrics``."""

    def __init__(self, answer: httpx.Response) -> None:
        assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        self.families = {family.name: family for family in text_string_to_metric_families(answer.text)}
        self._samples = [sample for family in self.families.values() for sample in family.samples]

    def __call__(self, name: str, **labels: str) -> float:
        """The sum of all that have these labels."""
        found = [s.value for s in self._samples if s.name == name and labels.items() <= s.labels.items()]
        return sum(found)

    @property
    def labels(self) -> list[Mapping[str, str]]:
        return [sample.labels for sample in self._samples]


async def numbers(http: httpx.AsyncClient, url: str) -> Numbers:
    return Numbers(await http.get(f"{url}/metrics"))


async def test_what_a_server_counts(tmp_path: Path) -> None:
    async with running_server(tmp_path, PORTICO_DRIVER="echo") as server, server.http() as http:
        async with httpx.AsyncClient(timeout=HANG_SECONDS) as stranger:
            assert (await stranger.get(f"{server.url}/metrics")).status_code == 401
        before = await numbers(http, server.url)
        assert before("portico_turns_started_total") == 0 == before("portico_sessions")
        talk = Talk(http)
        for name in ("one", "two"):
            await talk.open(session_id=name)
        await talk.turn("one", "hello")
        await talk.start("two", json.dumps({"deltas": 10_000, "gap": 0.05}))
        await talk.until("two", "delta")
        for path in ("/claude/sessions/../../x", "/nothing/at/all"):
            await http.get(f"{server.url}{path}")
        await http.request("PROPFIND", f"{server.url}/claude/sessions/one")
        lines = []
        async with AsyncExitStack() as streams:
            for _ in range(3):
                answer = await streams.enter_async_context(
                    http.stream("GET", f"{server.url}/claude/sessions/two/events")
                )
                lines.append(answer.aiter_lines())  # kept: a stream that nobody reads any more is closed
                await anext(lines[-1])
            during = await numbers(http, server.url)
            with anyio.fail_after(HANG_SECONDS):
                while during("portico_streams", kind="sse") != 3:  # one that is gone may still be on its way out
                    during = await numbers(http, server.url)
            assert during("portico_sessions", state="running") == 1 == during("portico_sessions", state="idle")
            assert during("portico_turns_started_total") == 2
            assert (
                during("portico_turns_ended_total", stop_reason="end_turn") == 1 == during("portico_turns_ended_total")
            )
            assert during("portico_processes") == 2 and during("portico_processes_limit") == 10
            assert during("portico_events_appended_total", type="delta") > 1
            appends = during("portico_store_append_seconds_count")
            assert 0 < appends <= during("portico_events_appended_total") + 10
            assert 0 < during("portico_store_append_seconds_sum") < 30
        await http.post(f"{server.url}/claude/sessions/two/interrupt")
        await talk.until("two", "complete")
        after = await numbers(http, server.url)
        assert after("portico_turns_ended_total", stop_reason="interrupted") == 1
        assert after("portico_http_requests_total", route="/claude/sessions", method="POST", status="201") == 2
        assert after("portico_http_requests_total", route="/claude/sessions/{session_id}", method="other") == 1
        assert after("portico_http_requests_total", route="other", status="404") == 2
        assert after("portico_http_request_seconds_count", route="/metrics", method="GET") >= 2
        with anyio.fail_after(HANG_SECONDS):
            while (await numbers(http, server.url))("portico_streams"):
                await anyio.sleep(0.02)
        # What clients make up is no label: there would be no end of them.
        assert not [
            labels for labels in after.labels for value in labels.values() if "one" in value or "PROPFIND" in value
        ]


async def test_all_transports_count_into_one_and_the_page_names_all(tmp_path: Path) -> None:
    async with standin(tmp_path, "1.x") as net, dark_server(tmp_path, net, NETWORKING_MODE="http,ziti") as server:
        async with server.http() as http, net.http("portico") as dark:
            await dark.get("/claude/sessions")
            await http.get(f"{server.url}/claude/sessions")
            first = await numbers(http, server.url)
            assert first("portico_http_requests_total", route="/claude/sessions", status="200") == 2
            assert first("portico_ziti_bound", service="portico") == 1 == first("portico_ziti_listener_up")
            assert first("portico_ziti_connections", service="portico") == 1
            assert first("portico_ziti_listener_restarts_total") == 0
            assert (await dark.get("/metrics")).status_code == 200
            async with net.websocket("portico", "/claude/ws/nowhere") as socket:
                assert (await socket.closed())[0] == 4404
            ended = {"route": "/claude/ws/{session_id}", "method": "WEBSOCKET", "status": "4404"}
            assert (await numbers(http, server.url))("portico_http_requests_total", **ended) == 1
            listener(server).kill()
            await net.bound("portico", 0)
            seen = await numbers(http, server.url)
            with anyio.fail_after(HANG_SECONDS):
                while seen("portico_ziti_listener_up"):
                    seen = await numbers(http, server.url)
            assert seen("portico_ziti_bound", service="portico") == 0
            await net.bound("portico")
            with anyio.fail_after(HANG_SECONDS):
                while not seen("portico_ziti_bound", service="portico"):
                    seen = await numbers(http, server.url)
            assert seen("portico_ziti_listener_restarts_total") == 1
            assert seen("portico_ziti_connections", service="portico") == 0
            assert set(seen.families) == families_of_the_page()


def families_of_the_page() -> set[str]:
    """As the parser has them: a counter's without ``_total``."""
    rows = [line.split("`")[1] for line in PAGE.read_text().splitlines() if line.startswith("| `portico_")]
    return {name.partition("{")[0].removesuffix("_total") for name in rows}


def shown(*collectors: Collector) -> str:
    metrics = Metrics()
    metrics.add(*collectors)
    return metrics.text("alice", admin=False).decode()


def test_what_is_awkward_in_a_label_is_escaped() -> None:
    counter = Counter("a_total", 'what\n"is" \\ it', ("x",), registry=None)
    counter.labels('a"b\\c\nd').inc()
    found = {family.name: family for family in text_string_to_metric_families(shown(counter))}
    (sample,) = found["a"].samples
    assert sample.labels == {"x": 'a"b\\c\nd'} and found["a"].documentation == 'what\n"is" \\ it'


def test_a_histogram_says_nothing_of_when_it_began() -> None:
    histogram = Histogram("h", "h", buckets=(1, 2.5), registry=None)
    for value in (0.5, 1, 2, 99):
        histogram.observe(value)
    text = shown(histogram)
    found = {family.name: family for family in text_string_to_metric_families(text)}
    assert [(sample.labels.get("le"), sample.value) for sample in found["h"].samples] == [
        ("1.0", 2),
        ("2.5", 3),
        ("+Inf", 4),
        (None, 4),
        (None, 102.5),
    ]
    assert "_created" not in text


def test_one_that_can_t_be_read_is_left_out() -> None:
    class Silent(Collector):
        """Describes nothing, and fails."""

        def collect(self) -> Iterable[Metric]:
            raise OSError("no numbers today")

    broken = [Reading("a", "a", read=lambda: {("too", "many"): 1}), Reading("b", "b", read=lambda: {(): 1 / 0})]
    text = shown(*broken, Silent(), Reading("c", "c", read=lambda: {(): True}))
    assert text.splitlines()[-1:] == ["c 1.0"]
    assert "# HELP a" not in text


def test_a_name_is_given_once() -> None:
    metrics = Metrics()
    metrics.add(Counter("mine_total", "mine", registry=None))
    for again in (
        Counter("mine_total", "mine", registry=None),
        Reading("mine_total", "mine", read=dict, kind="counter"),
    ):
        with pytest.raises(ValueError, match="mine"):
            metrics.add(again)

"""The table of reverse proxies: each with its shortest configuration, and with its file of `deploy/`."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import anyio

from benchmarks.build import Build
from compat.outside import Missing
from compat.proxied import Facts
from compat.proxy_kinds import CONFIGURATIONS, OURS, PROXIES, SHORT, Proxy
from compat.proxy_trial import Trial, trial

ROOT = Path(__file__).parents[1]
HEADING = (
    *("proxy", "configuration", "build", "events late, ms: median / p99 / max", "WebSocket, plain / v1"),
    *("75 s of silence: SSE / plain / v1", "20 MiB body", "URL of 30 KB", "Origin: own / foreign", "client's address"),
    *("hang-up noticed", "in its logs"),
)


def table(builds: tuple[Build, Build], names: Sequence[str]) -> Iterator[str]:
    """Yield the lines of the table, the old build's row above the new one's."""
    with tempfile.TemporaryDirectory(prefix="pc-") as folder:
        found, missing = find(_chosen(names), Path(folder))
        trials = {
            label: anyio.run(trial, build.root, found, (SHORT, OURS))
            for label, build in zip(("old", "new"), builds, strict=True)
        }
    for label, each in trials.items():
        direct = _late(each.facts[0].direct) if each.facts else "not measured"
        yield f"{label}, without a proxy: events {direct} ms late; {each.streams:g} streams left at the end"
    yield ""
    yield f"| {' | '.join(HEADING)} |"
    yield "|---" * len(HEADING) + "|"
    for old, new in zip(*(each.facts for each in trials.values()), strict=True):
        yield _row("old", old)
        yield _row("new", new)
    yield from (f"\nnot tried: {each}" for each in missing)


def find(proxies: Sequence[Proxy], folder: Path) -> tuple[dict[Proxy, Path], list[str]]:
    """Look for the programs; return where each is, and why others can't be had."""
    folder.chmod(0o755)  # they run as nobody
    found, missing = {}, []
    for proxy in proxies:
        try:
            found[proxy] = proxy.find(folder / proxy.program)
        except Missing as problem:
            missing.append(f"{proxy.name}: {problem}")
    return found, missing


def _chosen(names: Sequence[str]) -> list[Proxy]:
    return [proxy for proxy in PROXIES if not names or proxy.name.lower() in (name.lower() for name in names)]


def _row(label: str, facts: Facts) -> str:
    if facts.trouble:
        return f"| {facts.proxy} {facts.version} | {facts.configuration} | {label} | {facts.trouble} |"
    cells = (
        f"{facts.proxy} {facts.version}",
        facts.configuration,
        label,
        _late(facts.late),
        " / ".join(facts.websocket.get(form, "") for form in ("plain", "v1")),
        " / ".join(facts.silence.get(kind, "") for kind in ("sse", "plain", "v1")),
        facts.body,
        facts.url,
        f"{facts.own_origin} / {facts.foreign_origin}",
        facts.address,
        facts.gone,
        " and ".join(facts.logged) or "nothing",
    )
    return f"| {' | '.join(cells)} |"


def _late(late: dict[str, float] | str) -> str:
    return late if isinstance(late, str) else f"{late['p50']:.0f} / {late['p99']:.0f} / {late['max']:.0f}"


def main(argv: Sequence[str]) -> int:
    """Print what was measured of this build, as JSON: what the tests look at."""
    parser = argparse.ArgumentParser(prog="python -m compat.proxies", description=main.__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(each.name for each in PROXIES)}")
    parser.add_argument("--configuration", action="append", choices=CONFIGURATIONS)
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="pc-") as folder:
        found, missing = find(_chosen(options.names), Path(folder))
        measured: Trial = anyio.run(trial, ROOT, found, options.configuration or CONFIGURATIONS)
    print(json.dumps({**asdict(measured), "missing": missing}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

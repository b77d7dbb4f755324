"""Runs every proxy before one build of the server, all at the same time, and asks the same of each."""

from __future__ import annotations

import grp
import json
import math
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from uuid import uuid4

import anyio
from anyio.abc import Process

from compat import proxied
from compat.outside import Missing, environment_of, program_of
from compat.proxied import FORGED, HOST, SILENCE, Arrivals, Client, Facts, noting
from compat.proxy_kinds import INSIDE, OURS, PREFIX, Place, Proxy
from tests.support.certificates import Certificates
from tests.support.server import running_server
from tests.support.talk import script

START_SECONDS = 30.0
STOP_SECONDS = 10.0
NOBODY = 65534
TOKEN = "compat-compat-compat"
EVERYBODY = "everybody"
SESSIONS = ("", "-sse", "-plain", "-v1", "-gone")
"""The sessions of a proxy: what is behind its name."""
WORDS, GAP_MS = 160, 50
CLAUDE = (
    {"session_id": "timed", "driver": "claude-code"},
    script({"words": WORDS, "say": "word ", "gap_ms": GAP_MS}),
)
ECHO = ({"session_id": "timed", "driver": "echo"}, json.dumps({"deltas": WORDS, "gap": GAP_MS / 1000}))
"""The body of a session, and a query whose turn takes some seconds."""
ATTACH_SECONDS = 2.0
TURNS = 3
"""Timed turns, of which the best counts: a busy machine is late now and then, a proxy that holds events back always."""


@dataclass(slots=True)
class Run:
    """One proxy with one configuration. ``client`` is a principal of its own, ``everybody`` is the same for all."""

    proxy: Proxy
    facts: Facts
    place: Place
    client: Client
    everybody: Client
    session: str
    log: Path
    """Of the server behind it."""
    cafile: Path | None
    """The authority of the certificate, if the proxy speaks TLS."""
    secrets: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Trial:
    """``streams`` is how many the server has left at the end; ``warnings`` are what it has warned of."""

    facts: list[Facts]
    streams: float
    warnings: list[str]


async def trial(source: Path, proxies: Mapping[Proxy, Path], configurations: Sequence[str]) -> Trial:
    """Measure the build whose tree is ``source``. The value of each proxy is the folder that its program lies in."""
    plans = [(proxy, each) for proxy in proxies for each in configurations]
    names = [f"r{number}" for number in range(len(plans))]
    with tempfile.TemporaryDirectory(prefix="pp-") as temporary:
        folder = Path(os.path.realpath(temporary))
        folder.chmod(0o755)  # proxies run as nobody
        port, path = _free_port(), folder / "portico.sock"
        certificates = Certificates(folder)
        own, cafile = _certificate(certificates), certificates.cafile
        settings = {
            "PYTHONPATH": str(source),
            "PORTICO_LOG_FORMAT": "json",
            "PORTICO_PROXY_HEADERS": "true",
            "PORTICO_AUTH_TOKENS": ",".join(f"{name}:{TOKEN}-{name}:admin" for name in (EVERYBODY, *names)),
            "PORTICO_MAX_SESSIONS": str(len(SESSIONS) * len(plans) + 1),
        }
        tcp = {
            **settings,
            "PORTICO_PORT": str(port),
            "PORTICO_ALLOWED_HOSTS": HOST,
            "PORTICO_TRUSTED_PROXIES": "127.0.0.1",
            "PORTICO_DRIVER": "claude-code,echo",
        }
        uds = {
            **settings,
            "PORTICO_UDS": str(path),
            "PORTICO_TRUSTED_PROXIES": "unix",
            "PORTICO_DRIVER": "echo",
            "PORTICO_ROOT_PATH": PREFIX,
            **({"PORTICO_UDS_GROUP": grp.getgrgid(NOBODY).gr_name} if os.geteuid() == 0 else {}),
        }
        for name in ("tcp", "uds", *names):
            (folder / name).mkdir()
        async with AsyncExitStack() as stack:
            runs = []
            for name, (proxy, configuration) in zip(names, plans, strict=True):
                place = Place(proxies[proxy], folder / name, _free_port(), port, path, *own)
                trust = None if configuration != OURS or not proxy.tls else certificates.client()
                url = f"{'https' if trust else 'http'}://127.0.0.1:{place.port}"
                prefix = PREFIX if configuration == INSIDE else ""
                client, everybody = (Client(url, f"{TOKEN}-{each}", trust, prefix=prefix) for each in (name, EVERYBODY))
                log = folder / ("uds" if configuration == INSIDE else "tcp") / "server.log"
                facts = Facts(proxy.name, configuration, version=_version(proxy, place))
                run = Run(proxy, facts, place, client, everybody, name, log, cafile if trust else None)
                runs.append(run)
                try:
                    await stack.enter_async_context(_running(run))
                except Missing as missing:
                    facts.trouble = str(missing)
            working = [run for run in runs if not run.facts.trouble]
            async with AsyncExitStack() as servers:
                server = await servers.enter_async_context(running_server(folder / "tcp", **tcp))
                if INSIDE in configurations:
                    await servers.enter_async_context(running_server(folder / "uds", **uds))
                direct = Client(server.url, f"{TOKEN}-{EVERYBODY}")
                inside = Client("http://localhost", f"{TOKEN}-{EVERYBODY}", uds=path)
                async with anyio.create_task_group() as tasks:
                    for run in working:
                        await _open_sessions(run)
                        tasks.start_soon(_wait_with, run)
                    for run in working:
                        await _ask_all(run)
                    for _ in range(TURNS):
                        await _time([run for run in working if run.facts.configuration != INSIDE], direct, *CLAUDE)
                        if INSIDE in configurations:
                            await _time([run for run in working if run.facts.configuration == INSIDE], inside, *ECHO)
                streams = await _streams_left(direct)
            for run in working:  # a proxy that finds no server may say more
                await proxied.repeat_secrets(run.client, run.session, run.secrets)
        for run in working:
            run.facts.logged = _logged(run)
        warnings = [text for log in {run.log for run in runs} for text in _warnings(log)]
        return Trial([run.facts for run in runs], streams, warnings)


async def _open_sessions(run: Run) -> None:
    for kind in reversed(SESSIONS):
        run.facts.location = await noting(partial(proxied.open_session, run.client, f"{run.session}{kind}"))


async def _wait_with(run: Run) -> None:
    """Take the measures that are mostly waiting."""
    facts, client, session = run.facts, run.client, run.session

    async def sse() -> None:
        facts.silence["sse"] = await noting(lambda: proxied.watch_silently(client, f"{session}-sse"))

    async def websocket(form: str) -> None:
        path, v1 = f"/ws/{session}-{form}", form == "v1"
        facts.websocket[form] = await noting(lambda: proxied.converse(client, path, v1))
        facts.silence[form] = await noting(lambda: proxied.converse(client, path, v1, SILENCE))

    async def gone() -> None:
        path = f"{client.api}/sessions/{session}-gone/events"
        facts.gone = await noting(
            lambda: proxied.leave(client, f"{session}-gone", lambda: bool(_access(run.log, path)))
        )

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(sse)
        tasks.start_soon(websocket, "plain")
        tasks.start_soon(websocket, "v1")
        tasks.start_soon(gone)


async def _ask_all(run: Run) -> None:
    facts, client, session = run.facts, run.client, run.session
    facts.body = await noting(lambda: proxied.send_body(client, session))
    facts.url = await noting(lambda: proxied.ask_in_url(client, session))
    facts.own_origin = await noting(lambda: proxied.come_from(client, session, client.origin))
    facts.foreign_origin = await noting(lambda: proxied.come_from(client, session, "https://elsewhere.example"))

    async def address() -> str:
        path = f"/sessions/address-of-{session}"
        await client.ask("GET", path, headers={"X-Forwarded-For": FORGED})
        with anyio.fail_after(proxied.ANSWER_SECONDS):
            while not (found := _access(run.log, f"{client.api}{path}")):
                await anyio.sleep(0.05)
        return str(found[0]["client"])

    async def secrets() -> str:
        run.secrets = await proxied.tell_secrets(client, session)
        return ""

    facts.address = await noting(address)
    facts.trouble = await noting(secrets)


async def _time(runs: Sequence[Run], direct: Client, session: Mapping[str, str], query: str) -> None:
    """Have all follow the same turn, and note how late its events are, unless they were earlier in another turn."""
    await direct.ask("POST", "/sessions", json=session)
    turn = {"query": query, "turn_id": str(uuid4())}
    found: dict[int, Arrivals | str] = {}
    curled: dict[int, Arrivals | str] = {}

    async def follow(key: int, client: Client, begun: anyio.Event) -> None:
        found[key] = await proxied.follow(client, session["session_id"], turn, begun)

    async def follow_over_http2(key: int, client: Client, cafile: Path, begun: anyio.Event) -> None:
        curled[key] = await proxied.follow_over_http2(client, session["session_id"], turn, cafile, begun)

    async with anyio.create_task_group() as tasks:
        first = anyio.Event()
        tasks.start_soon(follow, -1, direct, first)
        await first.wait()
        there = []
        for number, run in enumerate(runs):
            there.append(anyio.Event())
            tasks.start_soon(follow, number, run.everybody, there[-1])
            if run.cafile is not None and shutil.which("curl"):
                there.append(anyio.Event())
                tasks.start_soon(follow_over_http2, number, run.everybody, run.cafile, there[-1])
        with anyio.move_on_after(ATTACH_SECONDS):  # one that holds everything back is never there
            for event in there:
                await event.wait()
        since = time.time()
    reference = proxied.late(found[-1], since)
    for number, run in enumerate(runs):
        measured = proxied.late(found[number], since)
        if _ratio(measured, reference) <= _ratio(run.facts.late, run.facts.direct):
            run.facts.late, run.facts.direct = measured, reference
            if number in curled:
                run.facts.http2 = proxied.late(curled[number], since)


def _ratio(late: dict[str, float] | str, direct: dict[str, float] | str) -> float:
    return math.inf if isinstance(late, str) or isinstance(direct, str) else late["p99"] / max(direct["p99"], 1.0)


async def _streams_left(direct: Client) -> float:
    """Return the server's count of open streams, once there is none, or at last."""
    left = -1.0
    with anyio.move_on_after(proxied.GONE_SECONDS):
        while left:
            text = (await direct.http.get("/metrics")).text
            left = sum(float(value) for value in re.findall(r"^portico_streams\{.*\} (\S+)$", text, re.MULTILINE))
            await anyio.sleep(0.2)
    return left


@asynccontextmanager
async def _running(run: Run) -> AsyncIterator[None]:
    """Run the proxy, and what writes its log, as nobody. Raises `Missing`."""
    place, proxy = run.place, run.proxy
    lines = [[program_of(place.root, proxy.program), *proxy.configure(place, run.facts.configuration)]]
    if companion := proxy.log_writer(place, run.facts.configuration):
        lines.append([program_of(place.root, companion[0]), *companion[1:]])
    _give_away(place.folder)
    async with AsyncExitStack() as stack:
        for argv in lines:
            process = await stack.enter_async_context(_process(argv, place))
            with anyio.move_on_after(START_SECONDS):
                while process.returncode is None and not _listening(place.port):
                    await anyio.sleep(0.05)
            if process.returncode is not None or not _listening(place.port):
                raise Missing(f"{proxy.name} did not start: {(place.folder / 'output').read_text()[-2000:]}")
        yield


@asynccontextmanager
async def _process(argv: list[str], place: Place) -> AsyncIterator[Process]:
    environment = {**environment_of(place.root), "HOME": str(place.folder), "LANG": "C.UTF-8"}
    with (place.folder / "output").open("ab") as output:
        process = await anyio.open_process(
            argv,
            user=NOBODY if os.geteuid() == 0 else None,
            group=NOBODY if os.geteuid() == 0 else None,
            extra_groups=[] if os.geteuid() == 0 else None,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=place.folder,
            env=environment,
            start_new_session=True,
        )
    async with process:
        try:
            yield process
        finally:
            with anyio.CancelScope(shield=True):
                if process.returncode is None:
                    process.terminate()
                with anyio.move_on_after(STOP_SECONDS):
                    await process.wait()
                if process.returncode is None:
                    process.kill()


def _logged(run: Run) -> list[str]:
    """Name the secrets that are in a file that the proxy has written."""
    written = b"".join(path.read_bytes() for path in run.place.folder.rglob("*") if path.is_file() and _is_log(path))
    return [name for name, secret in run.secrets.items() if secret.encode() in written]


def _is_log(path: Path) -> bool:
    return path.name == "output" or path.suffix == ".log"


def _access(log: Path, path: str) -> list[dict[str, object]]:
    """Return the lines of the server's access log about a path."""
    lines = (json.loads(line) for line in log.read_text().splitlines() if f'"{path}"' in line)
    return [line for line in lines if line.get("path") == path]


def _warnings(log: Path) -> list[str]:
    lines = (json.loads(line) for line in log.read_text().splitlines() if line.startswith("{"))
    return [str(line["message"]) for line in lines if line["level"] in ("WARNING", "ERROR")]


def _version(proxy: Proxy, place: Place) -> str:
    argv = [program_of(place.root, proxy.program), *proxy.version]
    said = subprocess.run(argv, capture_output=True, text=True, timeout=START_SECONDS, env=environment_of(place.root))
    found = re.search(r"\d+\.\d+\.\d+", said.stdout + said.stderr)
    return found[0] if found else "unknown"


def _certificate(certificates: Certificates) -> tuple[Path, Path, Path]:
    """Issue one for the public name; return its chain, its key, and both in one file, readable by the proxies."""
    made = certificates.authority.issue_cert(HOST)
    chain, key, both = (certificates.folder / name for name in ("chain.pem", "key.pem", "both.pem"))
    chain.write_bytes(b"".join(each.bytes() for each in made.cert_chain_pems))
    key.write_bytes(made.private_key_pem.bytes())
    both.write_bytes(chain.read_bytes() + key.read_bytes())
    _give_away(chain, key, both)
    return chain, key, both


def _give_away(*paths: Path) -> None:
    if os.geteuid() == 0:
        for path in paths:
            for each in (path, *path.rglob("*")):
                os.chown(each, NOBODY, NOBODY)


def _free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


def _listening(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0

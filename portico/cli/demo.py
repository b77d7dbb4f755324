"""``portico demo``: a server that needs no key and demonstrates itself."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import anyio.to_thread
import click
from pydantic import SecretStr

from portico.cli.client.api import Client, Event
from portico.cli.client.connection import Endpoint, find_endpoint
from portico.cli.client.errors import ProblemError, Unreachable
from portico.config.load import Loaded, SettingsError, ziti_environment
from portico.config.settings import Settings
from portico.plugins.demo.model_server import serve_model
from portico.plugins.registry import Registry
from portico.plugins.token_auth.first_token import read_token
from portico.server.app import serve
from portico.server.logs import configure
from portico.ziti.identity import IdentityError, check_identity
from portico.ziti.overlay import Overlay

QUESTION = "Hello! What can you do?"
SESSION = "demo"


class Load(Protocol):
    def __call__(self, **defaults: Any) -> Loaded: ...


async def demo(load: Load, registry: Registry, environ: Mapping[str, str], program: Sequence[str]) -> None:
    """Serve the real CLI on a scripted model; show one turn through the server's own SSE endpoint; then keep serving.

    Its data is in a temporary folder, and it uses a free port, unless the settings name others. ``program``: the words
    that start this program. Raises `ClientError` if the first turn fails.
    """
    await anyio.to_thread.run_sync(_check_ways, load().settings)
    with tempfile.TemporaryDirectory(prefix="portico-demo-") as folder:
        defaults = {"data_dir": folder, "port": 0, "log_level": "warning", "allow_client_agents": True}
        loaded = load(**defaults)
        configure(loaded.settings.log_level, loaded.settings.log_format)
        async with serve_model() as model:
            credentials = {
                "anthropic_base_url": model.url,
                "anthropic_api_key": SecretStr("the-demo-needs-no-key"),
                "claude_code_oauth_token": None,
            }

            def load_demo() -> Loaded:
                found = load(**defaults)
                return replace(found, settings=found.settings.model_copy(update=credentials))

            loaded = load_demo()

            async def ready(addresses: tuple[str, ...]) -> None:
                await _show(_endpoint(loaded.settings, environ), program)

            await serve(loaded, registry, environ, ready=ready, reload=load_demo)


def _check_ways(settings: Settings) -> None:
    """Raise `SettingsError` if the demo could not be reached in these modes, or could not ask itself a question."""
    modes = set(settings.networking_mode)
    if not modes & {"http", "ziti"}:
        raise SettingsError(["networking_mode: the demo shows itself over HTTP or Ziti: name http or ziti as well"])
    if "ziti" not in modes or settings.ziti_identity_file is None:
        return
    if find_spec("openziti") is None:
        raise SettingsError(["networking_mode: the mode ziti needs a library: pip install 'portico-server[ziti]'"])
    try:
        check_identity(settings.ziti_identity_file)
    except IdentityError as error:
        raise SettingsError([f"ziti_identity_file: {error}"]) from None


def _endpoint(settings: Settings, environ: Mapping[str, str]) -> Endpoint:
    """Return the address that this server reports. The user's own PORTICO_URL and PORTICO_TOKEN are ignored.

    A server that is only on a Ziti network is dialled with its own identity.
    """
    plain = [token.secret.get_secret_value() for token in settings.auth_tokens if not token.hashed]
    if settings.auth_tokens and not plain:
        raise SettingsError(["auth_tokens: the demo needs a token that it can show, neither hashed nor in a file"])
    data_dir = Path(settings.data_dir)
    if "http" in settings.networking_mode or settings.ziti_identity_file is None:
        return find_endpoint({}, data_dir, token=plain[0] if plain else None)
    service = next((each for each in settings.ziti_service_name if each.principal), settings.ziti_service_name[0])
    token = None if service.principal else (plain[0] if plain else read_token(data_dir))
    overlay = Overlay(settings.ziti_identity_file, service.name, ziti_environment(environ))
    return find_endpoint({}, data_dir, token=token, overlay=overlay)


async def _show(endpoint: Endpoint, program: Sequence[str]) -> None:
    click.echo(f"Portico is ready on {endpoint.address}. ", nl=False)
    session = SESSION
    try:
        async with Client(endpoint) as client:
            session, new = await _session(client)
            if new:
                click.echo(f"Asking its first session: {QUESTION}\n")
                async with aclosing(client.query(session, QUESTION, turn_id="first")) as events:
                    async for event in events:
                        _print(event)
            else:
                click.echo(f"It goes on with the session {session}.", nl=False)
    except Unreachable as error:
        if endpoint.overlay is None:
            raise
        # Its own identity need not be allowed to dial; others may be.
        click.echo(f"It can't ask itself: {error}\nAsk it with an identity that may dial the service.")
    lines = [] if endpoint.overlay else [_curl(endpoint, session)]
    lines.append(_chat(endpoint, session, program))
    click.echo("\n\nNow you, in another terminal:\n\n" + "\n\n".join(lines) + "\n")
    click.echo("A new turn_id asks anew; a known one shows its turn again. Ctrl-C stops the server.")


async def _session(client: Client) -> tuple[str, bool]:
    """Return the id of the session to show, and whether it is new. In a data folder that was kept it may be there."""
    try:
        await client.create_session({"session_id": SESSION})
    except ProblemError as error:
        if error.code != "session_exists":
            raise
    else:
        return SESSION, True
    with suppress(ProblemError):  # somebody else's
        if (await client.session(SESSION))["state"] not in ("closed", "failed"):
            return SESSION, False
    return (await client.create_session({}))["session_id"], True


def _curl(endpoint: Endpoint, session: str) -> str:
    socket = f" --unix-socket {shlex.quote(endpoint.uds)}" if endpoint.uds else ""
    url = f"{endpoint.url}{endpoint.api_prefix}/stream/{session}?turn_id=second&query=Write+a+poem"
    header = f" -H 'Authorization: Bearer {endpoint.token}'" if endpoint.token else " -H 'X-Portico: 1'"
    return f"    curl -N{socket}{header} \\\n        '{url}'"


def _chat(endpoint: Endpoint, session: str, program: Sequence[str]) -> str:
    token = ["--token", endpoint.token] if endpoint.token else []
    way = ["--server", endpoint.option]
    if endpoint.overlay:
        way = ["--ziti-identity", str(endpoint.overlay.identity), "--ziti-service", endpoint.overlay.service]
    return "    " + shlex.join([*program, "chat", *way, *token, session])


def _print(event: Event) -> None:
    if event["type"] == "delta":
        click.echo(event["content"], nl=False)
    elif event["type"] == "error":
        click.echo(f"error: {event['error']}", err=True)

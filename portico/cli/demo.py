"""``portico demo``: a server that needs no key and demonstrates itself."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import click
from pydantic import SecretStr

from portico.cli.client.api import Client, Event
from portico.cli.client.connection import Endpoint, find_endpoint
from portico.config.load import Loaded, SettingsError
from portico.config.settings import Settings
from portico.plugins.demo.model_server import serve_model
from portico.plugins.registry import Registry
from portico.server.app import serve
from portico.server.logs import configure

QUESTION = "Hello! What can you do?"
SESSION = "demo"


class Load(Protocol):
    def __call__(self, **defaults: Any) -> Loaded: ...


async def demo(load: Load, registry: Registry, environ: Mapping[str, str], program: Sequence[str]) -> None:
    """Serve the real CLI on a scripted model; show one turn through the server's own SSE endpoint; then keep serving.

    Its data is in a temporary folder, and it uses a free port, unless the settings name others. ``program``: the words
    that start this program. Raises `ClientError` if the first turn fails.
    """
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
                await _show(_endpoint(loaded.settings), program)

            await serve(loaded, registry, environ, ready=ready, reload=load_demo)


def _endpoint(settings: Settings) -> Endpoint:
    """Return the address that this server reports. The user's own PORTICO_URL and PORTICO_TOKEN are ignored."""
    plain = [token.secret.get_secret_value() for token in settings.auth_tokens if not token.hashed]
    if settings.auth_tokens and not plain:
        raise SettingsError(["auth_tokens: the demo needs a token that it can show, neither hashed nor in a file"])
    return find_endpoint({}, Path(settings.data_dir), token=plain[0] if plain else None)


async def _show(endpoint: Endpoint, program: Sequence[str]) -> None:
    click.echo(f"Portico is ready on {endpoint.address}. Asking its first session: {QUESTION}\n")
    async with Client(endpoint) as client:
        await client.create_session({"session_id": SESSION})
        async with aclosing(client.query(SESSION, QUESTION, turn_id="first")) as events:
            async for event in events:
                _print(event)
    click.echo(f"\n\nNow you, in another terminal:\n\n{_curl(endpoint)}\n\n{_chat(endpoint, program)}\n")
    click.echo("A new turn_id asks anew; a known one shows its turn again. Ctrl-C stops the server.")


def _curl(endpoint: Endpoint) -> str:
    socket = f" --unix-socket {shlex.quote(endpoint.uds)}" if endpoint.uds else ""
    url = f"{endpoint.url}{endpoint.api_prefix}/stream/{SESSION}?turn_id=second&query=Write+a+poem"
    header = f" -H 'Authorization: Bearer {endpoint.token}'" if endpoint.token else ""
    return f"    curl -N{socket}{header} \\\n        '{url}'"


def _chat(endpoint: Endpoint, program: Sequence[str]) -> str:
    token = ["--token", endpoint.token] if endpoint.token else []
    return "    " + shlex.join([*program, "chat", "--server", endpoint.option, *token, SESSION])


def _print(event: Event) -> None:
    if event["type"] == "delta":
        click.echo(event["content"], nl=False)
    elif event["type"] == "error":
        click.echo(f"error: {event['error']}", err=True)

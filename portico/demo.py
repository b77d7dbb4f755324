"""``portico demo``: a server that needs no key, and shows itself."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

import click
import httpx
from pydantic import SecretStr

from portico.app import serve
from portico.config.load import Loaded
from portico.config.settings import Settings
from portico.logs import configure
from portico.plugins.demo.server import serve_model
from portico.plugins.token_auth.first_token import read_token

QUESTION = "Hello! What can you do?"


class Load(Protocol):
    def __call__(self, **overrides: Any) -> Loaded: ...


async def demo(load: Load, environ: Mapping[str, str]) -> None:
    """Serve the real CLI on a scripted model; show one turn through the server's own SSE endpoint; then go on serving.

    Keeps its data in a temporary folder, and takes a free port, unless the settings name others.
    """
    loaded = load()
    with tempfile.TemporaryDirectory(prefix="portico-demo-") as folder:
        overrides = {"data_dir": folder, "port": 0, "log_level": "warning"}
        loaded = load(**{name: value for name, value in overrides.items() if loaded.sources[name] == "default"})
        configure(loaded.settings.log_level, loaded.settings.log_format)
        async with serve_model() as model:
            settings = loaded.settings.model_copy(
                update={
                    "anthropic_base_url": model.url,
                    "anthropic_api_key": SecretStr("the-demo-needs-no-key"),
                    "claude_code_oauth_token": None,
                }
            )

            async def ready(addresses: tuple[str, ...]) -> None:
                await _show(addresses[0] + settings.api_prefix, _token(settings))

            await serve(replace(loaded, settings=settings), environ, ready=ready)


def _token(settings: Settings) -> str:
    if settings.auth_tokens:
        return settings.auth_tokens[0].secret.get_secret_value()
    return "none-is-needed" if settings.auth == "none" else read_token(settings.data_dir)


async def _show(url: str, token: str) -> None:
    click.echo(f"Portico is ready on {url}. Asking its first session: {QUESTION}\n")
    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {token}"}, timeout=60) as client:
        session = (await client.post(f"{url}/sessions", json={"session_id": "demo"})).raise_for_status().json()
        query = {"query": QUESTION, "turn_id": "first"}
        async with client.stream("POST", f"{url}/stream/{session['session_id']}", json=query) as stream:
            async for line in stream.aiter_lines():
                if line.startswith("data: "):
                    _print(json.loads(line.removeprefix("data: ")))
    click.echo(
        f"""

Now you, in another terminal:

    curl -N -H 'Authorization: Bearer {token}' \\
        '{url}/stream/demo?turn_id=second&query=Write+a+poem'

Ctrl-C stops the server."""
    )


def _print(event: dict[str, Any]) -> None:
    if event["type"] == "delta":
        click.echo(event["content"], nl=False)
    elif event["type"] == "error":
        click.echo(f"error: {event['error']}", err=True)

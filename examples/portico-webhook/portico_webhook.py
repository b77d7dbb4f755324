"""Posting the events of sessions to a URL, signed according to https://www.standardwebhooks.com.

The body is ``{"type": "session.events", "timestamp": ..., "data": {"session": {...}, "events": [...]}}``. The events
are those of one session, in order, in the form of the API.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from random import SystemRandom
from types import TracebackType
from typing import Any
from uuid import uuid4

import anyio
import click
import httpx
from pydantic import AnyHttpUrl, BaseModel, Field, SecretStr, ValidationError, field_validator, model_validator

from portico import Context, Event, Observer, SessionView, hookimpl

GIVE_UP_SECONDS = 25.0
"""Seconds for one delivery with all its attempts: Portico waits 30 s for an observer."""
LONGEST_PAUSE = 8.0
TEMPORARY = frozenset({408, 425, 429})
"""Statuses after which, as from 500 on, another attempt may succeed."""

log = logging.getLogger("portico_webhook")


class Settings(BaseModel):
    url: AnyHttpUrl | None = Field(None, description="Where to post events. Without it nothing is posted.")
    secret: SecretStr | None = Field(None, description="What signs them: 24 to 64 bytes in base64, behind whsec_.")
    types: tuple[str, ...] = Field(
        ("complete", "error", "permission_request", "session"), description="Types of the events to post."
    )
    attempts: int = Field(5, ge=1, description="How often to try one delivery.")
    timeout: float = Field(5.0, gt=0, description="Seconds that the receiver may take to answer.")

    @field_validator("secret")
    @classmethod
    def _is_a_key(cls, secret: SecretStr | None) -> SecretStr | None:
        if secret is not None:
            _key(secret)
        return secret

    @model_validator(mode="after")
    def _is_signed(self) -> Settings:
        if self.url is not None and self.secret is None:
            raise ValueError("a URL needs a secret too")
        return self


def _key(secret: SecretStr) -> bytes:
    try:
        key = base64.b64decode(secret.get_secret_value().removeprefix("whsec_"), validate=True)
    except ValueError:
        key = b""
    if not 24 <= len(key) <= 64:
        raise ValueError("it must be 24 to 64 bytes in base64, behind whsec_")
    return key


class Undelivered(Exception):
    """The reason in words for the operator, without the URL, which may contain a secret."""


class Webhook:
    """A receiver: its address, and how to post to it."""

    def __init__(self, url: str, secret: SecretStr, settings: Settings) -> None:
        self._url = url
        self._key = _key(secret)
        self._attempts = settings.attempts
        self._timeout = settings.timeout

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(timeout=self._timeout)

    async def deliver(self, client: httpx.AsyncClient, body: bytes) -> None:
        """Post until it is accepted. Raises `Undelivered` after the last attempt, or if another is of no use."""
        message_id = f"msg_{uuid4().hex}"  # the same for each attempt, so that a receiver recognises repeats
        reason = "it took too long"
        with anyio.move_on_after(GIVE_UP_SECONDS):
            for attempt in range(self._attempts):
                if attempt:
                    await anyio.sleep(min(LONGEST_PAUSE, 2**attempt / 2) * SystemRandom().uniform(0.5, 1))
                try:
                    answer = await client.post(self._url, content=body, headers=self._headers(message_id, body))
                except httpx.HTTPError as error:
                    reason = type(error).__name__
                    continue
                if answer.is_success:
                    return
                reason = f"status {answer.status_code}"
                if answer.status_code < 500 and answer.status_code not in TEMPORARY:
                    break
        raise Undelivered(reason)

    def _headers(self, message_id: str, body: bytes) -> dict[str, str]:
        timestamp = str(int(time.time()))
        signature = hmac.new(self._key, f"{message_id}.{timestamp}.".encode() + body, hashlib.sha256).digest()
        return {
            "content-type": "application/json",
            "webhook-id": message_id,
            "webhook-timestamp": timestamp,
            "webhook-signature": f"v1,{base64.b64encode(signature).decode()}",
        }


def _message(kind: str, data: Mapping[str, Any]) -> bytes:
    return json.dumps({"type": kind, "timestamp": datetime.now(UTC).isoformat(), "data": data}).encode()


class WebhookObserver:
    """An implementation of `portico.Observer`; its HTTP client lives as long as it does."""

    def __init__(self, webhook: Webhook, types: Sequence[str]) -> None:
        self._webhook = webhook
        self._types = frozenset(types)
        self._client = webhook.client()

    async def __aenter__(self) -> None:
        await self._client.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._client.__aexit__(kind, error, traceback)

    async def observe(self, session: SessionView, events: Sequence[Event]) -> None:
        wanted = [event for event in events if event.type in self._types]
        if not wanted:
            return
        data = {"session": session, "events": [json.loads(event.data) for event in wanted]}
        try:
            await self._webhook.deliver(self._client, _message("session.events", data))
        except Undelivered as reason:
            place = f"{session['session_id']} from {wanted[0].seq} to {wanted[-1].seq}"
            log.error("%d events of the session %s were not delivered: %s", len(wanted), place, reason)


def create(context: Context) -> Observer | None:
    settings: Settings = context.plugin_settings["webhook"]
    if settings.url is None or settings.secret is None:
        return None
    return WebhookObserver(Webhook(str(settings.url), settings.secret, settings), settings.types)


@click.command()
@click.option("--url", required=True, envvar="PORTICO_WEBHOOK_URL", help="Default: PORTICO_WEBHOOK_URL.")
@click.option("--secret", required=True, envvar="PORTICO_WEBHOOK_SECRET", help="Default: PORTICO_WEBHOOK_SECRET.")
def webhook_test(url: str, secret: str) -> None:
    """Post one signed message of the type test, and say whether it was accepted."""

    async def post(webhook: Webhook) -> None:
        async with webhook.client() as client:
            await webhook.deliver(client, _message("test", {}))

    try:
        settings = Settings.model_validate({"url": url, "secret": secret, "attempts": 1})
        anyio.run(post, Webhook(str(settings.url), SecretStr(secret), settings))
    except ValidationError as error:
        raise click.UsageError("; ".join(detail["msg"] for detail in error.errors(include_input=False))) from None
    except Undelivered as reason:
        raise click.ClickException(f"it was not taken: {reason}") from None
    click.echo("It was taken.")


@hookimpl
def portico_observers() -> Mapping[str, Callable[[Context], Observer | None]]:
    return {"webhook": create}


@hookimpl
def portico_settings() -> Mapping[str, type[BaseModel]]:
    return {"webhook": Settings}


@hookimpl
def portico_commands() -> Mapping[str, click.Command]:
    return {"webhook-test": webhook_test}

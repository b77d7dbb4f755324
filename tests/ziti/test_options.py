"""`--ziti-identity` and `--ziti-service` as they are typed, where no network is needed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from portico.cli.client.invocation import Invocation
from portico.cli.commands import commands
from tests.support.enrolled import identity, write
from tests.support.typed import Typed


@pytest.mark.parametrize(
    "arguments",
    [
        ("--ziti-identity", "x"),
        ("--ziti-service", "x"),
        ("--ziti-identity", "x", "--ziti-service", "y", "--server", "z"),
    ],
)
def test_options_that_do_not_go_together(typed: Typed, arguments: tuple[str, ...]) -> None:
    status, _, errors = typed("sessions", *arguments)
    assert status == 2 and "--ziti-service" in errors


def test_what_is_typed_again_leads_there_again(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Invocation] = []

    async def ask(*_: object, again: Invocation, **__: object) -> None:
        seen.append(again)

    monkeypatch.setattr("portico.cli.client.ask.ask", ask)
    options = ("--ziti-identity", "x.json", "--ziti-service", "s")
    commands.main(["ask", "hi", *options, "--token", "secret"], standalone_mode=False)
    assert seen[0].options == options


def test_without_openziti_it_says_what_to_install(
    typed: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "openziti.py").write_text("raise ModuleNotFoundError('No module', name='openziti')")
    monkeypatch.syspath_prepend(tmp_path)
    file = write(tmp_path / "alice.json", identity())
    status, _, errors = typed("sessions", "--ziti-identity", str(file), "--ziti-service", "x")
    assert status == 1 and len(errors.splitlines()) == 1
    assert errors.endswith(": pip install 'portico-server[ziti]'\n") and "openziti can't be loaded" in errors


def test_a_server_that_is_dark_says_how_it_is_found(typed: Typed, tmp_path: Path) -> None:
    entry = {"url": "ziti:portico-alice", "api_prefix": "/claude", "pid": os.getpid()}
    (tmp_path / "server.json").write_text(json.dumps(entry))
    status, _, errors = typed("sessions", "--data-dir", str(tmp_path))
    assert status == 1 and "give --ziti-identity and --ziti-service (ziti:portico-alice)" in errors

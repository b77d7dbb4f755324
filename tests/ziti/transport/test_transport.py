from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from portico.config.load import load
from portico.core.principal import Principal
from portico.plugins.context import Context
from portico.transports.base import TransportFailed
from portico.transports.hosts import ANY
from portico.ziti.transport.transport import Diallers, ZitiTransport, create


def made(tmp_path: Path, **options: str) -> Any:
    options = {"networking_mode": "ziti", "ziti_identity_file": "id.json", "ziti_service_name": "portico", **options}
    settings = load(options, {}, tmp_path).settings
    transport = create(Context(settings, tmp_path))
    assert isinstance(transport, ZitiTransport)
    return SimpleNamespace(hosts=transport._api.hosts, diallers=transport._diallers, task=transport._task)


def test_who_dials_a_service_with_a_principal_is_that_principal(tmp_path: Path) -> None:
    diallers = made(tmp_path, ziti_service_name="a=alice,o=ops:admin,portico").diallers
    assert diallers("a", "ops").principal == Principal("alice")
    assert diallers("o", "").principal == Principal("ops", admin=True)
    assert diallers("portico", "alice").principal is None


def test_a_callers_name_counts_only_where_it_is_trusted_and_the_service_names_nobody() -> None:
    principals = {"portico": None, "a": Principal("alice")}
    assert Diallers(principals)("portico", "bob").principal is None
    assert Diallers(principals, trust=True)("portico", "bob").principal == Principal("bob")
    assert Diallers(principals, trust=True)("a", "bob").principal == Principal("alice")


@pytest.mark.parametrize("caller", ["", "a\nb", "x" * 129, "\ufffd\x00"])
def test_what_is_no_name_is_nobody(caller: str) -> None:
    assert Diallers({"portico": None}, trust=True)("portico", caller).principal is None


def test_where_tokens_are_asked_for_any_host_name_will_do(tmp_path: Path) -> None:
    assert ANY in made(tmp_path).hosts
    assert ANY not in made(tmp_path, ziti_trust_caller="true").hosts
    assert ANY not in made(tmp_path, ziti_service_name="portico,a=alice").hosts


def test_else_it_is_a_services_a_loopback_or_an_allowed_one(tmp_path: Path) -> None:
    hosts = made(tmp_path, ziti_service_name="Portico.Alice=alice", allowed_hosts="portico.ziti,fd00::1").hosts
    assert {"portico.alice", "localhost", "127.0.0.1", "[::1]", "portico.ziti", "[fd00::1]"} == set(hosts)


def test_without_authentication_every_service_names_a_principal(tmp_path: Path) -> None:
    with pytest.raises(TransportFailed, match="name a principal for each service"):
        made(tmp_path, auth="none", ziti_service_name="portico,a=alice")
    made(tmp_path, auth="none", ziti_service_name="a=alice")


def test_the_probes_path_is_nobodys_guess(tmp_path: Path) -> None:
    paths = {made(tmp_path).task.probe_path for _ in range(3)}
    assert len(paths) == 3 and all(len(path) > 30 for path in paths)

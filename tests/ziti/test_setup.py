"""`portico ziti setup` as it is typed, against a controller's management API."""

from __future__ import annotations

import os
import re
import socket
import stat
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.support.edge_management import PASSWORD, Controller, controller, enrolment_token
from tests.support.typed import Typed
from tests.ziti.network import Network
from tests.ziti.setups import forget_setup


@pytest.fixture
def edge(tmp_path: Path) -> Iterator[Controller]:
    with controller(tmp_path) as running:
        running.add("edge-routers", name="router", isOnline=True)
        yield running


@pytest.fixture
def setup(edge: Controller, typed: Typed) -> Typed:
    """`portico ziti setup`, with what leads to this controller."""

    def run(*arguments: str, stdin: str = "", **variables: str) -> tuple[int, str, str]:
        known = ("ziti", "setup", "--controller", edge.url, "--ca", str(edge.ca))
        return typed(*known, *arguments, stdin=stdin, **{"ZITI_PWD": PASSWORD, **variables})

    return run


def steps(output: str) -> dict[str, str]:
    """Return the state of each object, from the lines of the output that begin with two blanks."""
    return {what: state.strip() for state, what in re.findall(r"^  (\S.{16}) (\S.*)$", output, re.MULTILINE)}


def test_an_empty_network_gets_all_that_a_person_needs(edge: Controller, setup: Typed, home: Path) -> None:
    status, output, errors = setup("--person", "alice")
    assert (status, errors) == (0, "")
    assert set(steps(output).values()) == {"made"}
    assert edge.named("identities", "portico-server")["isAdmin"] is False
    assert edge.named("services", "portico-alice")["encryptionRequired"] is True
    for name, kind, identity in (
        ("portico-bind", "Bind", "@portico-server"),
        ("portico-probe", "Dial", "@portico-server"),
        ("portico-alice-dial", "Dial", "@alice"),
    ):
        assert edge.named("service-policies", name)["type"] == kind
        assert edge.roles("service-policies", name, "identityRoles") == {identity}
        assert edge.roles("service-policies", name, "serviceRoles") == {"@portico-alice"}
    assert edge.roles("edge-router-policies", "portico", "identityRoles") == {"@portico-server", "@alice"}
    assert edge.roles("service-edge-router-policies", "portico", "serviceRoles") == {"@portico-alice"}
    assert edge.roles("edge-router-policies", "portico", "edgeRouterRoles") == {"#all"}
    for name in ("portico-server", "alice"):
        file = home / f"{name}.jwt"
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert file.read_text() == edge.named("identities", name)["enrollment"]["ott"]["jwt"]
    assert f"ZITI_IDENTITY_FILE={home}/portico-server.json\n" in output
    assert "ZITI_SERVICE_NAME=portico-alice=alice\n" in output
    assert "ziti enroll alice.jwt --out alice.json\n" in output
    assert "chat --ziti-identity alice.json --ziti-service portico-alice\n" in output


ALL_KINDS = ("--person", "alice", "--group", "ops:admin", "--service", "public", "--dialler", "public=bob")


def test_twice_in_a_row_changes_nothing_the_second_time(edge: Controller, setup: Typed, home: Path) -> None:
    assert setup(*ALL_KINDS)[0] == 0
    tokens = {path: (path.read_text(), path.stat().st_mtime_ns) for path in home.glob("*.jwt")}
    edge.writes.clear()
    status, output, _ = setup(*ALL_KINDS)
    assert status == 0 and edge.writes == []
    assert set(steps(output).values()) == {"was there already"}
    assert {path: (path.read_text(), path.stat().st_mtime_ns) for path in home.glob("*.jwt")} == tokens
    assert "ZITI_SERVICE_NAME=public,portico-alice=alice,portico-ops=ops:admin\n" in output


def test_a_dry_run_changes_nothing(edge: Controller, setup: Typed, home: Path) -> None:
    status, output, _ = setup(*ALL_KINDS, "--dry-run")
    assert status == 0 and edge.writes == [] and os.listdir(home) == []
    assert set(steps(output).values()) == {"would be made"}
    dry = {what for what in steps(output)}
    setup("--person", "alice")
    edge.writes.clear()
    status, output, _ = setup(*ALL_KINDS, "--dry-run")
    assert status == 0 and edge.writes == []
    assert set(steps(output)) == dry | {what for what in steps(output) if what.startswith("file")}
    assert steps(output)["Bind policy portico-bind"] == "would be changed"
    assert steps(output)["identity alice"] == "was there already"


def test_who_is_added_later_is_added_to_what_is_there(edge: Controller, setup: Typed) -> None:
    setup("--person", "alice")
    status, output, _ = setup("--person", "bob", "--dialler", "#staff")
    assert status == 0
    assert steps(output)["Bind policy portico-bind"] == "changed"
    assert edge.roles("service-policies", "portico-bind", "serviceRoles") == {"@portico-alice", "@portico-bob"}
    assert edge.roles("service-policies", "portico-bob-dial", "identityRoles") == {"@bob", "#staff"}
    assert edge.roles("service-policies", "portico-alice-dial", "identityRoles") == {"@alice"}
    assert edge.roles("edge-router-policies", "portico", "identityRoles") == {
        "@portico-server",
        "@alice",
        "@bob",
        "#staff",
    }


def test_a_group_is_an_attribute_and_policies_for_all_are_kept_to(edge: Controller, setup: Typed) -> None:
    edge.add("edge-router-policies", name="everybody", identityRoles=["#all"], edgeRouterRoles=["#public"])
    edge.add("service-edge-router-policies", name="everywhere", serviceRoles=["#all"], edgeRouterRoles=["#all"])
    edge.named("edge-routers", "router")["isOnline"] = False
    status, output, _ = setup("--group", "ops:admin")
    assert status == 0
    assert steps(output)["edge router policy everybody"] == "was there already"
    assert len(edge.entities["edge-router-policies"]) == len(edge.entities["service-edge-router-policies"]) == 1
    assert edge.roles("service-policies", "portico-ops-dial", "identityRoles") == {"#ops"}
    assert "ZITI_SERVICE_NAME=portico-ops=ops:admin\n" in output
    assert "no edge router is online" in output


def test_an_expired_token_is_exchanged(edge: Controller, setup: Typed, home: Path) -> None:
    setup("--person", "alice")
    del edge.named("identities", "portico-server")["enrollment"]["ott"]  # it was enrolled
    (home / "portico-server.jwt").unlink()
    past = datetime.now(UTC) - timedelta(hours=1)
    ott = edge.named("identities", "alice")["enrollment"]["ott"]
    ott |= {"expiresAt": past.isoformat().replace("+00:00", "Z"), "jwt": enrolment_token(expires=past)}
    edge.writes.clear()
    status, output, _ = setup("--person", "alice", "--dry-run")
    assert status == 0 and edge.writes == []
    assert steps(output)["enrolment token of alice, which had expired"] == "would be changed"
    status, output, _ = setup("--person", "alice")
    assert status == 0 and edge.writes == ["REFRESH alice"]
    assert (home / "alice.jwt").read_text() == ott["jwt"]
    assert not (home / "portico-server.jwt").exists() and "enroll portico-server" not in output


def test_a_policy_of_that_name_for_something_else_is_left_alone(edge: Controller, setup: Typed) -> None:
    edge.add("service-policies", name="portico-bind", type="Dial", semantic="AnyOf", identityRoles=[], serviceRoles=[])
    status, _, errors = setup("--person", "alice")
    assert status == 1
    assert errors == "portico: there is a policy portico-bind already, whose type is Dial, not Bind\n"


@pytest.mark.parametrize("password", ["wrong password", "no"])
def test_a_wrong_password(setup: Typed, password: str) -> None:
    status, output, errors = setup("--person", "alice", ZITI_PWD=password)
    assert (status, output) == (1, "")
    assert errors == "portico: the controller does not take this password of 'admin'\n"


def test_the_password_comes_from_standard_input_too_and_never_from_nowhere(setup: Typed) -> None:
    options = ("--person", "alice", "--dry-run", "--password", "-")
    assert setup(*options, ZITI_PWD="", stdin=f"{PASSWORD}\n")[0] == 0
    status, _, errors = setup(*options[:3], ZITI_PWD="")
    assert status == 2 and "--password" in errors


def test_a_certificate_that_nobody_vouches_for(edge: Controller, typed: Typed) -> None:
    known = ("ziti", "setup", "--controller", edge.url, "--person", "alice", "--dry-run")
    status, output, errors = typed(*known, ZITI_PWD=PASSWORD)
    assert (status, output) == (1, "")
    assert "can't prove who it is: self-signed certificate" in errors and "--insecure" in errors
    assert len(errors.splitlines()) == 1
    assert typed(*known, "--insecure", ZITI_PWD=PASSWORD)[0] == 0


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("https://127.0.0.1:{closed}", "can't connect to https://127.0.0.1:{closed}: Connection refused"),
        ("https://127.0.0.1:{silent}", "https://127.0.0.1:{silent} does not answer"),
        ("http://127.0.0.1:1", "'http://127.0.0.1:1' is not a controller's address; write https://HOST:PORT"),
        ("https://127.0.0.1:x", "'https://127.0.0.1:x' is not a controller's address; write https://HOST:PORT"),
    ],
)
def test_controllers_that_are_none(typed: Typed, monkeypatch: pytest.MonkeyPatch, address: str, words: str) -> None:
    monkeypatch.setattr("portico.ziti.setup.management.SECONDS", 0.5)
    with socket.socket() as closed, socket.create_server(("127.0.0.1", 0)) as silent:
        closed.bind(("127.0.0.1", 0))
        ports = {"closed": closed.getsockname()[1], "silent": silent.getsockname()[1]}
        known = ("ziti", "setup", "--person", "alice", "--controller", address.format(**ports))
        assert typed(*known, ZITI_PWD=PASSWORD) == (1, "", f"portico: {words.format(**ports)}\n")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "give --person, --group or --service"),
        (("--person", "a b"), "'a b' is not NAME or NAME:admin"),
        (("--person", 'a"'), "is not NAME"),
        (("--service", "a=b:root"), "is not NAME, NAME=PRINCIPAL or NAME=PRINCIPAL:admin"),
        (("--person", "a", "--group", "a"), "there is a service portico-a already"),
        (("--person", "a", "--person", "b", "--dialler", "c"), "write SERVICE=c"),
        (("--person", "a", "--dialler", "x=c"), "x is none of the services given"),
    ],
)
def test_mistakes_of_usage(typed: Typed, arguments: tuple[str, ...], words: str) -> None:
    status, output, errors = typed("ziti", "setup", "--controller", "https://127.0.0.1:1", *arguments)
    assert (status, output) == (2, "")
    assert words in errors


def test_on_a_real_network(network: Network, typed: Typed, home: Path) -> None:
    """From nothing to enrolled identities."""
    options = ("--controller", network.url, "--ca", str(network.ca), "--person", "alice", "--group", "ops")

    def setup(password: str = network.password) -> tuple[int, str, str]:
        return typed("ziti", "setup", *options, ZITI_PWD=password)

    try:
        status, _, errors = setup()
        assert (status, errors) == (0, "")
        assert set(steps(setup()[1]).values()) == {"was there already"}
        assert setup("wrong password")[0] == 1
        for name in ("portico-server", "alice"):
            assert typed("ziti", "enroll", f"{name}.jwt", "--out", f"{name}.json") == (
                0,
                f"{name}.json is enrolled. The token in {name}.jwt is used up.\n",
                "",
            )
            assert stat.S_IMODE((home / f"{name}.json").stat().st_mode) == 0o600
        status, _, errors = typed("ziti", "enroll", "alice.jwt", "--out", "other.json")
        assert status == 1 and "it was used already" in errors and not (home / "other.json").exists()
        assert set(steps(setup()[1]).values()) == {"was there already"}
    finally:
        forget_setup(network)

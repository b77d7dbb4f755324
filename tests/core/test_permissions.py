"""A request is resolved once, and everybody can learn who resolved it."""

from __future__ import annotations

import pytest

from portico.core.errors import Conflict, NotFound
from portico.core.events import PermissionRequest
from portico.core.permissions import REMEMBERED, Permissions


def request(request_id: str) -> PermissionRequest:
    return PermissionRequest(type="permission_request", request_id=request_id, tool_name="Write", input={})


def test_the_first_answer_wins_and_the_second_learns_whose_it_was() -> None:
    permissions = Permissions(timeout=300)
    permissions.add(request("r"), now=0)
    assert permissions.resolve("r", "allow", "answered", "alice")["behavior"] == "allow"
    with pytest.raises(Conflict) as caught:
        permissions.resolve("r", "deny", "answered", "bob")
    assert caught.value.code == "already_resolved"
    assert caught.value.extra == {"behavior": "allow", "principal": "alice", "reason": "answered"}


def test_an_unknown_request_is_not_found() -> None:
    with pytest.raises(NotFound):
        Permissions(timeout=300).resolve("r", "allow", "answered")


def test_requests_expire_one_by_one_and_say_when() -> None:
    permissions = Permissions(timeout=300)
    assert permissions.add(request("a"), now=1000)["expires_at"].endswith("Z")
    permissions.add(request("b"), now=1010)
    assert permissions.next_deadline() == 1300
    assert list(permissions.expired(1299)) == []
    assert list(permissions.expired(1300)) == ["a"]


def test_a_timeout_of_zero_waits_for_ever() -> None:
    permissions = Permissions(timeout=0)
    assert "expires_at" not in permissions.add(request("a"), now=0)
    assert permissions.next_deadline() is None


def test_withdrawing_settles_all_that_is_pending() -> None:
    permissions = Permissions(timeout=300)
    for name in "ab":
        permissions.add(request(name), now=0)
    assert [body["request_id"] for body in permissions.withdraw_all("agent_exited")] == ["a", "b"]
    assert permissions.pending == []


def test_what_is_remembered_is_bounded() -> None:
    permissions = Permissions(timeout=300)
    for n in range(REMEMBERED + 1):
        permissions.add(request(str(n)), now=0)
        permissions.resolve(str(n), "allow", "answered")
    with pytest.raises(NotFound):
        permissions.resolve("0", "allow", "answered")
    with pytest.raises(Conflict):
        permissions.resolve("1", "allow", "answered")

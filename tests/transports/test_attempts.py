"""A caller who guesses credentials is slowed down, and nobody else."""

from __future__ import annotations

from typing import Any

import pytest

from portico.core.errors import Exhausted
from portico.transports.attempts import ADDRESSES, FREE_FAILURES, PAUSE_SECONDS, Attempts, address_of
from portico.transports.dialler import Dialler, extension


class Clock:
    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


def guess(attempts: Attempts, address: str, times: int = FREE_FAILURES) -> None:
    for number in range(times):
        attempts.check(address, f"guess {number}")
        attempts.failed(address)


def test_after_some_failures_an_address_waits_and_then_has_one_more() -> None:
    attempts = Attempts(now=(clock := Clock()))
    guess(attempts, "a")
    with pytest.raises(Exhausted) as refused:
        attempts.check("a", "one more")
    assert refused.value.retry_after == PAUSE_SECONDS
    attempts.check("b", "another's")
    clock.time += PAUSE_SECONDS
    guess(attempts, "a", 1)
    with pytest.raises(Exhausted):
        attempts.check("a", "one more")
    clock.time += PAUSE_SECONDS * FREE_FAILURES
    guess(attempts, "a")


def test_what_was_good_before_at_an_address_is_let_through_there() -> None:
    attempts = Attempts(now=Clock())
    attempts.succeeded("proxy", "good")
    guess(attempts, "proxy")
    attempts.check("proxy", "good")
    with pytest.raises(Exhausted):
        attempts.check("proxy", "g00d")
    guess(attempts, "other")
    with pytest.raises(Exhausted):
        attempts.check("other", "good")


def test_the_tables_do_not_grow() -> None:
    attempts = Attempts(now=Clock())
    guess(attempts, "the one")
    for number in range(ADDRESSES * 2):
        attempts.failed(str(number))
        attempts.succeeded(str(number), "good")
    assert len(attempts._failures) == len(attempts._good) == ADDRESSES


@pytest.mark.parametrize(
    ("client", "address"),
    [
        (None, "the Unix socket"),
        (("", 0), "the Unix socket"),
        (("10.0.0.1", 1), "10.0.0.1"),
        (("::ffff:10.0.0.1", 1), "10.0.0.1"),
        (("2001:db8:1:2:3:4:5:6", 1), "2001:db8:1:2::/64"),
        (("fe80::1%eth0", 1), "fe80::/64"),
        (("not\nan address", 1), "'not\\nan address'"),
    ],
)
def test_an_address_is_what_one_client_has_for_itself(client: Any, address: str) -> None:
    assert address_of({"type": "http", "client": client}) == address


def test_a_caller_over_ziti_is_its_label() -> None:
    scope = {"type": "http", "client": ("127.0.0.1", 1), "extensions": extension(Dialler("service", "a\nb" * 100))}
    assert address_of(scope).startswith("'a\\nb") and len(address_of(scope)) == 128

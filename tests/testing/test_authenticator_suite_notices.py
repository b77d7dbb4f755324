"""Authenticators that break one rule each: the suite notices every one, and by the test that states the rule."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from inspect import signature

import anyio
import anyio.lowlevel
import pytest

from portico.core.principal import Authenticator, Principal
from portico.testing.authenticator import HUGE, AuthenticatorConformance

pytestmark = pytest.mark.anyio

log = logging.getLogger(__name__)


class Good:
    """Breaks nothing."""

    name = "good"

    def __init__(self, known: Mapping[str, Principal]) -> None:
        self._known = known

    async def authenticate(self, secret: str | None) -> Principal | None:
        return None if secret is None else self._known.get(secret)


class Suite(AuthenticatorConformance):
    call_seconds = 1.0

    def __init__(self, variant: type[Good]) -> None:
        self._variant = variant

    def create(self) -> Authenticator:
        return self._variant(self.known())

    def known(self) -> Mapping[str, Principal]:
        return {"s3cret-of-alice": Principal("alice"), "s3cret-of-ops": Principal("ops", admin=True)}


RULES = sorted(name for name in dir(AuthenticatorConformance) if name.startswith("test_"))


class Nameless(Good):
    name = ""


class MakesNobodyAdmin(Good):
    async def authenticate(self, secret: str | None) -> Principal | None:
        found = await super().authenticate(secret)
        return found and Principal(found.name)


class KnowsEverybodyOnce(Good):
    def __init__(self, known: Mapping[str, Principal]) -> None:
        super().__init__(dict(known))
        self._used: dict[str, int] = {}

    async def authenticate(self, secret: str | None) -> Principal | None:
        found = await super().authenticate(secret)
        if secret is not None:
            self._used[secret] = self._used.get(secret, 0) + 1
            if self._used[secret] == 2:
                return None
        return found


class SaysAdminByNumber(Good):
    async def authenticate(self, secret: str | None) -> Principal | None:
        found = await super().authenticate(secret)
        return found and Principal(found.name, 1 if found.admin else 0)  # type: ignore[arg-type]


class LetsNothingIn(Good):
    async def authenticate(self, secret: str | None) -> Principal | None:
        return await super().authenticate(secret) if secret else Principal("anonymous")


class StumblesOverNothing(Good):
    async def authenticate(self, secret: str | None) -> Principal | None:
        assert secret is not None
        return await super().authenticate(secret)


class TakesTheNameForTheSecret(Good):
    async def authenticate(self, secret: str | None) -> Principal | None:
        names = {principal.name: principal for principal in self._known.values()}
        return await super().authenticate(secret) or (names.get(secret) if secret else None)


class StripsBlanks(Good):
    async def authenticate(self, secret: str | None) -> Principal | None:
        return await super().authenticate(secret and secret.strip(" "))


class TakesTheBeginning(Good):
    async def authenticate(self, secret: str | None) -> Principal | None:
        return next(
            (self._known[one] for one in self._known if secret and len(secret) > 3 and one.startswith(secret)), None
        )


class LooksAwayFromCase(Good):
    async def authenticate(self, secret: str | None) -> Principal | None:
        return await super().authenticate(secret and secret.lower())


class SpeaksLatin(Good):
    async def authenticate(self, secret: str | None) -> Principal | None:
        return await super().authenticate(secret and secret.encode("latin-1").decode("latin-1"))


class ThinksLongAboutHugeOnes(Good):
    async def authenticate(self, secret: str | None) -> Principal | None:
        if secret is not None and len(secret) >= len(HUGE):
            await anyio.sleep_forever()
        return await super().authenticate(secret)


class KnowsOneCallerAtATime(Good):
    async def authenticate(self, secret: str | None) -> Principal | None:
        self._secret = secret
        await anyio.lowlevel.checkpoint()
        return await super().authenticate(self._secret)


class StaysLocked(Good):
    locked = False

    async def authenticate(self, secret: str | None) -> Principal | None:
        while self.locked:
            await anyio.lowlevel.checkpoint()
        self.locked = True
        await anyio.lowlevel.checkpoint()
        self.locked = False
        return await super().authenticate(secret)


class ShowsItsSecrets(Good):
    def __repr__(self) -> str:
        return f"Authenticator({self._known})"


class LogsWhatItDoesNotKnow(Good):
    async def authenticate(self, secret: str | None) -> Principal | None:
        found = await super().authenticate(secret)
        if found is None:
            log.debug("nobody has %r", secret)
        return found


BROKEN: dict[type[Good], set[str]] = {
    Nameless: {"test_it_has_a_name"},
    MakesNobodyAdmin: {
        "test_a_known_secret_gives_its_principal",
        "test_callers_at_once_are_not_mixed_up",
        "test_a_cancelled_call_is_in_nobodys_way",
    },
    KnowsEverybodyOnce: {
        "test_a_known_secret_gives_its_principal",
        "test_callers_at_once_are_not_mixed_up",
        "test_a_cancelled_call_is_in_nobodys_way",
    },
    SaysAdminByNumber: {"test_a_principal_is_complete"},
    LetsNothingIn: {"test_nothing_is_nobody"},
    StumblesOverNothing: {"test_nothing_is_nobody"},
    TakesTheNameForTheSecret: {"test_an_unknown_secret_is_nobody"},
    StripsBlanks: {"test_almost_right_is_wrong"},
    TakesTheBeginning: {"test_almost_right_is_wrong"},
    LooksAwayFromCase: {"test_almost_right_is_wrong"},
    SpeaksLatin: {"test_a_strange_secret_is_nobody"},
    ThinksLongAboutHugeOnes: {"test_a_huge_secret_is_nobody"},
    KnowsOneCallerAtATime: {"test_callers_at_once_are_not_mixed_up"},
    StaysLocked: {"test_a_cancelled_call_is_in_nobodys_way"},
    ShowsItsSecrets: {"test_secrets_stay_secret"},
    LogsWhatItDoesNotKnow: {"test_secrets_stay_secret"},
}


async def noticed(variant: type[Good], rule: str, caplog: pytest.LogCaptureFixture) -> str | None:
    """Return the failure of the test that states ``rule``; None if it passes."""
    suite = Suite(variant)
    if variant in (ThinksLongAboutHugeOnes, StaysLocked):
        suite.call_seconds = 0.1
    caplog.clear()
    test = getattr(suite, rule)
    try:
        await (test(caplog) if signature(test).parameters else test())
    except AssertionError as failure:
        return str(failure)
    return None


@pytest.mark.parametrize("variant", BROKEN, ids=lambda variant: variant.__name__)
async def test_a_broken_authenticator_fails_exactly_the_rule_that_it_breaks(
    variant: type[Good], caplog: pytest.LogCaptureFixture
) -> None:
    said = {rule: await noticed(variant, rule, caplog) for rule in RULES}
    failed = {rule for rule, text in said.items() if text is not None}
    assert failed == BROKEN[variant]
    assert all(said[rule] for rule in failed)  # and in words


@pytest.mark.parametrize("rule", RULES)
async def test_no_rule_is_without_its_proof(rule: str, caplog: pytest.LogCaptureFixture) -> None:
    assert rule in set.union(*BROKEN.values())
    assert await noticed(Good, rule, caplog) is None
    assert (getattr(AuthenticatorConformance, rule).__doc__ or "").endswith("."), "its docstring states the rule"

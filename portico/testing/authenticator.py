"""The requirements on every authenticator, as a class of tests.

class TestMyAuthenticator(AuthenticatorConformance):
    known = {"alice's secret": Principal("alice"), "root's secret": Principal("root", admin=True)}

    def create(self) -> Authenticator:
        return MyAuthenticator(...)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import zip_longest

import anyio
import anyio.lowlevel
import pytest

from portico.core.principal import ANSWER_SECONDS, Authenticator, Principal

HUGE = "x" * 1024 * 1024

STRANGE: tuple[str, ...] = (
    "ü",
    "密码",
    "\U0001f600",
    "\0",
    "a\0b",
    "\ud800",
    "\udfff\ud800",
    "%00",
    "' OR ''='",
    "*",
    "\r\n",
)
"""Secrets that are hard to compare, look up, hash or write down."""


class AuthenticatorConformance:
    """Subclass it: `create` makes the authenticator, and `known` lists the callers that it knows.

    Needs pytest and anyio's plugin for it, which comes with anyio. An authenticator that knows everybody (such as the
    built-in ``none``) has no secrets, and nothing to prove here.
    """

    pytestmark = pytest.mark.anyio

    call_seconds = ANSWER_SECONDS
    """The longest time that an answer may take."""

    def create(self) -> Authenticator:
        """A new authenticator, which knows the secrets in `known`."""
        raise NotImplementedError

    def known(self) -> Mapping[str, Principal]:
        """Some secrets that the authenticator knows, at least one and as long as real ones, and whose they are."""
        raise NotImplementedError

    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"

    async def test_it_has_a_name(self) -> None:
        """The name of an authenticator is a text that is not empty."""
        name = self.create().name
        assert isinstance(name, str), f"the name is {name!r}"
        assert name.strip(), "the name is empty"

    async def test_a_known_secret_gives_its_principal(self) -> None:
        """A known secret gives its own principal, with its rights, each time."""
        authenticator = self.create()
        assert self.known(), "the suite needs at least one known secret"
        for _ in range(3):
            for number, (secret, principal) in enumerate(self.known().items()):
                found = await self._ask(authenticator, secret, f"secret {number} of known")
                assert found == principal, f"secret {number} of known is that of {principal}, and gave {found}"

    async def test_a_principal_is_complete(self) -> None:
        """A known secret gives a `Principal` with a name, whose ``admin`` is true or false."""
        authenticator = self.create()
        for number, secret in enumerate(self.known()):
            found = await self._ask(authenticator, secret, f"secret {number} of known")
            assert isinstance(found, Principal), f"secret {number} of known gave a {type(found).__name__}"
            assert isinstance(found.name, str), f"the name of a principal is {found.name!r}"
            assert found.name, "the name of a principal is empty"
            assert isinstance(found.admin, bool), f"admin is {found.admin!r}"

    async def test_nothing_is_nobody(self) -> None:
        """A caller that presents nothing, or an empty secret, is nobody."""
        await self._refuse({"None": None, "the empty secret": ""})

    async def test_an_unknown_secret_is_nobody(self) -> None:
        """A secret that is not known gives None, also the name of a principal that is."""
        names = {f"the name of {principal}": principal.name for principal in self.known().values()}
        await self._refuse({"an unknown secret": "no secret of anybody", **names})

    async def test_almost_right_is_wrong(self) -> None:
        """A secret that differs in one character, its length or its case from a known one gives None."""
        for number, secret in enumerate(self.known()):
            near = {f"secret {number} of known with {what}": text for what, text in _near(secret)}
            await self._refuse({what: text for what, text in near.items() if text not in self.known()})

    async def test_a_strange_secret_is_nobody(self) -> None:
        """Secrets with other than ASCII characters, NUL or half of a surrogate pair give None, and never an error."""
        secrets: dict[str, str | None] = {}
        for strange in STRANGE:
            secrets[repr(strange)] = strange
            for number, secret in enumerate(self.known()):
                secrets[f"secret {number} of known before {strange!r}"] = secret + strange
        await self._refuse(secrets)

    async def test_a_huge_secret_is_nobody(self) -> None:
        """A secret of a MiB gives None, in time and without an error."""
        huge = {f"secret {number} of known and a MiB more": secret + HUGE for number, secret in enumerate(self.known())}
        await self._refuse({"a MiB": HUGE, **huge})

    async def test_callers_at_once_are_not_mixed_up(self) -> None:
        """Of many who ask at once each gets its own answer."""
        authenticator = self.create()
        strangers = [f"stranger {n}" for n in range(20)]
        answers: dict[int, tuple[str, Principal | None]] = {}

        async def ask(n: int, secret: str) -> None:
            answers[n] = secret, await self._ask(authenticator, secret, "one of many")

        callers = [
            secret for pair in zip_longest([*self.known()] * 10, strangers) for secret in pair if secret is not None
        ]
        async with anyio.create_task_group() as tasks:
            for n, secret in enumerate(callers):
                tasks.start_soon(ask, n, secret)
        for secret, found in answers.values():
            expected = self.known().get(secret)
            assert found == expected, f"one of many who asked at once was {expected}, and was taken for {found}"

    async def test_a_cancelled_call_is_in_nobodys_way(self) -> None:
        """A call that was cancelled, because its caller has gone, changes nothing for the next one."""
        authenticator = self.create()
        for number, (secret, principal) in enumerate(self.known().items()):
            for steps in range(5):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(authenticator.authenticate, secret)
                    for _ in range(steps):
                        await anyio.lowlevel.checkpoint()
                    tasks.cancel_scope.cancel()
                found = await self._ask(authenticator, secret, f"secret {number} of known after a cancelled call")
                assert found == principal, f"after a cancelled call {principal} was taken for {found}"

    async def test_secrets_stay_secret(self, caplog: pytest.LogCaptureFixture) -> None:
        """No secret stands in a repr() of the authenticator or a principal, nor in a line of the log."""
        authenticator = self.create()
        secrets = [*self.known(), "a secret that nobody has"]
        with caplog.at_level(0):
            for secret in secrets:
                found = await self._ask(authenticator, secret, "a secret")
                assert not any(one in repr(found) for one in secrets), "a secret stands in the repr() of a principal"
        assert not any(one in repr(authenticator) for one in secrets), "a secret stands in the repr() of it"
        assert not any(one in caplog.text for one in secrets), "a secret stands in the log"

    async def _refuse(self, secrets: Mapping[str, str | None]) -> None:
        """Each of ``secrets``, by what they are, has to be nobody's."""
        authenticator = self.create()
        for what, secret in secrets.items():
            found = await self._ask(authenticator, secret, what)
            assert found is None, f"{what} was taken for {found}"

    async def _ask(self, authenticator: Authenticator, secret: str | None, what: str) -> Principal | None:
        with anyio.move_on_after(self.call_seconds):
            try:
                return await authenticator.authenticate(secret)
            except Exception as error:
                raise AssertionError(f"{what} raised {type(error).__name__}") from error
        raise AssertionError(f"{what} got no answer within {self.call_seconds} s")


def _near(secret: str) -> Iterator[tuple[str, str]]:
    """Secrets that are almost ``secret``, and what is wrong with each."""
    for place in sorted({0, len(secret) // 2, len(secret) - 1}):
        # In base64 these two differ in their highest bits: the lowest ones of a last character often mean nothing.
        other = "A" if secret[place] in "wxyz0123456789+/-_" else "z"
        yield f"another character at {place}", f"{secret[:place]}{other}{secret[place + 1 :]}"
    yield "its first character missing", secret[1:]
    yield "its last character missing", secret[:-1]
    yield "its second half missing", secret[: len(secret) // 2]
    yield "upper and lower case swapped", secret.swapcase()
    for name, more in {"a letter": "x", "a blank": " ", "a line break": "\n", "a NUL": "\0", "itself": secret}.items():
        yield f"{name} behind it", secret + more
        yield f"{name} before it", more + secret

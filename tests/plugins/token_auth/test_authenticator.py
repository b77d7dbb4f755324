from pathlib import Path

import pytest
from pydantic import SecretStr

from portico.config.settings import Settings
from portico.config.values import Token
from portico.core.principal import Principal
from portico.plugins.context import Context
from portico.plugins.manager import load_plugins
from portico.plugins.token_auth.first_token import read_token

pytestmark = pytest.mark.anyio

TOKENS = (Token("alice", SecretStr("alice-secret")), Token("ops", SecretStr("ops-secret"), admin=True))


async def test_a_secret_is_its_owner(tmp_path: Path) -> None:
    context = Context(Settings(data_dir=tmp_path, auth_tokens=TOKENS), tmp_path)
    authenticator = load_plugins().registry.authenticator("token")(context)
    assert await authenticator.authenticate("alice-secret") == Principal("alice")
    assert await authenticator.authenticate("ops-secret") == Principal("ops", admin=True)
    for wrong in (None, "", "alice", "alice-secret ", "Alice-secret", "\ud800", "é"):
        assert await authenticator.authenticate(wrong) is None
    assert not (tmp_path / "token").exists()


async def test_without_tokens_one_is_made(tmp_path: Path) -> None:
    context = Context(Settings(data_dir=tmp_path), tmp_path)
    authenticator = load_plugins().registry.authenticator("token")(context)
    assert await authenticator.authenticate(read_token(tmp_path)) == Principal("admin", admin=True)


async def test_none_knows_everybody(tmp_path: Path) -> None:
    authenticator = load_plugins().registry.authenticator("none")(Context(Settings(data_dir=tmp_path), tmp_path))
    assert await authenticator.authenticate(None) == Principal("anonymous", admin=True)

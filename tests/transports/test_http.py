from pathlib import Path

import anyio
import httpx
import pytest
from pydantic import ByteSize

from portico.config.settings import Settings
from portico.core.engine import Engine
from portico.plugins.context import Context
from portico.plugins.echo.driver import EchoDriver
from portico.plugins.manager import load_plugins
from portico.plugins.memory_store.store import MemoryStore
from portico.testing.engine import generous_policy
from portico.transports.base import TransportFailed
from tests.support.limits import HANG_SECONDS

pytestmark = pytest.mark.anyio


def idle_engine(folder: Path) -> Engine:
    return Engine(
        store=MemoryStore(),
        drivers={"echo": EchoDriver()},
        default_driver="echo",
        default_model=None,
        policy=generous_policy(folder),
    )


async def test_the_settings_say_where_and_how(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, port=0, auth=("none",), api_prefix="/api/v1", max_body=ByteSize(2048))
    registry = load_plugins().registry
    context = Context(settings, tmp_path)
    context = context.with_authenticators(registry.authenticator("none")(context))
    transport = registry.transport("http")(context)
    assert transport.name == "http"
    async with anyio.create_task_group() as tasks:
        url = await tasks.start(transport.serve, idle_engine(tmp_path))
        assert url.startswith("http://127.0.0.1:")
        async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=HANG_SECONDS) as client:
            assert (await client.get("/api/v1/sessions")).json() == {"sessions": [], "next_cursor": None}
            assert (await client.get("/claude/sessions")).status_code == 404
            large = await client.post("/api/v1/sessions", content=b" " * 2049)
            assert large.status_code == 413
            assert "2048" in large.json()["detail"]
        second = registry.transport("http")(
            Context(Settings(data_dir=tmp_path, port=int(url.rpartition(":")[2])), tmp_path)
        )
        with pytest.raises(TransportFailed, match="the address is in use"):
            await second.serve(idle_engine(tmp_path), task_status=anyio.TASK_STATUS_IGNORED)
        tasks.cancel_scope.cancel()

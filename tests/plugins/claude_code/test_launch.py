"""Starts that fail before there is a process."""

from dataclasses import replace
from pathlib import Path

import pytest

from portico.core.errors import AgentUnavailable
from tests.support.claude import driving, new_spec
from tests.support.fake_cli import fake_cli

pytestmark = [pytest.mark.anyio, pytest.mark.fake_agent]


async def test_folders_that_cannot_be_made_are_said(tmp_path: Path) -> None:
    async with driving(tmp_path, cli_path=fake_cli(tmp_path, {"hang": True})) as driver:
        (tmp_path / "file").touch()
        with pytest.raises(AgentUnavailable, match="Not a directory") as caught:
            await driver.start(replace(new_spec(tmp_path), folder=tmp_path / "file" / "agent"))
        assert caught.value.code == "agent_folder_unusable"

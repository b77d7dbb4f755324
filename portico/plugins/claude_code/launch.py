"""How one agent's process is started: new, or with the conversation that it had."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import anyio.to_thread

from ...core.agent import AgentSpec
from .cli import find_cli
from .command import build_command
from .config import DriverConfig
from .containment import Containment
from .environment import build_environment, make_folders
from .process import CliProcess


@dataclass(frozen=True, slots=True)
class Launch:
    """``runtime`` is the agent's runtime folder, ``resume`` whether there is a conversation to come back to."""

    config: DriverConfig
    containment: Containment
    spec: AgentSpec
    cli: Path
    runtime: Path
    resume: bool

    @classmethod
    async def prepare(cls, config: DriverConfig, containment: Containment, spec: AgentSpec) -> Launch:
        """Make the agent's folders. Raises `AgentUnavailable` without a CLI."""
        return await anyio.to_thread.run_sync(cls._prepare, config, containment, spec)

    @classmethod
    def _prepare(cls, config: DriverConfig, containment: Containment, spec: AgentSpec) -> Launch:
        cli = find_cli(config.cli_path, config.search_path)
        runtime = make_folders(spec.folder)
        return cls(config, containment, spec, cli, runtime, bool(_transcripts(spec)))

    async def start(self, *, resume: bool) -> CliProcess:
        """Raises `AgentUnavailable`, and `InvalidRequest` for options that can't be an argument of a process."""
        spec = self.spec
        argv = build_command(self.cli, spec.agent_id, spec.options, resume=resume, default_model=self.config.model)
        environment = build_environment(self.config, spec, self.runtime)
        return await CliProcess.start(
            argv, env=environment, cwd=spec.cwd, folder=spec.folder, containment=self.containment
        )

    async def set_transcripts_aside(self) -> None:
        """A transcript that holds no conversation can't be resumed, and its id can't be used anew while it is there."""
        await anyio.to_thread.run_sync(_set_aside, self.spec)

    async def clear(self) -> None:
        """Remove the runtime folder, if it is not in the agent's own."""
        if self.runtime.parent != self.spec.folder:
            await anyio.to_thread.run_sync(lambda: shutil.rmtree(self.runtime, ignore_errors=True))


def _transcripts(spec: AgentSpec) -> list[Path]:
    return list((spec.folder / "config" / "projects").glob(f"*/{spec.agent_id}.jsonl"))


def _set_aside(spec: AgentSpec) -> None:
    for transcript in _transcripts(spec):
        transcript.replace(transcript.with_suffix(".jsonl.unreadable"))

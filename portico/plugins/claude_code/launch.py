"""The start of one agent's process: a new one, or one with an earlier conversation."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import anyio.to_thread

from portico.core.agent import AgentOptions, AgentSpec
from portico.core.errors import AgentUnavailable
from portico.core.gateway import Door
from portico.core.short import remove_short
from portico.core.threads import in_thread
from portico.core.workspaces import identities
from portico.plugins.claude_code.arguments import Argument
from portico.plugins.claude_code.cli import find_cli
from portico.plugins.claude_code.cli_conversation import (
    current_conversation,
    has_transcript,
    keep_conversation,
    set_transcripts_aside,
)
from portico.plugins.claude_code.command import build_command
from portico.plugins.claude_code.config import DriverConfig
from portico.plugins.claude_code.containment import Containment
from portico.plugins.claude_code.environment import build_environment, make_folders
from portico.plugins.claude_code.git_mounts import mounts, unseen
from portico.plugins.claude_code.process import CliProcess


@dataclass(frozen=True, slots=True)
class Launch:
    """An agent to start. ``runtime`` is its runtime folder; ``resume`` tells whether its ``conversation`` can be
    resumed.

    ``door`` is its way to the model API if there is a gateway. It stays open until `clear`.
    """

    config: DriverConfig
    containment: Containment
    spec: AgentSpec
    cli: Path
    runtime: Path
    conversation: str
    resume: bool
    door: Door | None = None

    @classmethod
    async def prepare(cls, config: DriverConfig, containment: Containment, spec: AgentSpec) -> Launch:
        """Make the agent's folders. Raises `AgentUnavailable` if there is no CLI, or if they can't be made."""
        launch = await anyio.to_thread.run_sync(cls._prepare, config, containment, spec)
        if config.gateway is None:
            return launch
        try:
            return replace(launch, door=await config.gateway.open(spec, launch.runtime))
        except OSError as error:
            await launch.clear()
            raise _unusable(error) from error

    @classmethod
    def _prepare(cls, config: DriverConfig, containment: Containment, spec: AgentSpec) -> Launch:
        cli = find_cli(config.cli_path, config.search_path)
        if os.path.realpath(spec.cwd) != str(spec.cwd):
            raise AgentUnavailable("The session's workspace is not where it was.", code="workspace_moved")
        try:
            runtime = make_folders(spec.folder)
            conversation = current_conversation(spec)
            resume = has_transcript(spec, conversation)
        except OSError as error:
            raise _unusable(error) from error
        return cls(config, containment, spec, cli, runtime, conversation, resume)

    def with_options(self, options: AgentOptions) -> Launch:
        """Return the same agent with other options. Raises `InvalidRequest` if it could not be started with them."""
        launch = replace(self, spec=replace(self.spec, options=options))
        launch._argv(resume=False)
        return launch

    def _argv(self, *, resume: bool) -> list[Argument]:
        return build_command(
            self.cli,
            self.conversation,
            self.spec.options,
            resume=resume,
            default_model=self.config.model,
            withheld=self.config.withheld_tools,
        )

    async def start(self, *, resume: bool) -> CliProcess:
        """Start the process. Raises `AgentUnavailable`, and `InvalidRequest` for options that can't be passed to a
        process.
        """
        spec = self.spec
        argv = self._argv(resume=resume)
        environment = build_environment(self.config, spec, self.runtime, self.door)
        added = tuple(map(Path, spec.options.add_dirs))
        try:
            process = await CliProcess.start(
                argv,
                env=environment,
                cwd=spec.cwd,
                folder=spec.folder,
                containment=self.containment,
                runtime=None if self._runs_inside else self.runtime,
                added=added,
                git=spec.git_folders,
            )
        except AgentUnavailable:
            await anyio.to_thread.run_sync(identities, spec.cwd, added)  # which says so, if one of them has just gone
            raise
        if self.door is not None:
            self.door.admit(process.pid)
        return process

    def guards(self) -> Sequence[Path]:
        """Return the files that the sandbox keeps from the agent only as long as nobody replaces them."""
        shared = unseen(self.spec.git_folders, (self.spec.cwd, *map(Path, self.spec.options.add_dirs)))
        return [path for path, may_write in mounts(shared) if not may_write] if self.containment.sandbox else ()

    @property
    def _runs_inside(self) -> bool:
        return self.runtime.parent == self.spec.folder

    async def move(self, conversation: str) -> None:
        """Store ``conversation`` as the agent's. Raises OSError."""
        await anyio.to_thread.run_sync(keep_conversation, self.spec, conversation)

    async def set_transcripts_aside(self) -> None:
        """See `conversation.set_transcripts_aside`."""
        await anyio.to_thread.run_sync(set_transcripts_aside, self.spec, self.conversation)

    def claimed(self, spec: AgentSpec) -> Launch:
        """Return the same agent for ``spec``, which differs in options and owner. Raises as `with_options`."""
        launch = replace(self.with_options(spec.options), spec=spec)
        if self.door is not None:
            self.door.hand_to(spec.owner)
        return launch

    async def clear(self) -> None:
        """Close the door, and remove the runtime folder unless it is in the agent's own folder."""
        if self.door is not None:
            await self.door.close()
        if not self._runs_inside:
            await in_thread(lambda: remove_short(self.runtime))


def _unusable(error: OSError) -> AgentUnavailable:
    return AgentUnavailable(f"The agent's folders cannot be used: {error.strerror}.", code="agent_folder_unusable")

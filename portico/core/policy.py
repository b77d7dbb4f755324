"""What the operator allows, and how much of it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from portico.core.agent import AgentOptions
from portico.core.errors import NotAllowed
from portico.core.requests import NewSession


@dataclass(frozen=True, slots=True)
class Policy:
    """Limits and permissions of one engine. Times are in seconds.

    ``allowed_tools`` are those that sessions may use without asking; empty: whatever a client says.
    ``disallowed_tools`` no session has.
    """

    data_dir: Path
    workspace_roots: tuple[Path, ...]
    permission_modes: Collection[str]
    max_sessions: int
    max_processes: int
    pool_size: int
    max_queued_turns: int
    turn_timeout: float
    permission_timeout: float
    session_timeout: float
    process_wait: float
    max_sessions_per_principal: int | None = None
    max_turns_per_minute: int | None = None
    setting_sources: frozenset[str] = frozenset()
    allowed_tools: tuple[str, ...] = ()
    disallowed_tools: tuple[str, ...] = ()

    def options(self, request: NewSession, default_model: str | None) -> AgentOptions:
        """What a client's session is started with. Raises `NotAllowed`."""
        mode = request.permission_mode
        if mode is None:
            mode = "default" if "default" in self.permission_modes else next(iter(self.permission_modes))
        self.check_mode(mode)
        for source in request.setting_sources:
            if source not in self.setting_sources:
                raise NotAllowed(f"the setting source {source!r} is not allowed here (setting_sources)")
        for rule in request.allowed_tools:
            if self.allowed_tools and not any(_covers(allowed, rule) for allowed in self.allowed_tools):
                raise NotAllowed(f"the tool {rule!r} is not among those allowed here (allowed_tools)")
        return AgentOptions(
            model=request.model or default_model,
            permission_mode=mode,
            system_prompt=request.system_prompt,
            append_system_prompt=request.append_system_prompt,
            allowed_tools=request.allowed_tools or self.allowed_tools,
            disallowed_tools=(*self.disallowed_tools, *request.disallowed_tools),
            mcp_servers=request.mcp_servers,
            max_turns=request.max_turns,
            setting_sources=request.setting_sources,
        )

    def check_mode(self, mode: str) -> None:
        """Raises `NotAllowed`."""
        if mode not in self.permission_modes:
            raise NotAllowed(f"the permission mode {mode!r} is not allowed here (permission_modes)")


def _covers(allowed: str, rule: str) -> bool:
    """Whether ``rule`` is ``allowed``, or narrower: ``Bash`` covers ``Bash(git log:*)``."""
    return rule == allowed or rule.startswith(f"{allowed}(")

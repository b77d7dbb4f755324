"""The operator's policy: permissions and limits."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from portico.core.agent import AgentOptions
from portico.core.errors import InvalidRequest, NotAllowed
from portico.core.requests import NewSession
from portico.core.tool_rule import ToolRule


@dataclass(frozen=True, slots=True)
class Policy:
    """Limits and permissions of one engine. Times are in seconds.

    Sessions may use ``allowed_tools`` without asking; if it is empty, the client's own list applies. No session has
    ``disallowed_tools``. A session may request ``mcp_servers`` by name; with ``allow_client_mcp`` it may also bring its
    own, and with ``allow_client_agents`` subagents. ``files`` are files that the server relies on, even if they don't
    exist yet. No session works in a folder that holds one, as its agent could make the file, or move it to where it is
    not hidden. With ``private_workspaces``, no session works in a folder that other users of the machine can enter.
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
    question_timeout: float = 0.0
    background_timeout: float = 3600
    max_sessions_per_principal: int | None = None
    max_turns_per_minute: int | None = None
    setting_sources: frozenset[str] = frozenset()
    allowed_tools: tuple[str, ...] = ()
    disallowed_tools: tuple[str, ...] = ()
    mcp_servers: Mapping[str, Any] = field(default_factory=dict, repr=False)
    allow_client_mcp: bool = False
    allow_client_agents: bool = False
    files: tuple[Path, ...] = ()
    private_workspaces: bool = False

    def __post_init__(self) -> None:
        """Raise `InvalidRequest` if a text is not a tool rule."""
        _parsed("allowed_tools", self.allowed_tools)
        _parsed("disallowed_tools", self.disallowed_tools)

    def options(self, request: NewSession, default_model: str | None) -> AgentOptions:
        """Return the options with which a client's session is started. Raises `NotAllowed`."""
        mode = self._first_mode if request.permission_mode is None else request.permission_mode
        self.check_mode(mode)
        for source in request.setting_sources:
            if source not in self.setting_sources:
                raise NotAllowed(f"the setting source {source!r} is not allowed here (setting_sources)")
        for rule in _parsed("allowed_tools", request.allowed_tools):
            if not self.covers(rule):
                raise NotAllowed(f"the tool {str(rule)!r} is not among those allowed here (allowed_tools)")
        _parsed("disallowed_tools", request.disallowed_tools)
        if request.agents and not self.allow_client_agents:
            raise NotAllowed("subagents of a client's own are not allowed here (allow_client_agents)")
        return AgentOptions(
            model=request.model or default_model,
            permission_mode=mode,
            system_prompt=request.system_prompt,
            append_system_prompt=request.append_system_prompt,
            allowed_tools=request.allowed_tools or self.allowed_tools,
            disallowed_tools=self._disallowed(request.disallowed_tools),
            mcp_servers=self._mcp_servers(request.mcp_servers),
            max_turns=request.max_turns,
            setting_sources=request.setting_sources,
            output_schema=request.output_schema,
            effort=request.effort,
            fallback_model=request.fallback_model,
            add_dirs=request.add_dirs,
            agents=request.agents,
        )

    def still(self, options: AgentOptions) -> AgentOptions:
        """Return a session's ``options`` as far as they are allowed now: its creation may have had other settings."""
        mode = options.permission_mode
        return options.with_changes(
            permission_mode=mode if mode in self.permission_modes else self._first_mode,
            allowed_tools=tuple(text for text in options.allowed_tools if self._covers_text(text)),
            disallowed_tools=self._disallowed(options.disallowed_tools),
            setting_sources=tuple(source for source in options.setting_sources if source in self.setting_sources),
            agents=options.agents if self.allow_client_agents else {},
        )

    @property
    def _first_mode(self) -> str:
        return "default" if "default" in self.permission_modes else next(iter(self.permission_modes))

    def _disallowed(self, asked: Sequence[str]) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.disallowed_tools, *asked)))

    def _covers_text(self, text: str) -> bool:
        with suppress(ValueError):
            return self.covers(ToolRule.parse(text))
        return False

    def _mcp_servers(self, asked: Mapping[str, Any] | tuple[str, ...]) -> Mapping[str, Any]:
        if isinstance(asked, Mapping):
            if asked and not self.allow_client_mcp:
                raise NotAllowed(
                    "MCP servers of a client's own are not allowed here (allow_client_mcp): name some of mcp_servers"
                )
            return asked
        for name in asked:
            if name not in self.mcp_servers:
                raise NotAllowed(f"the MCP server {name!r} is not among those that there are here (mcp_servers)")
        return {name: self.mcp_servers[name] for name in asked}

    def check_mode(self, mode: str) -> None:
        """Raise `NotAllowed` if the operator does not allow the permission mode."""
        if mode not in self.permission_modes:
            raise NotAllowed(f"the permission mode {mode!r} is not allowed here (permission_modes)")

    def check_changed_input(self, tool: str, options: AgentOptions) -> None:
        """Check that an answer may change the input with which the agent wants to use ``tool``.

        Raises `NotAllowed` if a rule may forbid it: agents check their rules before they ask, and not again.
        """
        for text in self._disallowed(options.disallowed_tools):
            if ToolRule.may_concern(text, tool):
                detail = f"the input of {tool} can't be changed here, as there are rules about it (disallowed_tools)"
                raise NotAllowed(detail)

    def covers(self, rule: ToolRule) -> bool:
        """Tell whether sessions may use, without asking, everything that ``rule`` allows."""
        return not self.allowed_tools or any(ToolRule.parse(text).covers(rule) for text in self.allowed_tools)


def _parsed(name: str, texts: Sequence[str]) -> list[ToolRule]:
    """Parse ``texts``. Raises `InvalidRequest` if one of them is not exactly one rule."""
    rules = []
    for place, text in enumerate(texts):
        try:
            rules.append(ToolRule.parse(text))
        except ValueError as error:
            mistake = {"loc": [name, place], "msg": str(error), "type": "tool_rule"}
            raise InvalidRequest(f"{name}.{place}: {error}", errors=[mistake]) from None
    return rules

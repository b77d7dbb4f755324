"""Settings of sessions: how many, how long, and what their agents may do."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from . import values
from .fields import AbsolutePath, Name, SettingsGroup, one_of, seconds, setting, whole_number

PermissionMode = Literal["default", "acceptEdits", "plan", "dontAsk", "bypassPermissions"]
SettingSource = Literal["project", "local"]
ToolRule = Annotated[str, AfterValidator(values.tool_rule)]

Sandbox = Literal["auto", "bubblewrap", "none", "required"]


class SessionSettings(SettingsGroup):
    """Settings of sessions: how many, how long, and what their agents may do."""

    max_sessions: int = whole_number("Open sessions; one more is refused.", 10, 1, 100_000, bare=True)
    max_sessions_per_principal: int | None = whole_number(
        "Open sessions of one principal; one more is refused. Default: as many as there may be.", None, 1, 100_000
    )
    max_turns_per_minute: int | None = whole_number(
        "Turns that one principal may start in any minute; one more is refused. Default: any number.", None, 1, 100_000
    )
    session_timeout: float = seconds(
        "Seconds that an idle session stays open; then it gives up its slot and its process, and its next query opens "
        "it again.",
        3600.0,
        bare=True,
    )
    background_timeout: float = seconds(
        "Seconds that an idle session stays open while its agent has tasks in the background, if that is longer than "
        "`session_timeout`.",
        3600.0,
    )
    max_processes: int | None = whole_number(
        "Live agent processes; beyond it the session longest idle gives its process up until its next query. "
        "Default: as `max_sessions`.",
        None,
        1,
        100_000,
    )
    pool_size: int = whole_number("Agent processes started ahead for new sessions.", 2, 0, 1000)
    process_wait: float = seconds("Seconds that a turn waits for a process when all are busy.", 60.0)
    turn_timeout: float = seconds("Seconds; a longer turn is interrupted and ends in an error.", 3600.0)
    permission_timeout: float = seconds(
        "Seconds that a request for permission to use a tool waits before it is denied; 0 waits for ever.",
        300.0,
        zero=True,
    )
    question_timeout: float = seconds(
        "The same for a question of the agent, a plan to approve, and data that an MCP server asks for. Meanwhile "
        "`turn_timeout` stands still.",
        0.0,
        zero=True,
    )
    subagents: bool = setting(
        "Keep what subagents say and do in histories. Without it clients see a subagent's report alone, and what it "
        "asks permission for.",
        "on or off",
        True,
    )
    max_queued_turns: int = whole_number("Turns that may wait in one session.", 8, 0, 10_000)
    drain_timeout: float = seconds(
        "Seconds that running turns and tasks in the background get at a stop; then they are ended.", 30.0, zero=True
    )
    sandbox: Sandbox = one_of(
        "Where agents see their own folders and the system alone: `auto` where bubblewrap works, `bubblewrap` and "
        "`required` always (else the server does not start), `none` nowhere.",
        Sandbox,
        "auto",
    )
    driver: Annotated[
        tuple[Name, ...], BeforeValidator(values.split), AfterValidator(values.distinct), Field(min_length=1)
    ] = setting(
        "Driver of new sessions; the others of a list are those that a session may ask for.",
        "names of drivers, comma-separated",
        ("claude-code",),
    )
    claude_cli_path: AbsolutePath | None = setting(
        "The `claude` program. Default: the one on PATH, else the one bundled with an installed package.",
        "a path",
        None,
        path=True,
    )
    permission_modes: Annotated[
        tuple[PermissionMode, ...],
        BeforeValidator(values.split),
        AfterValidator(values.distinct),
        Field(min_length=1),
    ] = setting(
        "Permission modes that clients may ask for.",
        "default, acceptEdits, plan, dontAsk and bypassPermissions, comma-separated",
        ("default", "acceptEdits", "plan", "dontAsk"),
    )
    mcp_servers: Annotated[dict[str, dict[str, Any]], BeforeValidator(values.mcp_servers)] = setting(
        "MCP servers that clients may ask for by name. Default: none.",
        'a JSON object such as {"name": {"command": "...", "args": [...]}} or '
        '{"name": {"type": "http", "url": "..."}}, or @FILE that holds one',
        default_factory=dict,
        secret=True,
        repr=False,
        from_file=True,
    )
    allow_client_mcp: bool = setting(
        "Whether clients may bring MCP servers of their own: programs that run beside the agent, and ask nobody.",
        "true or false",
        False,
    )
    allow_client_agents: bool = setting(
        "Whether clients may define subagents: prompts, tools and models. They have no more rights than the session.",
        "true or false",
        False,
    )
    setting_sources: Annotated[
        tuple[SettingSource, ...], BeforeValidator(values.split), AfterValidator(values.distinct)
    ] = setting(
        "Setting sources that clients may ask for: with `project`, a workspace's CLAUDE.md, skills, commands and hooks "
        "act. Default: none. `user` is none of them: an agent has a home of its own, which is not the operator's.",
        "project and local, comma-separated",
        (),
    )
    allowed_tools: Annotated[tuple[ToolRule, ...], BeforeValidator(values.split), AfterValidator(values.distinct)] = (
        setting(
            "Tools that sessions may use without asking; clients may ask for some of them, and for no others. "
            "Default: whatever a client says.",
            "tool rules such as Read or Bash(git log:*), comma-separated",
            (),
        )
    )
    disallowed_tools: Annotated[
        tuple[ToolRule, ...], BeforeValidator(values.split), AfterValidator(values.distinct)
    ] = setting(
        "Tools that no session has, whatever a client says. Default: none.",
        "tool rules such as WebFetch or Bash(rm:*), comma-separated",
        (),
    )

"""The settings of the driver."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from portico.core.gateway import Gateway
from portico.core.prices import LIST_PRICES, PriceTable
from portico.core.workspaces import own_workspaces
from portico.plugins.claude_code.visible import server_paths
from portico.plugins.context import Context

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class DriverConfig:
    """The driver's settings. ``agents`` is the folder with the agents' folders of all sessions; remains of an earlier
    server process are looked for there. ``environment`` is the part of the server's environment that agents may have,
    PATH included. ``max_tokens`` is the output limit of one reply; None means the CLI's own. With a ``gateway`` agents
    get no credential. ``subagents`` tells whether these are heard. ``sandbox`` is the setting. In the sandbox,
    ``visible`` paths can be seen beside the system and the paths that ``environment`` names; ``hidden`` paths
    cannot; of ``roots`` each agent sees only its own workspace. No agent has ``withheld_tools``. Subagents too may
    only be in ``permission_modes``.
    """

    agents: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    api_key: str | None = field(default=None, repr=False)
    oauth_token: str | None = field(default=None, repr=False)
    base_url: str | None = None
    model: str | None = None
    max_tokens: int | None = None
    cli_path: Path | None = None
    gateway: Gateway | None = None
    subagents: bool = True
    sandbox: str = "none"
    visible: tuple[Path, ...] = ()
    hidden: tuple[Path, ...] = ()
    roots: tuple[Path, ...] = ()
    withheld_tools: tuple[str, ...] = ()
    permission_modes: frozenset[str] = frozenset({"default"})
    prices: PriceTable = LIST_PRICES

    @property
    def search_path(self) -> str:
        return self.environment.get("PATH", DEFAULT_PATH)

    @classmethod
    def from_context(cls, context: Context) -> DriverConfig:
        settings = context.settings
        key, token = settings.anthropic_api_key, settings.claude_code_oauth_token
        if context.gateway is not None:
            key = token = None
        return cls(
            agents=context.data_dir / "agents",
            environment={"PATH": DEFAULT_PATH, **context.agent_environment},
            api_key=key.get_secret_value() if key else None,
            oauth_token=token.get_secret_value() if token else None,
            base_url=settings.anthropic_base_url,
            model=settings.claude_model,
            max_tokens=settings.max_tokens,
            cli_path=settings.claude_cli_path,
            gateway=context.gateway,
            subagents=settings.subagents,
            sandbox=settings.sandbox,
            visible=tuple(server_paths(settings.mcp_servers)),
            hidden=(
                context.data_dir,
                context.data_dir / "agents",  # this may be a link
                own_workspaces(context.data_dir, settings.workspace_roots),
                *_secret_files(context),
            ),
            roots=settings.workspace_roots,
            # This tool needs no permission, and its mode ends only with the next message, which may be too late.
            withheld_tools=() if "plan" in settings.permission_modes else ("EnterPlanMode",),
            permission_modes=frozenset(settings.permission_modes),
            prices=PriceTable.of(settings.model_prices),
        )


def _secret_files(context: Context) -> list[Path]:
    """Return the files that contain this server's secrets, in case they are in a folder of programs."""
    named = (getattr(context.settings, name, None) for name in ("ziti_identity_file", "tls_key"))
    return [*context.settings_files, *(path for path in named if path is not None)]

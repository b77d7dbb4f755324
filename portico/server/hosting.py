"""A server without its listeners: data folder, store, engine, gateway, pool, and the drain at the end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio

from portico.config.load import Loaded, agent_environment, ziti_environment
from portico.config.settings import Settings
from portico.config.values import another_provider
from portico.core.agent import AgentDriver
from portico.core.audit import OK, NoAudit
from portico.core.engine import Engine
from portico.core.intake import BESIDE, Intake
from portico.core.policy import Policy
from portico.core.prices import PriceTable
from portico.core.quota import StreamQuota
from portico.core.tickets import Tickets
from portico.gateway.ledger import Ledger
from portico.gateway.model_gateway import ModelGateway
from portico.gateway.upstream import API, Upstream
from portico.plugins.context import Context
from portico.plugins.metrics.store_metrics import metered
from portico.plugins.registry import Registry
from portico.server.audit_log import AuditLog
from portico.server.lease import hold
from portico.server.relied import relied_on
from portico.server.selection import Selection
from portico.server.spending_metrics import price_table, spending
from portico.server.ticket_key import ticket_key
from portico.transports.base import Transport
from portico.transports.inherited import NamedSocket


@dataclass(frozen=True, slots=True)
class Host:
    """The parts of a running server. ``transports`` are made, but not served yet."""

    engine: Engine
    context: Context
    drivers: Mapping[str, AgentDriver]
    transports: Mapping[str, Transport]

    async def drain(self) -> None:
        """Refuse new work, give running turns ``drain_timeout`` seconds, interrupt the rest, and end all readers."""
        await self.engine.drain(self.context.settings.drain_timeout)


@asynccontextmanager
async def hosting(
    loaded: Loaded,
    registry: Registry,
    environ: Mapping[str, str],
    *,
    transports: Sequence[str] = (),
    sockets: Sequence[NamedSocket] = (),
) -> AsyncIterator[Host]:
    """Run the engine and everything it needs; at the end drain it, unless that was already done, and stop everything.

    The process stays as it is: no signal handler, environment variable or limit is set. Agents and plugins get parts of
    ``environ``. ``transports`` names those to make; ``sockets`` are open already, for them. Raises `SettingsError` and
    `PorticoError` if a part that the settings name is not available; an error of a running part comes in an
    `ExceptionGroup`.
    """
    settings = loaded.settings
    selection = Selection(loaded, registry, transports=transports)
    with hold(settings.data_dir) as lease:
        passed_on = agent_environment(settings, environ)
        prices = PriceTable.of(settings.model_prices)
        ledger = Ledger(settings.data_dir / "spending.json", settings.budget_usd_per_day, prices=prices)
        gateway = _gateway(settings, passed_on, ledger)
        context = Context(
            settings,
            settings.data_dir,
            passed_on,
            dict(loaded.plugin_settings),
            ziti_environment=ziti_environment(environ),
            tickets=Tickets(ticket_key(settings.data_dir)),
            stream_quota=StreamQuota(settings.max_streams_per_principal),
            intake=Intake(max(settings.max_body, settings.max_frame) + BESIDE),
            settings_files=loaded.files,
            gateway=gateway,
            sockets=tuple(sockets),
        )
        context = context.with_authenticators(*selection.authenticators(context))
        routes = selection.routes(context)
        observers = selection.observers(context)
        context = context.with_routes(routes)
        made_transports = selection.transports(context)
        drivers = selection.drivers(context)
        audit = AuditLog(settings.audit_log) if settings.audit_log else None
        if audit is not None:
            audit.check()
        context.metrics.add(price_table(prices))
        context.metrics.add_private(*spending(ledger))
        engine = Engine(
            audit=audit or NoAudit(),
            store=metered(selection.store(context), context.metrics, prices),
            drivers=drivers,
            default_driver=settings.driver[0],
            default_model=settings.claude_model,
            policy=policy(settings, relied_on(settings, loaded.files, passed_on)),
            observers=observers,
            check=lease.check,
            accounts=ledger,
        )
        if gateway is not None:
            gateway.health.failed = engine.failed
        host = Host(engine, context, drivers, made_transports)
        async with anyio.create_task_group() as tasks:
            if audit is not None:
                tasks.start_soon(audit.run)
                context.reloads.add("audit_log", audit.reopen)
            engine.audit.note("server.start", OK)
            await ledger.open()
            if gateway is not None:
                await tasks.start(gateway.run)
            await tasks.start(engine.run)
            tasks.start_soon(ledger.run)  # only now: the store may refuse the folder, which then stays as it was
            yield host
            if not engine.draining:
                await host.drain()
            engine.audit.note("server.stop", OK)
            tasks.cancel_scope.cancel()


def _gateway(settings: Settings, environment: Mapping[str, str], ledger: Ledger) -> ModelGateway | None:
    """Make the gateway; None if agents have the credential themselves, if there is none, or for another provider."""
    key, token = settings.anthropic_api_key, settings.claude_code_oauth_token
    if not settings.key_gateway or (key is None and token is None) or another_provider(settings.agent_env):
        return None
    upstream = Upstream(
        settings.anthropic_base_url or API,
        api_key=key.get_secret_value() if key else None,
        oauth_token=token.get_secret_value() if token else None,
        environment=environment,
    )
    return ModelGateway(upstream, ledger)


def policy(settings: Settings, files: Sequence[Path] = ()) -> Policy:
    """Make the policy from the operator's settings; the server relies on ``files``."""
    return Policy(
        data_dir=settings.data_dir,
        workspace_roots=settings.workspace_roots,
        permission_modes=settings.permission_modes,
        max_sessions=settings.max_sessions,
        max_sessions_per_principal=settings.max_sessions_per_principal,
        max_turns_per_minute=settings.max_turns_per_minute,
        max_processes=settings.max_processes or settings.max_sessions,
        pool_size=settings.pool_size,
        max_queued_turns=settings.max_queued_turns,
        turn_timeout=settings.turn_timeout,
        permission_timeout=settings.permission_timeout,
        question_timeout=settings.question_timeout,
        session_timeout=settings.session_timeout,
        process_wait=settings.process_wait,
        background_timeout=settings.background_timeout,
        setting_sources=frozenset(settings.setting_sources),
        allowed_tools=settings.allowed_tools,
        disallowed_tools=settings.disallowed_tools,
        files=tuple(files),
        mcp_servers=settings.mcp_servers,
        allow_client_mcp=settings.allow_client_mcp,
        allow_client_agents=settings.allow_client_agents,
        private_workspaces=settings.sandbox in ("bubblewrap", "required"),
    )

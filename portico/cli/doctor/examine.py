"""All checks, one after the other, each with a time limit; and the output of their findings."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence

import anyio

from portico.cli.doctor import agent_checks, caller_checks, folder_checks, network_checks, plugin_checks
from portico.cli.doctor.finding import Finding, Place, failure

CHECK_SECONDS = 20.0

Check = Callable[[Place], Awaitable[Finding]]

CHECKS: Mapping[str, Check] = {
    "plugins": plugin_checks.check_plugins,
    "data folder": folder_checks.check_data_folder,
    "workspaces": folder_checks.check_workspaces,
    "lease": folder_checks.check_lease,
    "claude program": agent_checks.check_claude_program,
    "credentials": agent_checks.check_credentials,
    "containment": agent_checks.check_containment,
    "sandbox": agent_checks.check_sandbox,
    "address": network_checks.check_address,
    "tokens": caller_checks.check_tokens,
    "authenticators": caller_checks.check_authenticators,
    "audit log": folder_checks.check_audit_log,
    "exposure": caller_checks.check_exposure,
    "proxy": network_checks.check_proxy,
    "tls": network_checks.check_tls,
    "ziti": network_checks.check_ziti,
}

log = logging.getLogger("portico.doctor")


async def examine(
    place: Place, checks: Mapping[str, Check] = CHECKS, *, seconds: float = CHECK_SECONDS
) -> dict[str, Finding]:
    """Run the checks and return their findings. A check that fails or hangs does not stop the others."""
    return {name: await _made(check, place, seconds) for name, check in checks.items()}


async def _made(check: Check, place: Place, seconds: float) -> Finding:
    try:
        with anyio.fail_after(seconds):
            return await check(place)
    except TimeoutError:
        return failure(f"this could not be found out within {seconds:g} s")
    except Exception as error:
        log.debug("a check failed", exc_info=True)
        return failure(f"this could not be found out: {type(error).__name__}: {error}")


def as_text(findings: Mapping[str, Finding]) -> Iterator[str]:
    width = max(map(len, findings))
    for name, finding in findings.items():
        yield f"{finding.state:7}  {name:{width}}  {finding.text}"
        if finding.fix is not None:
            yield f"{'':7}  {'':{width}}  -> {finding.fix}"


def as_json(findings: Mapping[str, Finding]) -> Iterator[str]:
    """Yield one JSON object per check: ``check``, ``state``, ``text``, ``fix``."""
    for name, finding in findings.items():
        yield json.dumps({"check": name, "state": finding.state, "text": finding.text, "fix": finding.fix})


def settings_failures(lines: Sequence[str]) -> dict[str, Finding]:
    """Report wrong settings: nothing else can be checked then."""
    return {"settings": failure("; ".join(lines), "`portico serve --help` says what each setting accepts")}


def status(findings: Mapping[str, Finding]) -> int:
    return int(any(finding.state == "failure" for finding in findings.values()))

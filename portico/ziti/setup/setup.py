"""``portico ziti setup``: brings a network to what a plan says, by looking up what exists and adding what is missing.

It never removes anything: use the network's own tools to stop somebody from dialling.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from portico.ziti.setup.management import Entity, Kind, Management
from portico.ziti.setup.plan import Plan
from portico.ziti.setup.setup_errors import SetupFailed

ALL = "#all"
NEITHER_ROUTER = "no edge router is online: until one is, nothing can be bound or dialled"


class Setup:
    """Carries out a plan. ``say`` gets a line for each step; ``tokens`` is the folder for enrolment tokens; with
    ``dry_run`` nothing changes."""

    def __init__(self, management: Management, tokens: Path, say: Callable[[str], None], *, dry_run: bool) -> None:
        self._management = management
        self._tokens = tokens
        self._say = say
        self._dry_run = dry_run
        self.pending: dict[str, Path] = {}
        """The identities that are not enrolled yet, and the files with their tokens."""

    def run(self, plan: Plan) -> None:
        """Carry out ``plan``. Raises `SetupFailed`; the steps done by then stay, and the next run finds them done."""
        server = f"@{self._identity(plan.server)}"
        roles = {who: who if who.startswith("#") else f"@{self._identity(who)}" for who in plan.diallers}
        services = {service.name: f"@{self._service(service.name)}" for service in plan.services}
        self._service_policy("portico-bind", "Bind", [server], services.values())
        self._service_policy("portico-probe", "Dial", [server], services.values())
        for service in plan.services:
            if service.diallers:
                who = [roles[name] for name in service.diallers]
                self._service_policy(f"{service.name}-dial", "Dial", who, [services[service.name]])
        self._router_policy("edge-router-policies", "identityRoles", [server, *roles.values()])
        self._router_policy("service-edge-router-policies", "serviceRoles", services.values())
        if not any(router.get("isOnline") for router in self._management.all("edge-routers")):
            self._say(f"  note              {NEITHER_ROUTER}")

    def _identity(self, name: str) -> str:
        found = self._management.find("identities", name)
        if found is None:
            fields = {"name": name, "type": "Default", "isAdmin": False, "enrollment": {"ott": True}}
            made = self._create("identities", f"identity {name}", fields)
            found = None if self._dry_run else self._management.find("identities", name)
        else:
            made = str(found["id"])
            self._tell("was there already", f"identity {name}")
        if token := self._token(name, found):
            self._write_token(name, token)
        return made

    def _token(self, name: str, identity: Entity | None) -> str | None:
        """Return the token of an identity that is not enrolled yet, else None. Replace a token that has expired."""
        ott = ((identity or {}).get("enrollment") or {}).get("ott")
        if identity is None or not ott:
            return None
        if datetime.fromisoformat(ott["expiresAt"]) > datetime.now(UTC):
            return str(ott["jwt"])
        self._tell("changed", f"enrolment token of {name}, which had expired")
        if self._dry_run:
            return None
        self._management.refresh_enrollment(ott["id"])
        identity = self._management.find("identities", name)
        return str(identity["enrollment"]["ott"]["jwt"]) if identity else None

    def _write_token(self, name: str, token: str) -> None:
        path = self.pending[name] = self._tokens / f"{name}.jwt"
        try:
            if path.exists() and path.read_text() == token:
                return
            self._tell("made", f"file {path}")
            if self._dry_run:
                return
            path.unlink(missing_ok=True)
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(token)
        except OSError as error:
            raise SetupFailed(f"{path} can't be written: {error.strerror}") from None

    def _service(self, name: str) -> str:
        found = self._management.find("services", name)
        if found is None:
            return self._create("services", f"service {name}", {"name": name, "encryptionRequired": True})
        self._tell("was there already", f"service {name}")
        return str(found["id"])

    def _service_policy(self, name: str, kind: str, identities: Iterable[str], services: Iterable[str]) -> None:
        fields = {"type": kind, "semantic": "AnyOf"}
        roles = {"identityRoles": list(identities), "serviceRoles": list(services)}
        self._policy("service-policies", f"{kind} policy {name}", name, fields, roles)

    def _router_policy(self, kind: Kind, field: str, roles: Iterable[str]) -> None:
        """Add a policy for routers, unless the network has one for all, as many do."""
        words = kind.removesuffix("ies").replace("-", " ") + "y"
        for policy in self._management.all(kind):
            if ALL in policy[field]:
                self._tell("was there already", f"{words} {policy['name']}")
                return
        self._policy(
            kind, f"{words} portico", "portico", {"semantic": "AnyOf"}, {"edgeRouterRoles": [ALL], field: [*roles]}
        )

    def _policy(
        self, kind: Kind, words: str, name: str, fields: Mapping[str, Any], roles: Mapping[str, list[str]]
    ) -> None:
        """Create a policy, or add the missing roles to an existing one, which keeps its other roles."""
        found = self._management.find(kind, name)
        if found is None:
            self._create(kind, words, {"name": name, **fields, **roles})
            return
        for field, value in fields.items():
            if found[field] != value:
                raise SetupFailed(f"there is a policy {name} already, whose {field} is {found[field]}, not {value}")
        lacking = {
            field: [*found[field], *(role for role in wanted if role not in found[field])]
            for field, wanted in roles.items()
            if not set(wanted) <= {*found[field]} and ALL not in found[field]
        }
        self._tell("changed" if lacking else "was there already", words)
        if lacking and not self._dry_run:
            self._management.change(kind, str(found["id"]), lacking)

    def _create(self, kind: Kind, words: str, fields: Mapping[str, Any]) -> str:
        self._tell("made", words)
        return f"the id of {fields['name']}" if self._dry_run else self._management.create(kind, fields)

    def _tell(self, state: str, words: str) -> None:
        if self._dry_run and state != "was there already":
            state = f"would be {state}"
        self._say(f"  {state:17} {words}")

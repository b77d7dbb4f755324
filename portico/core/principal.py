"""Who is calling, and how a transport finds out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Principal:
    """A caller. Owns the sessions that it creates; an ``admin`` sees and steers all."""

    name: str
    admin: bool = False

    def may_see(self, owner: str) -> bool:
        return self.admin or self.name == owner


class Authenticator(Protocol):
    name: str

    async def authenticate(self, secret: str | None) -> Principal | None:
        """Who presents ``secret`` (None: nothing was presented); None where this authenticator does not know."""

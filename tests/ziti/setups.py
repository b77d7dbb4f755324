"""The objects that `portico ziti setup` has made on a network; the network must not forget them."""

from __future__ import annotations

from tests.ziti.network import Network


def forget_setup(network: Network) -> None:
    """Delete what was made for the server and for Alice."""
    for kind in ("service-policies", "services", "identities"):
        for entity in network.api("GET", kind, params={"limit": 500}):
            if entity["name"].startswith("portico-") or entity["name"] == "alice":
                network.api("DELETE", f"{kind}/{entity['id']}")

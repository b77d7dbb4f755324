"""uvicorn within a program that has its own logging, lifespan and settings."""

from __future__ import annotations

from typing import Any

import uvicorn
from starlette.types import ASGIApp


def embedded(app: ASGIApp, **options: Any) -> uvicorn.Config:
    """Return a configuration that sets nothing up around the app, and reads nothing from the environment."""
    return uvicorn.Config(
        app,
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        server_header=False,
        # Set, because uvicorn would read their defaults from the environment.
        proxy_headers=False,
        forwarded_allow_ips=[],
        workers=1,
        **options,
    )

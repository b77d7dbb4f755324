"""uvicorn inside a program that has its own logging, lifespan and settings."""

from __future__ import annotations

from typing import Any

import uvicorn
from starlette.types import ASGIApp


def embedded(app: ASGIApp, **options: Any) -> uvicorn.Config:
    """A configuration that sets nothing up around the app, and reads nothing from the environment."""
    return uvicorn.Config(
        app,
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        server_header=False,
        # Said, because their defaults are read from the environment.
        proxy_headers=False,
        forwarded_allow_ips=[],
        workers=1,
        **options,
    )

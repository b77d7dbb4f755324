"""The path that another app has mounted this one at. It is taken off in one place, in front of everything else."""

from __future__ import annotations

from urllib.parse import quote

from starlette.types import ASGIApp, Receive, Scope, Send

_MOUNT = "portico.mount"
_OF_THE_SERVER = frozenset(
    {"type", "asgi", "http_version", "method", "scheme", "headers", "client", "server", "extensions"}
)
"""Keys of the ASGI scope that mean the same to the app around and to this one."""


class Mounted:
    """Gives the app the scope that it would have without another app around it.

    Its ``path`` begins at the app's own root, ``root_path`` is empty, and what the app around has noted (its route and
    parameters, its state, its error handlers) is not there. So everything inside compares one path, wherever the app is
    mounted. ``raw_path`` stays as the client sent it, for logs. The scope of the app around is not changed.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        own = {key: value for key, value in scope.items() if key in _OF_THE_SERVER}
        raw_path: bytes | None = scope.get("raw_path")  # optional, and some servers leave the query string in it
        own |= {
            "path": _below(scope),
            "raw_path": raw_path.partition(b"?")[0] if raw_path is not None else _quoted(scope["path"]).encode(),
            "query_string": scope.get("query_string") or b"",
            "root_path": "",
            _MOUNT: _encoded(scope.get("root_path") or ""),
        }
        if scope["type"] == "websocket":
            own["subprotocols"] = list(scope.get("subprotocols") or ())
        await self._app(own, receive, send)


def mount_of(scope: Scope) -> str:
    """Where clients find the app's root, for what is sent to them: percent-encoded, and empty if it is ``/``."""
    mount: str = scope.get(_MOUNT, "")
    return mount


def _below(scope: Scope) -> str:
    """The path below the mount. Where ``path`` does not begin with ``root_path``, it is below it already."""
    path: str = scope["path"]
    root: str = scope.get("root_path") or ""
    # A proxy may have taken its part of `root_path` off `path`: what it had before the first `Mount`, Starlette tells.
    mounted = root.removeprefix(scope.get("app_root_path") or "")
    for above in (root, root.rstrip("/"), mounted):
        below = path.removeprefix(above)
        if above and path.startswith(above) and below[:1] in ("", "/"):
            return below or "/"
    return path


def _encoded(root: str) -> str:
    """One slash in front, so that it never leads to another server."""
    inner = root.strip("/")
    return f"/{_quoted(inner)}" if inner else ""


def _quoted(path: str) -> str:
    return quote(path, errors="replace")

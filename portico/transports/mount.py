"""The path at which another app has mounted this one. It is removed in one place, before everything else."""

from __future__ import annotations

from urllib.parse import quote

from starlette.types import ASGIApp, Receive, Scope, Send

_MOUNT = "portico.mount"
_OF_THE_SERVER = frozenset(
    {"type", "asgi", "http_version", "method", "scheme", "headers", "client", "server", "extensions"}
)
"""Keys of the ASGI scope that mean the same to the outer app and to this one."""


class Mounted:
    """Gives the app the scope that it would have without an outer app.

    Its ``path`` begins at the app's own root, ``root_path`` is empty, and the entries of the outer app (its route and
    parameters, its state, its error handlers) are left out. So all the parts inside compare the same path, wherever
    the app is mounted. ``raw_path`` stays as the client sent it, for logs. The scope of the outer app is not changed.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        own = {key: value for key, value in scope.items() if key in _OF_THE_SERVER}
        raw_path: bytes | None = scope.get("raw_path")  # it is optional, and some servers leave the query string in it
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
    """Return the path at which clients find the app's root, for use in answers: percent-encoded, empty for ``/``."""
    mount: str = scope.get(_MOUNT, "")
    return mount


def _below(scope: Scope) -> str:
    """Return the path below the mount. If ``path`` does not begin with ``root_path``, it is below the mount already."""
    path: str = scope["path"]
    root: str = scope.get("root_path") or ""
    # A proxy may have removed its part of `root_path` from `path`; Starlette keeps that part in `app_root_path`.
    mounted = root.removeprefix(scope.get("app_root_path") or "")
    for above in (root, root.rstrip("/"), mounted):
        below = path.removeprefix(above)
        if above and path.startswith(above) and below[:1] in ("", "/"):
            return below or "/"
    return path


def _encoded(root: str) -> str:
    """Encode ``root`` with exactly one slash in front, so that it can't lead to another server."""
    inner = root.strip("/")
    return f"/{_quoted(inner)}" if inner else ""


def _quoted(path: str) -> str:
    return quote(path, errors="replace")

"""The path at which clients find this app: that of a proxy, and of another app that has mounted this one.

It is removed in one place, before everything else.
"""

from __future__ import annotations

from urllib.parse import quote

from starlette.types import ASGIApp, Receive, Scope, Send

PREFIX = "portico.prefix"
"""The key of the ASGI scope for the path that a trusted proxy says to have taken off."""

_MOUNT = "portico.mount"
_OF_THE_SERVER = frozenset(
    {"type", "asgi", "http_version", "method", "scheme", "headers", "client", "server", "extensions"}
)
"""Keys of the ASGI scope that mean the same to the outer app and to this one."""


class Mounted:
    """Gives the app the scope that it would have without a proxy and an outer app.

    Its ``path`` begins at the app's own root, ``root_path`` is empty, and the entries of the outer app (its route and
    parameters, its state, its error handlers) are left out. So all the parts inside compare the same path, wherever
    the app is mounted. ``raw_path`` stays as the client sent it, for logs. The scope of the outer app is not changed.

    ``root_path`` is the path that a proxy takes off, unless the proxy says another. Where it was not taken off, it is
    removed here, but not from ``own``, the path of the API. All routes lie below ``base``; what does not is found
    nowhere.
    """

    def __init__(self, app: ASGIApp, root_path: str = "", own: str = "", base: str = "") -> None:
        self._app = app
        self._root_path = root_path
        self._own = own
        self._base = base

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        own = {key: value for key, value in scope.items() if key in _OF_THE_SERVER}
        raw_path: bytes | None = scope.get("raw_path")  # it is optional, and some servers leave the query string in it
        path, prefix = _below(scope), scope.get(PREFIX)
        if prefix is None:
            prefix = self._root_path
            # After a proxy that says so itself nothing is left to remove: what it forbids at a path would else be
            # reached at that path with the prefix twice.
            if _inside(path, self._own) is None:
                path = _inside(path, prefix) or path
        if self._base:
            path = _inside(path, self._base) or ""  # no route matches an empty path
        mount = prefix + _encoded(scope.get("root_path") or "") + self._base
        own |= {
            "path": path,
            "raw_path": raw_path.partition(b"?")[0] if raw_path is not None else _quoted(scope["path"]).encode(),
            "query_string": scope.get("query_string") or b"",
            "root_path": "",
            "app_root_path": mount,  # for `Request.url_for` in routes of plugins
            _MOUNT: mount,
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
        if (below := _inside(path, above)) is not None:
            return below
    return path


def _inside(path: str, outer: str) -> str | None:
    """Return the path below ``outer``, or None if ``path`` is not there."""
    below = path.removeprefix(outer)
    return below or "/" if outer and path.startswith(outer) and below[:1] in ("", "/") else None


def _encoded(root: str) -> str:
    """Encode ``root`` with exactly one slash in front, so that it can't lead to another server."""
    inner = root.strip("/")
    return f"/{_quoted(inner)}" if inner else ""


def _quoted(path: str) -> str:
    return quote(path, errors="replace")

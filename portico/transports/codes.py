"""The stable codes of problems, each with its status and its meaning."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

CODES: Mapping[str, tuple[int, str]] = {
    "malformed": (400, "not what the protocol allows: broken JSON, a bad header or query string"),
    "unauthenticated": (401, "no credentials, or wrong ones"),
    "not_allowed": (403, "the operator does not allow this mode, folder or tool, or the ticket does not"),
    "host_not_allowed": (403, "the server does not answer to this name (`allowed_hosts`)"),
    "origin_not_allowed": (403, "pages of this origin may not use the server (`allowed_origins`)"),
    "not_found": (404, "there is nothing at this path"),
    "session_not_found": (404, "no such session, or somebody else's"),
    "turn_not_found": (404, "no such turn in this session"),
    "request_not_found": (404, "no such permission request in this session"),
    "method_not_allowed": (
        405,
        "the path answers other methods (`Allow`), or a prefetch tried to start a turn",
    ),
    "request_timeout": (408, "the body came too slowly"),
    "session_exists": (409, "the id is taken"),
    "session_closed": (409, "the session is closed, or has failed"),
    "busy": (409, "a turn is running, and `if_busy` is `reject`"),
    "not_running": (409, "no turn is running"),
    "not_queued": (409, "the turn runs already, or is over"),
    "already_resolved": (409, "another answer came first; further members say whose, and what it was"),
    "already_authenticated": (409, "the connection already belongs to another caller"),
    "not_supported": (409, "the session's driver can't do this"),
    "too_large": (413, "the body is larger than the operation takes, or than `max_body`"),
    "too_many_values": (413, "the JSON has more values than any request here needs"),
    "uri_too_long": (414, "the URL is too long"),
    "unsupported_media_type": (415, "the body is not JSON in UTF-8, or is compressed"),
    "invalid": (422, "values are wrong; `errors` lists them"),
    "invalid_cursor": (422, "the cursor is not from this server"),
    "invalid_cwd": (422, "`cwd` is not a folder"),
    "unknown_driver": (422, "there is no such driver here"),
    "after_too_large": (422, "the history ends before that event"),
    "turn_id_mismatch": (422, "`turn_id` and the header `Idempotency-Key` differ"),
    "upgrade_required": (426, "the path speaks WebSocket"),
    "too_many_attempts": (429, "too many wrong credentials from the caller's address"),
    "too_many_sessions": (429, "the limit on open sessions is reached (`max_sessions`)"),
    "too_many_turns": (429, "the caller has reached its limit of turns in this minute (`max_turns_per_minute`)"),
    "too_many_streams": (429, "the caller has reached its limit of open streams (`max_streams_per_principal`)"),
    "too_many_bodies": (429, "the caller is sending more at once, over all its requests, than one caller may"),
    "queue_full": (429, "the limit on waiting turns of the session is reached (`max_queued_turns`)"),
    "head_too_large": (431, "the request's headers are too large, or too many"),
    "internal_error": (500, "a fault in the server; its log says more"),
    "unsupported_transfer_coding": (501, "the only transfer coding is chunked"),
    "too_many_connections": (503, "the limit on open connections is reached"),
    "draining": (503, "the server is stopping"),
    "not_ready": (503, "new work would be refused; `reasons` says why"),
    "agent_unavailable": (503, "no agent can be started"),
    "driver_not_loaded": (503, "the session's driver is not loaded in this server"),
    "workspaces_unusable": (
        503,
        "the server can't make a workspace, because their folder was moved; it needs a restart",
    ),
    "authenticator_failed": (503, "the caller's credentials can't be checked now"),
    "still_stopping": (503, "the agent is still stopping; try again"),
    "store_failed": (503, "the store does not work"),
}

ANYWHERE = frozenset(
    {
        "malformed",
        "uri_too_long",
        "head_too_large",
        "internal_error",
        "unsupported_transfer_coding",
        "too_many_connections",
    }
)
"""The codes that any request may be answered with."""

OPEN = frozenset({500, 503})
"""The statuses at which plugins (drivers, stores, authenticators) have codes of their own."""


def by_status(codes: Iterable[str]) -> dict[int, list[str]]:
    """Group ``codes`` by status, sorted."""
    found: dict[int, list[str]] = {}
    for code in sorted(set(codes), key=lambda code: (CODES[code][0], code)):
        found.setdefault(CODES[code][0], []).append(code)
    return found

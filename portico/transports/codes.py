"""The stable codes of problems: the status of each, its meaning, and what a client can do about it.

`docs/reference/errors.md` is made of these tables.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple


class Code(NamedTuple):
    status: int
    meaning: str
    remedy: str


CODES: Mapping[str, Code] = {
    "malformed": Code(
        400,
        "not what the protocol allows: broken JSON, a bad header or query string",
        "Correct the request; the detail says where it is broken.",
    ),
    "unauthenticated": Code(
        401,
        "no credentials, or wrong ones",
        "Send `Authorization: Bearer SECRET`, or ask for a new ticket.",
    ),
    "not_allowed": Code(
        403,
        "the operator does not allow this mode, folder or tool, or the ticket does not",
        "Ask for something that the operator allows, or ask the operator to allow it.",
    ),
    "host_not_allowed": Code(
        403,
        "the server does not answer to this name (`allowed_hosts`)",
        "Use one of the server's names, or have the operator add this one to `allowed_hosts`.",
    ),
    "origin_not_allowed": Code(
        403,
        "pages of this origin may not use the server (`allowed_origins`)",
        "Have the operator add the page's origin to `allowed_origins`; a proxy must pass `Host` on (see the detail).",
    ),
    "not_found": Code(
        404,
        "there is nothing at this path",
        "Check the path and `api_prefix`, and what a proxy takes off (`root_path`).",
    ),
    "origin_unproven": Code(
        403,
        "no token is needed here (a Ziti service, a Unix socket, `auth=none`), and a web page could have sent this",
        "Send the header `X-Portico: 1`, or a query as JSON with POST, or a ticket.",
    ),
    "session_not_found": Code(
        404,
        "no such session, or somebody else's",
        "Create the session, or use the credentials of its owner.",
    ),
    "turn_not_found": Code(
        404,
        "no such turn in this session",
        "Check the `turn_id`; the turn may belong to another session, or its history was deleted.",
    ),
    "event_not_found": Code(
        404,
        "no such event in this session",
        "Check the number: it is the `seq` of an event of this session.",
    ),
    "event_deleted": Code(
        404,
        "the event was deleted (`retention_days`, `retention_mb`); `min_seq` is the first one that still exists",
        "Go on without it. Nobody can read it any more.",
    ),
    "task_not_found": Code(
        404,
        "no such task goes on in this session's background",
        "Do nothing: the task is over. Read `tasks` of the session.",
    ),
    "schedule_not_found": Code(
        404,
        "the agent has scheduled nothing of this id, or it is over",
        "Read `schedules` of the session.",
    ),
    "request_not_found": Code(
        404,
        "no such permission request in this session",
        "Read `pending_permissions` of the session.",
    ),
    "rule_not_found": Code(404, "no such permission rule in this session", "Read `permission_rules` of the session."),
    "method_not_allowed": Code(
        405,
        "the path answers other methods (`Allow`), or a prefetch tried to start a turn",
        "Use a method that the header `Allow` names.",
    ),
    "request_timeout": Code(408, "the body came too slowly", "Send the request again on a better connection."),
    "session_exists": Code(409, "the id is taken", "Choose another `session_id`, or use the session that has it."),
    "session_closed": Code(
        409,
        "the session is closed, or has failed",
        "Create a new session. The history stays readable.",
    ),
    "busy": Code(
        409,
        "a turn is running, and `if_busy` is `reject`",
        "Wait for `complete`, or send `if_busy` as `queue`, `interrupt` or `steer`.",
    ),
    "turn_not_over": Code(409, "the turn has not ended yet", "Wait for its `complete`, or fork at an earlier turn."),
    "not_forkable": Code(
        409,
        "the agent does not know where that turn ended",
        "Fork at another turn, or at the end of the history: leave `turn_id` out.",
    ),
    "no_checkpoint": Code(
        409,
        "the agent does not know how the files were when that turn began",
        "Name another turn. Those before a `/clear` or a fork, and those handed to a running turn, have no checkpoint.",
    ),
    "not_running": Code(409, "no turn is running", "Do nothing: the turn is over already."),
    "not_queued": Code(409, "the turn runs already, or is over", "Interrupt the turn, if it is running."),
    "already_resolved": Code(
        409,
        "another answer came first; further members say whose, and what it was",
        "Do nothing: the first answer counts.",
    ),
    "already_authenticated": Code(
        409,
        "the connection already belongs to another caller",
        "Open another connection for another caller.",
    ),
    "not_supported": Code(
        409,
        "the session's driver can't do this",
        "Leave it out, or use a session with another driver.",
    ),
    "too_large": Code(
        413,
        "the body is larger than the operation takes, or than `max_body`",
        "Send less. `max_body` is the operator's.",
    ),
    "workspace_too_large": Code(
        413,
        "the session's folder is too large to be copied: over 1 GiB, 100,000 entries or 60 seconds",
        "Fork with `workspace` as `share`, or delete what is not needed in the folder.",
    ),
    "too_many_values": Code(
        413,
        "the JSON has more values than any request here needs",
        "Send fewer values; put large data into one string.",
    ),
    "uri_too_long": Code(414, "the URL is too long", "Send the query in a body: `POST /stream/{id}`."),
    "unsupported_media_type": Code(
        415,
        "the body is not JSON in UTF-8, or is compressed",
        "Send `Content-Type: application/json`, without compression.",
    ),
    "invalid": Code(422, "values are wrong; `errors` lists them", "Correct the values that `errors` lists."),
    "invalid_cursor": Code(422, "the cursor is not from this server", "Begin the list again, without `cursor`."),
    "invalid_answer": Code(
        422,
        "the answer does not fit what the agent asked; `errors` lists the mistakes",
        "Correct the answer by the request's `kind`; the request still waits.",
    ),
    "invalid_add_dirs": Code(
        422, "one of `add_dirs` is not a folder", "Name existing folders on the server's machine."
    ),
    "invalid_cwd": Code(422, "`cwd` is not a folder", "Name an existing folder on the server's machine."),
    "unknown_driver": Code(422, "there is no such driver here", "Leave `driver` out, or name one that the server has."),
    "unknown_suggestion": Code(
        422,
        "the permission request has no suggestion of this id",
        "Name ids of the request's `suggestions`.",
    ),
    "after_too_large": Code(422, "the history ends before that event", "Use `last_seq` of the session, or begin at 0."),
    "turn_id_mismatch": Code(
        422,
        "`turn_id` and the header `Idempotency-Key` differ",
        "Send one of them, or the same in both.",
    ),
    "upgrade_required": Code(
        426,
        "the path speaks WebSocket",
        "Connect with a WebSocket client; a proxy on the way must pass `Upgrade` on (the detail says how).",
    ),
    "too_many_attempts": Code(
        429,
        "no valid credentials, and too many others from the caller's address were not valid either",
        "Correct the credentials: valid ones are let in at once. Wait with others for the seconds of `Retry-After`.",
    ),
    "too_many_sessions": Code(
        429,
        "the limit on open sessions is reached (`max_sessions`)",
        "Close a session, or wait for the seconds of `Retry-After`.",
    ),
    "too_many_turns": Code(
        429,
        "the caller has reached its limit of turns in this minute (`max_turns_per_minute`)",
        "Wait for the seconds of `Retry-After`.",
    ),
    "too_many_streams": Code(
        429,
        "the caller has reached its limit of open streams (`max_streams_per_principal`)",
        "Close a stream first.",
    ),
    "too_many_bodies": Code(
        429,
        "the caller is sending more at once, over all its requests, than one caller may",
        "Send fewer large requests at once; wait for the seconds of `Retry-After`.",
    ),
    "too_many_calls": Code(429, "8 calls of this session's agent are under way", "Wait for their answers."),
    "queue_full": Code(
        429,
        "the limit on waiting turns of the session is reached (`max_queued_turns`)",
        "Wait for a turn to end, or withdraw one that waits.",
    ),
    "head_too_large": Code(431, "the request's headers are too large, or too many", "Send fewer or shorter headers."),
    "internal_error": Code(500, "a fault in the server; its log says more", "Try again later, and tell the operator."),
    "unsupported_transfer_coding": Code(
        501,
        "the only transfer coding is chunked",
        "Send the body with `Content-Length`, or chunked.",
    ),
    "too_many_connections": Code(
        503,
        "the limit on open connections is reached",
        "Close unused connections, and try again later.",
    ),
    "draining": Code(
        503,
        "the server is stopping",
        "Connect again after the restart; resume streams with `Last-Event-ID`.",
    ),
    "not_ready": Code(
        503,
        "new work would be refused; `reasons` says why",
        "Try again later; tell the operator what `reasons` says.",
    ),
    "agent_busy": Code(
        503,
        "the agent has not answered within 10 s, or waits for a process as long",
        "Try again, when the session or the server has less to do.",
    ),
    "agent_unavailable": Code(503, "no agent can be started", "Try again later, and tell the operator."),
    "driver_not_loaded": Code(
        503,
        "the session's driver is not loaded in this server",
        "Tell the operator, or use a new session.",
    ),
    "workspaces_unusable": Code(
        503,
        "the server can't make a workspace, because their folder was moved; it needs a restart",
        "Tell the operator.",
    ),
    "workspace_moved": Code(
        503,
        "the session's folder is not where it was, so no agent can work there",
        "Have it moved back, or use a new session.",
    ),
    "workspace_not_allowed": Code(
        503,
        "the operator does not allow the session's folder any more",
        "Use a new session in another folder.",
    ),
    "authenticator_failed": Code(503, "the caller's credentials can't be checked now", "Try again later."),
    "still_stopping": Code(503, "the agent is still stopping; try again", "Try again in a few seconds."),
    "store_failed": Code(503, "the store does not work", "Try again later, and tell the operator."),
}
"""The server's own answers to requests."""

PLUGIN_CODES: Mapping[str, Code] = {
    "invalid_content": Code(422, "the driver can't take this query", "Correct the content that the detail names."),
    "invalid_option": Code(
        422,
        "the driver can't take this option of the session",
        "Correct the option that the detail names.",
    ),
    "store_full": Code(503, "the disk of the store is full", "Tell the operator."),
    "store_read_only": Code(503, "the store can't be written", "Tell the operator."),
    "store_busy": Code(503, "another program has locked the store", "Tell the operator."),
    "store_damaged": Code(503, "the store's file is damaged", "Tell the operator."),
    "jwks_unavailable": Code(503, "the keys of the identity provider can't be had now", "Try again later."),
}
"""Answers of the built-in drivers, stores and authenticators. Other plugins may have more."""

WEBSOCKET_CODES: Mapping[str, Code] = {
    "binary_message": Code(400, "a message was binary", "Send text."),
    "bad_handshake": Code(400, "the handshake is not one of WebSocket", "Use a WebSocket client of version 13."),
    "unknown_subprotocol": Code(
        422,
        "none of the subprotocols that were offered is known",
        "Offer `portico.v1`, or none.",
    ),
}
"""Refusals that only a WebSocket knows."""

TURN_CODES: Mapping[str, tuple[str, str]] = {
    "session_closed": ("the session was closed before the turn was over", "Use a new session."),
    "internal_error": ("a fault in the server; its log says more", "Try again later, and tell the operator."),
    "store_failed": ("the store did not take the turn's events", "Try again later, and tell the operator."),
    "turn_timeout": ("the turn took longer than `turn_timeout`", "Ask for less at once."),
    "server_restarted": (
        "the server was stopped before the turn was over",
        "Send the query again, with a new `turn_id`.",
    ),
    "no_capacity": ("no process became free within `process_wait`", "Try again later."),
    "mode_not_allowed": (
        "the agent stayed in a permission mode that is not allowed",
        "Send the query again; set another `permission_mode` before.",
    ),
    "no_result": ("the agent ended the turn without a result", "Send the query again, with a new `turn_id`."),
    "workspace_moved": ("the session's folder is not where it was", "Have it moved back, or use a new session."),
    "workspace_not_allowed": (
        "the operator does not allow the session's folder any more",
        "Use a new session in another folder.",
    ),
    "not_logged_in": ("the server has no credentials for the model", "Tell the operator."),
    "authentication_failed": ("the model API refuses the server's credentials", "Tell the operator."),
    "billing": ("the model API refuses for reasons of payment", "Tell the operator."),
    "budget_exceeded": (
        "the owner has spent `budget_usd_per_day`, or the session its `budget_usd`",
        "Wait for the next day, or ask the operator for more.",
    ),
    "rate_limited": ("the model API has had too many requests", "Try again later."),
    "overloaded": ("the model API is overloaded", "Try again later."),
    "model_not_found": ("there is no such model", "Set another `model` with PATCH."),
    "invalid_request": (
        "the model API refuses the request",
        "Read the error's text; a new session helps where the context is at fault.",
    ),
    "request_too_large": ("the conversation is too large for the model API", "Send less, or use a new session."),
    "prompt_too_long": ("the conversation is longer than the model's context", "Send less, or use a new session."),
    "context_window": (
        "the model came to the end of its context in the middle of a reply",
        "Ask for less at once, or use a new session.",
    ),
    "media_refused": (
        "the model API can't read an image or a document of the conversation",
        "Send it in another form, or smaller.",
    ),
    "history_broken": ("the model API no longer takes the conversation as it is", "Use a new session."),
    "refusal": ("the model, or a safeguard before it, declines to answer", "Ask for something else."),
    "api_unreachable": ("the connection to the model API was lost, or could not be made", "Try again later."),
    "no_structured_output": (
        "the agent has returned nothing that fits the `output_schema`",
        "Ask again, or send a schema that is easier to fill.",
    ),
    "output_schema_refused": (
        "the agent can't use the `output_schema`",
        "Leave out keywords that are not of JSON Schema draft 7, and references that lead out of the schema.",
    ),
    "max_tokens": ("a reply was longer than `max_tokens`", "Ask for a shorter answer."),
    "api_error": ("the model API failed", "Try again later."),
    "agent_error": ("the agent could not finish the turn", "Read the error's text, and try again."),
    "agent_exited": ("the agent's process ended in the turn", "Send the query again; the agent is started anew."),
    "agent_closed": ("the agent was closed in the turn", "Send the query again, unless the session is closed."),
    "agent_stalled": ("the agent does not answer", "Send the query again; the agent is started anew."),
    "agent_mismatch": ("the agent belongs to another session", "Send the query again."),
    "agent_line_too_long": ("the agent wrote a line that is too long to read", "Ask for less output at once."),
    "agent_folder_unusable": ("the agent's folders can't be used", "Tell the operator."),
    "driver_failed": ("the driver failed", "Tell the operator."),
    "driver_hung": ("the driver does not answer", "Tell the operator."),
    "not_open": ("a part that the agent needs is not open", "Try again later; the server may be stopping."),
    "gateway_unusable": ("the gateway to the model API can't be used", "Tell the operator."),
    "cli_not_found": ("there is no program `claude`", "Tell the operator."),
    "cli_not_executable": ("the program `claude` may not be executed", "Tell the operator."),
    "cli_broken": ("the program `claude` does not work", "Tell the operator."),
    "cli_too_old": ("the program `claude` is too old", "Tell the operator."),
    "cli_failed_to_start": ("the program `claude` ended at its start", "Tell the operator what the error says."),
    "no_conversation": ("the agent has lost the conversation", "Use a new session."),
    "session_in_use": ("another agent uses the conversation", "Try again later."),
    "no_sandbox": ("the sandbox that the operator requires can't be had", "Tell the operator."),
    "spawn_failed": ("the agent's process could not be started", "Tell the operator."),
}
"""Meaning and remedy of the codes of ``error`` events; a new session without an agent may answer with one too."""

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

"""The event of what an agent has scheduled."""

from __future__ import annotations

from typing import Literal, NotRequired

from typing_extensions import TypedDict  # pydantic makes schemas of these, and needs it before Python 3.12


class Schedule(TypedDict):
    """A prompt that the agent has scheduled for itself: it begins a turn of the session at ``next_at`` (RFC 3339).

    ``kind`` is ``wakeup`` (once) or ``cron``, which has an expression of five fields in the server's local time.
    ``fired``: its turn begins; with a ``next_at`` it will begin another one. An agent that starts too late for a
    ``durable`` one makes up for it. An agent that does not know which one has fired says "" as its id; clients see the
    true one.
    """

    type: Literal["schedule"]
    schedule_id: str
    state: Literal["set", "fired", "removed"]
    kind: Literal["wakeup", "cron"]
    prompt: str
    next_at: NotRequired[str]
    cron: NotRequired[str]
    recurring: NotRequired[bool]
    durable: NotRequired[bool]
    reason: NotRequired[str]

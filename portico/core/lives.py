"""The sessions in use: their lives, their feeds, and their live halves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from weakref import WeakValueDictionary

from portico.core.feed import Feed
from portico.core.life import Life
from portico.core.session import Session
from portico.core.state import State
from portico.core.store import EventStore, SessionRecord


class Lives:
    """The sessions in use. All concurrent users of a session share one `Life` and one `Feed`, which go with the last.

    ``live`` has the sessions that have a task, by id. ``told`` is passed to each `Feed`.
    """

    def __init__(self, store: EventStore, told: Callable[[Feed, int], None]) -> None:
        self.live: dict[str, Session] = {}
        self._store = store
        self._told = told
        self._lives: WeakValueDictionary[str, Life] = WeakValueDictionary()
        self._feeds: WeakValueDictionary[Life, Feed] = WeakValueDictionary()

    @property
    def feeds(self) -> Sequence[Feed]:
        return list(self._feeds.values())

    def of(self, session_id: str) -> Life:
        """Return the life of the session that has this id now, or if there is none, of the next one with this id."""
        life = self._lives.get(session_id)
        if life is None:
            life = self._lives[session_id] = Life(session_id, self._store)
        return life

    def session(self, life: Life) -> Session | None:
        """Return the session, if it is live. Raises `SessionGone`."""
        life.check()
        return self.live.get(life.session_id)

    async def record(self, life: Life) -> SessionRecord | None:
        """Return the session's current record, or None if there is no session. Raises `SessionGone`."""
        session = self.session(life)
        return session.record if session else await life.record()

    def feed(self, life: Life, record: SessionRecord) -> Feed:
        feed = self._feeds.get(life)
        return feed or self.new_feed(life, record.last_seq, ended=record.state is State.CLOSED)

    def new_feed(self, life: Life, last_seq: int = 0, *, ended: bool = False) -> Feed:
        feed = self._feeds[life] = Feed(life, last_seq, ended=ended, told=self._told)
        return feed

    def drop_feed(self, life: Life) -> None:
        """Forget the feed: the next call of `feed` makes a new one."""
        self._feeds.pop(life, None)

    async def forget(self, life: Life) -> None:
        """Delete a session. Until that is done, its id is unknown to everybody, and no new session can take it."""
        if (feed := self._feeds.pop(life, None)) is not None:
            feed.end()
        self.live.pop(life.session_id, None)
        try:
            await life.purge()
        finally:
            self._lives.pop(life.session_id, None)

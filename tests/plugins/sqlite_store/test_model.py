"""The store against a model of it: a list of events for each session."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portico.core.errors import NotFound, SequenceConflict
from portico.core.events import Event
from portico.plugins.sqlite_store import blocks, history
from portico.plugins.sqlite_store.store import SqliteStore
from portico.testing.store import event, read_all, record

DAY = 86_400
KEEP_DAYS = 5


@dataclass
class Model:
    events: list[Event] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    turn: str | None = None
    turn_began: int = 0
    first: int = 1


sessions = st.sampled_from(["a", "b"])
steps = st.lists(
    st.one_of(
        st.tuples(
            st.just("append"), sessions, st.lists(st.binary(max_size=400), min_size=1, max_size=12), st.booleans()
        ),
        st.tuples(st.just("wrong"), sessions, st.integers(-2, 2)),
        st.tuples(st.just("read"), sessions, st.integers(0, 60), st.integers(1, 50)),
        st.tuples(st.just("tidy")),
        st.tuples(st.just("reopen")),
        st.tuples(st.just("wait"), st.integers(-3, 4)),
        st.tuples(st.just("delete"), sessions),
    ),
    max_size=40,
)


class Run:
    def __init__(self, path: Path) -> None:
        self.now = 20_000.0 * DAY
        self.store = SqliteStore(path, retention_days=KEEP_DAYS, now=lambda: self.now)
        self.models: dict[str, Model] = {}
        self.turns = 0

    async def all(self, todo: list[tuple[object, ...]]) -> None:
        await self.store.open()
        for name, *values in todo:
            await getattr(self, f"do_{name}")(*values)
        for name in self.models:
            await self.do_read(name, 0, 1000)
        await self.store.close()

    async def model(self, name: str) -> Model:
        if name not in self.models:
            self.models[name] = Model()
            await self.store.create(record(name))
        return self.models[name]

    async def do_append(self, name: str, datas: list[bytes], complete: bool) -> None:
        model = await self.model(name)
        seq = len(model.events)
        if model.turn is None:
            self.turns += 1
            model.turn, model.turn_began = f"t{self.turns}", seq + 1
        events = [event(seq + n, "delta", model.turn, data) for n, data in enumerate(datas, 1)]
        if complete:
            events[-1] = event(events[-1].seq, "complete", model.turn, events[-1].data)
        await self.store.append(name, seq, events)
        model.events += events
        model.times += [self.now] * len(events)
        span = await self.store.turn(name, model.turn)
        assert span is not None
        assert (span.first_seq, span.last_seq) == (model.turn_began, events[-1].seq if complete else None)
        if complete:
            model.turn = None

    async def do_wrong(self, name: str, distance: int) -> None:
        end = len(self.models[name].events) if name in self.models else 0
        if name not in self.models:
            with pytest.raises(NotFound):
                await self.store.append(name, end, [event(1)])
        elif distance:
            with pytest.raises(SequenceConflict):
                await self.store.append(name, end + distance, [event(end + distance + 1)])

    async def do_read(self, name: str, after: int, limit: int) -> None:
        model = self.models.get(name, Model())
        found = await read_all(self.store, name, after, limit)
        assert found == model.events[len(model.events) - len(found) :]
        if len(found) < len(model.events) - after:
            first = found[0].seq  # the last event is always there
            assert first >= model.first
            model.first = first
            gone = model.times[after : first - 1]
            assert all(self.latest(model, seq) for seq in range(after, first - 1)), gone
            assert model.turn is None or first <= model.turn_began

    def latest(self, model: Model, index: int) -> bool:
        """Tell whether the event was old enough to be deleted at any time until now."""
        return model.times[index] < self.newest - KEEP_DAYS * DAY

    newest = 20_000.0 * DAY

    async def do_tidy(self) -> None:
        await self.store.tidy()

    async def do_reopen(self) -> None:
        await self.store.close()
        await self.store.open()
        assert set(await self.store.unfinished()) == {
            (name, model.turn) for name, model in self.models.items() if model.turn is not None
        }

    async def do_wait(self, days: int) -> None:
        self.now += days * DAY
        self.newest = max(self.newest, self.now)

    async def do_delete(self, name: str) -> None:
        self.models.pop(name, None)
        await self.store.delete(name)
        assert await self.store.get(name) is None


@settings(max_examples=60, deadline=None)
@given(todo=steps)
def test_it_does_what_the_model_does(todo: list[tuple[object, ...]]) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(history, "BLOCK_BYTES", 1000)  # many blocks from few events
        assert blocks.BLOCK_BYTES > 1000
        anyio.run(partial(Run(Path(folder) / "portico.db").all, todo))

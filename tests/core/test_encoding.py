"""JSON that is made piece by piece is what it would be in one piece."""

from __future__ import annotations

import json
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from portico.core import encoding
from portico.core.encoding import encode_in_turns, is_large
from portico.core.events import Draft, Message, Query, ToolUse, encode_event, encode_json
from portico.core.feed import Feed
from portico.core.life import Life
from portico.plugins.claude_code.content import encoded, user_line
from portico.plugins.memory_store.store import MemoryStore
from portico.testing.store import record
from tests.support.loop import longest_step

pytestmark = pytest.mark.anyio

AWKWARD = 'a"\\\n\x01\x85\u2028é中😀'
BLOCKS: list[dict[str, Any]] = [
    {"type": "text", "text": AWKWARD * 20_000},
    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "A" * 200_000}},
    {"type": "text", "text": AWKWARD},
]


@pytest.mark.parametrize("content", [AWKWARD * 20_000, "x" * 100_000 + "\ud800" + "y" * 100_000, BLOCKS])
async def test_a_query_in_pieces_is_the_event_that_it_is_in_one(content: Any) -> None:
    assert is_large(content)
    pieces = await encode_in_turns(content)
    assert json.loads(b"".join(pieces)) == content
    assert max(map(len, pieces)) < 10 * encoding.PIECE
    query = Query(type="query", content=content, principal="alice")
    made = encode_event("s", 1, "now", Draft(query, "t", pieces))
    assert json.loads(made.data) == json.loads(encode_event("s", 1, "now", Draft(query, "t")).data)
    assert len(made.data.decode().splitlines()) == 1


@pytest.mark.parametrize("content", [AWKWARD * 20_000, BLOCKS])
async def test_a_line_in_pieces_is_the_line_that_it_is_in_one(content: Any) -> None:
    whole = user_line("u", content, commands=False)
    assert json.loads(user_line("u", content, commands=False, encoded=await encoded(content))) == json.loads(whole)


@pytest.mark.parametrize("content", ["", AWKWARD, [BLOCKS[2]]])
async def test_what_is_short_is_encoded_at_one_go(content: Any) -> None:
    assert not is_large(content)
    assert list(await encode_in_turns(content)) == [encode_json(content)]
    assert await encoded(content) is None


NESTED: Any = "x"
for _ in range(300):
    NESTED = [NESTED, {"a": NESTED}] if _ < 12 else [NESTED]
LARGE: dict[str, Any] = {
    "list": [{"n": n, "x": None} for n in range(3000)],
    "members": {f"m{n}": [n, 1.5, True] for n in range(3000)},
    "mixed": [1, AWKWARD * 20_000, {}, [], "", {"a": [AWKWARD] * 10_000}, (1, 2), [[[[]]]] * 2000],
    "names": {AWKWARD: AWKWARD * 20_000, 7: "x" * 100_000, None: [], True: 1},
    "deep": NESTED,
}


@pytest.mark.parametrize("name", LARGE)
async def test_any_large_value_in_pieces_is_what_it_is_in_one(name: str) -> None:
    assert is_large(LARGE[name])
    pieces = await encode_in_turns(LARGE[name])
    assert json.loads(b"".join(pieces)) == json.loads(encode_json(LARGE[name]))
    assert len(pieces) > 10


async def test_what_is_no_json_is_refused_in_pieces_too() -> None:
    inside: list[Any] = ["x" * 100_000]
    inside.append(inside)
    for value in (inside, ["x" * 100_000, float("nan")], ["x" * 100_000, {1, 2}], {("a",): "x" * 100_000}):
        with pytest.raises((ValueError, TypeError)):
            await encode_in_turns(value)


async def test_an_agents_large_event_is_encoded_in_turns() -> None:
    store = MemoryStore()
    await store.create(record())
    feed = Feed(Life("s", store), 0)
    use = ToolUse(type="tool_use", tool_use_id="u", tool_name="n", input={"values": [{"n": n} for n in range(200_000)]})
    said = Message(type="message", role="assistant", content=[{"type": "text", "text": AWKWARD * 500_000}])
    async with longest_step() as longest:
        events = await feed.append([Draft(use, "t"), Draft(said, "t")])
    assert longest[0] < 0.05
    for event, body in zip(events, (use, said), strict=True):
        assert body.items() <= json.loads(event.data).items()


async def test_others_have_their_turn_meanwhile() -> None:
    rounds = 0
    async with anyio.create_task_group() as tasks:

        async def count() -> None:
            nonlocal rounds
            while True:
                await anyio.lowlevel.checkpoint()
                rounds += 1

        tasks.start_soon(count)
        await encode_in_turns("x" * 32 * encoding.PIECE)
        tasks.cancel_scope.cancel()
    assert rounds >= 30

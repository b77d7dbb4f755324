"""JSON that is made piece by piece is what it would be in one piece."""

from __future__ import annotations

import json
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from portico.core import encoding
from portico.core.encoding import encode_in_turns, is_long
from portico.core.events import Draft, Query, encode_event, encode_json
from portico.plugins.claude_code.content import encoded, user_line

pytestmark = pytest.mark.anyio

AWKWARD = 'a"\\\n\x01\x85\u2028é中😀'
BLOCKS: list[dict[str, Any]] = [
    {"type": "text", "text": AWKWARD * 20_000},
    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "A" * 200_000}},
    {"type": "text", "text": AWKWARD},
]


@pytest.mark.parametrize("content", [AWKWARD * 20_000, "x" * 100_000 + "\ud800" + "y" * 100_000, BLOCKS])
async def test_a_query_in_pieces_is_the_event_that_it_is_in_one(content: Any) -> None:
    assert is_long(content)
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
    assert not is_long(content)
    assert list(await encode_in_turns(content)) == [encode_json(content)]
    assert await encoded(content) is None


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

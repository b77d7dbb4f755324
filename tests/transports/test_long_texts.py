"""Long texts are looked at piece by piece, and are told of as short ones are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from portico.core.errors import InvalidRequest
from portico.transports.long_texts import LONG
from portico.transports.models import TurnBody
from portico.transports.parse import check, check_in_turns

pytestmark = pytest.mark.anyio


def image(data: str) -> dict[str, Any]:
    source = {"type": "base64", "media_type": "image/png", "data": data}
    return {"query": [{"type": "text", "text": "see"}, {"type": "image", "source": source}]}


async def exhaust(steps: Iterator[None]) -> None:
    for _ in steps:
        pass


AT_IMAGE, AT_QUERY = ["query", 1, "source", "data"], ["query"]


@pytest.mark.parametrize(
    ("values", "place"),
    [
        (image(""), AT_IMAGE),
        (image("A"), AT_IMAGE),
        (image("AA=A"), AT_IMAGE),
        (image("A==="), AT_IMAGE),
        (image("===="), AT_IMAGE),
        (image("AAA\n"), AT_IMAGE),
        (image("ÄAAA"), AT_IMAGE),
        (image("A" * LONG * 3 + "AAAÄ"), AT_IMAGE),
        (image("A" * LONG + "=AAA" + "A" * LONG), AT_IMAGE),
        (image("A" * (LONG - 2) + "==" + "A" * LONG), AT_IMAGE),
        (image("A" * LONG * 3 + "A"), AT_IMAGE),
        ({"query": ""}, AT_QUERY),
        ({"query": " \u2028\n"}, AT_QUERY),
        ({"query": " " * LONG * 3}, AT_QUERY),
        ({"query": [{"type": "text", "text": "\n" * LONG * 3}]}, ["query", 0, "text"]),
    ],
    ids=lambda value: repr(value)[-40:],
)
async def test_what_is_wrong_in_it_is_told_of(values: Mapping[str, Any], place: list[int | str]) -> None:
    with pytest.raises(InvalidRequest) as at_once:
        check(TurnBody, values)
    with pytest.raises(InvalidRequest) as in_turns:
        await check_in_turns(TurnBody, values, exhaust)
    assert in_turns.value.extra == at_once.value.extra
    assert in_turns.value.extra["errors"][0]["loc"] == place


@pytest.mark.parametrize(
    "values",
    [image("AAAA"), image("AA=="), image("+/9="), image("A" * LONG * 2 + "AAA="), {"query": " " * LONG * 3 + "x"}],
    ids=lambda value: repr(value)[-40:],
)
async def test_what_is_good_is_taken_as_it_is(values: Mapping[str, Any]) -> None:
    checked = await check_in_turns(TurnBody, values, exhaust)
    assert checked.request().content == check(TurnBody, values).request().content == values["query"]


@pytest.mark.parametrize("values", [image("A" * 8 * LONG), {"query": " " * 8 * LONG + "x"}], ids=["image", "blanks"])
async def test_others_have_their_turn_meanwhile(values: Mapping[str, Any]) -> None:
    pauses = 0

    async def do(steps: Iterator[None]) -> None:
        nonlocal pauses
        pauses += sum(1 for _ in steps)

    await check_in_turns(TurnBody, values, do)
    assert pauses == 8

"""An event that is cut is never too large, is still an event of its type, and says all that it lacks."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Mapping
from types import UnionType
from typing import Any, Literal, NotRequired, Required, Union, get_args, get_origin, get_type_hints

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given, strategies
from hypothesis.strategies import SearchStrategy
from pydantic import TypeAdapter
from typing_extensions import is_typeddict

from portico.core.events import WRITTEN, Event, encode_json
from portico.core.life import Life
from portico.plugins.memory_store.store import MemoryStore
from portico.transports.cutter import AROUND, Cutter
from portico.transports.cutting import CutEvent
from portico.transports.shapes import WireEvent
from tests.support.loop import longest_step

Json = dict[str, Any]

SIZES = strategies.sampled_from([1024, 1100, 2048, 5000, 9000])
HEAD: Json = {
    "session_id": "s" * 64,
    "seq": 10**17,
    "time": "2026-11-29T20:59:05.123456Z",
    "turn_id": "t" * 128,
}
ALPHABET = strategies.sampled_from('ab/~" \\\n\x01é中😀\ud83d\ude00\u2028\x85')
SHORT = strategies.text(ALPHABET, max_size=12)
TEXTS = strategies.one_of(
    SHORT,
    strategies.builds(lambda text, times: text * times, SHORT, strategies.sampled_from([30, 300, 1000])),
)
NAMES = strategies.one_of(SHORT, strategies.sampled_from(["id", "tool_use_id", "data", "content", "cut"]), TEXTS)
PLAIN = strategies.recursive(
    strategies.one_of(strategies.none(), strategies.booleans(), strategies.integers(), strategies.floats(-1, 1), TEXTS),
    lambda inner: strategies.one_of(
        strategies.lists(inner, max_size=6), strategies.dictionaries(NAMES, inner, max_size=6)
    ),
    max_leaves=8,
)
VALUES = strategies.one_of(
    PLAIN,
    strategies.builds(lambda item, times: [item] * times, PLAIN, strategies.sampled_from([3, 40])),
    strategies.builds(lambda item: {f"m{n}": item for n in range(30)}, PLAIN),
)


def of(hint: Any) -> SearchStrategy[Any]:
    """Any value of a type of a member."""
    if get_origin(hint) in (NotRequired, Required):
        return of(get_args(hint)[0])
    if is_typeddict(hint):
        hints = get_type_hints(hint, include_extras=True)
        optional = {name for name, member in hints.items() if get_origin(member) is NotRequired}
        return strategies.fixed_dictionaries(
            {name: of(member) for name, member in hints.items() if name not in optional},
            optional={name: of(hints[name]) for name in sorted(optional)},
        )
    if get_origin(hint) in (Union, UnionType):
        return strategies.one_of(*map(of, get_args(hint)))
    if get_origin(hint) is list:
        item = of(get_args(hint)[0])
        many = strategies.builds(lambda item, times: [item] * times, item, strategies.sampled_from([5, 40]))
        return strategies.one_of(strategies.lists(item, max_size=3), many)
    if get_origin(hint) is dict:
        return strategies.dictionaries(NAMES, of(get_args(hint)[1]), max_size=4)
    if get_origin(hint) is Literal:
        return strategies.sampled_from(get_args(hint))
    if hint is Any:
        return VALUES
    if hint is str:
        return TEXTS
    if hint is float:
        return strategies.floats(-1, 1)
    return strategies.from_type(hint)


EVENTS = strategies.one_of([of(body) for body in WRITTEN])
SHAPE: TypeAdapter[Any] = TypeAdapter(WireEvent)


def made(event: Mapping[str, Any], max_bytes: int) -> bytes:
    cut = CutEvent(encode_json(event), max_bytes)
    for _ in cut.steps():
        pass
    return cut.data


def cut(event: Mapping[str, Any], max_bytes: int) -> Json:
    """The event, after all that must be true of it was checked."""
    before, data = encode_json(event), made(event, max_bytes)
    event = json.loads(before)  # two halves of a surrogate pair are one character now
    assert len(data) <= max_bytes
    assert len(data.decode().splitlines()) == 1
    found: Json = json.loads(data)
    named = found.pop("cut")
    whole = {name: value for name, value in event.items() if name != "cut"}
    assert {name: found[name] for name in (*HEAD, "type") if name in event} == {
        name: event[name] for name in (*HEAD, "type") if name in event
    }
    assert named
    seen = set[str]()
    check_part(whole, found, "", named, seen)
    assert seen == named.keys()
    if "" in named:
        assert named.pop("") == len(before)
    return {**found, "cut": named}


def check_part(whole: Any, part: Any, pointer: str, named: Mapping[str, int], seen: set[str]) -> None:
    """``part`` is ``whole``, but for what is named."""
    if pointer in named:
        seen.add(pointer)
        size = len(whole.encode("utf-8", "surrogatepass")) if isinstance(whole, str) else None
        assert size in (named[pointer], None)
    else:
        assert type(part) is type(whole), pointer
        assert isinstance(whole, list | dict) or part == whole, pointer
        assert not isinstance(whole, list | dict) or len(part) == len(whole), pointer
    if isinstance(whole, str):
        assert whole.startswith(part), pointer
        encode_json(part).decode()
    elif isinstance(whole, list):
        if pointer in named and part == [{"type": "text", "text": ""}]:
            return
        assert len(part) <= len(whole)
        for index, (inner, item) in enumerate(zip(whole, part, strict=False)):
            check_part(inner, item, f"{pointer}/{index}", named, seen)
    elif isinstance(whole, dict):
        assert part.keys() <= whole.keys()
        for name, member in part.items():
            check_part(whole[name], member, f"{pointer}/{name.replace('~', '~0').replace('/', '~1')}", named, seen)


@given(EVENTS, SIZES)
def test_an_event_of_any_type_stays_one(body: Json, max_bytes: int) -> None:
    event = {"type": body["type"], **HEAD, **body}
    if len(encode_json(event)) > max_bytes:
        SHAPE.validate_python(json.loads(made(event, max_bytes)))
        cut(event, max_bytes)


@given(strategies.dictionaries(NAMES, VALUES, max_size=8), SIZES)
def test_whatever_an_event_is_made_of_it_is_never_too_large(body: Json, max_bytes: int) -> None:
    event = {"type": "of_a_plugin", **HEAD, **{name: value for name, value in body.items() if name not in HEAD}}
    if len(encode_json(event)) > max_bytes:
        cut(event, max_bytes)


def event(kind: str, **body: Any) -> Json:
    return {"type": kind, **HEAD, **body}


def test_the_longest_strings_are_cut_and_no_shorter_one() -> None:
    blocks = [
        {"type": "text", "text": "é" * 50_000},
        {"type": "text", "text": "b" * 1500},
        {"type": "text", "text": "c" * 9000},
    ]
    found = cut(event("message", role="assistant", content=blocks, message_id="m" * 40, index=0), 32_768)
    assert found["cut"] == {"/content/0/text": 100_000}
    assert found["content"][1:] == blocks[1:]
    assert len(found["content"][0]["text"]) > 2000
    both = cut(event("message", role="assistant", content=blocks, message_id="m" * 40, index=0), 8192)
    assert both["cut"] == {"/content/0/text": 100_000, "/content/2/text": 9000}
    lengths = [len(block["text"].encode()) for block in both["content"]]
    assert abs(lengths[0] - lengths[2]) < 8, "they are not cut to the same length"


@pytest.mark.parametrize(
    "text", ["x" * 50_000, "😀" * 20_000, "\n" * 50_000, '"\\' * 20_000, "\ud83d" * 9000, "a😀\x00" * 9000]
)
@pytest.mark.parametrize("max_bytes", range(1024, 1040))
def test_the_room_that_there_is_is_used_up_to_the_last_character(text: str, max_bytes: int) -> None:
    data = made(event("delta", content=text), max_bytes)
    assert max_bytes - 16 < len(data) <= max_bytes
    cut(event("delta", content=text), max_bytes)


def test_base64_stays_base64() -> None:
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "abcd" * 50_000}}
    for max_bytes in range(5000, 5008):
        found = cut(event("query", content=[{"type": "text", "text": "see"}, image], principal="alice"), max_bytes)
        assert found["cut"] == {"/content/1/source/data": 200_000}
        assert len(found["content"][1]["source"]["data"]) % 4 == 0


def test_ids_stay_whatever_else_goes() -> None:
    ids = {"tool_use_id": "toolu_" + "i" * 90, "parent_tool_use_id": "toolu_" + "p" * 90}
    details = {"structured_content": {f"row {n}": list(range(40)) for n in range(3000)}}
    found = cut(event("tool_result", **ids, content="x" * 10**6, is_error=False, details=details), 1024)
    assert found.items() > ids.items()
    use = {"type": "tool_use", "id": "toolu_" + "i" * 90, "name": "Bash", "input": {"command": "x" * 10**6}}
    message = cut(event("message", role="assistant", content=[use]), 1024)
    assert message["content"][0]["id"] == use["id"]
    assert message["cut"] == {"/content/0/input/command": 10**6}


def test_a_long_list_keeps_its_first_items_as_they_were() -> None:
    lines = [f"line {number} " + "." * 40 for number in range(50_000)]
    found = cut(event("notice", name="n", detail={"lines": lines, "after": "it"}), 64 * 1024)
    kept = found["detail"]["lines"]
    assert kept == lines[: len(kept)]
    assert len(kept) > 1000
    assert found["detail"]["after"] == "it"
    assert found["cut"].keys() == {"/detail/lines"}


def test_a_message_that_has_no_room_for_a_block_is_not_taken_back() -> None:
    block = {"type": "text", "text": "a", **{f"member {n}": n for n in range(1000)}}
    found = cut(event("message", role="assistant", content=[block] * 3), 1024)
    assert found["content"] == [{"type": "text", "text": ""}]


def test_questions_and_their_answers_stay_before_what_explains_them() -> None:
    options = [{"label": f"Option {n} " + "l" * 50, "preview": "p" * 5000, "description": "d" * 900} for n in range(4)]
    question = {"question": "Which one? " + "q" * 100, "options": options, "multi_select": False}
    asked = event("permission_request", request_id="r", tool_name="AskUserQuestion", input={"questions": [question]})
    found = cut({**asked, "kind": "question", "questions": [question]}, 4096)
    assert found["questions"][0]["question"] == question["question"]
    assert [option["label"] for option in found["questions"][0]["options"]] == [option["label"] for option in options]


DEEP: Any = "x" * 3000
for _ in range(400):
    DEEP = {"deeper": [DEEP]}
NASTY: Mapping[str, Json] = {
    "deep": event("tool_use", tool_use_id="i", tool_name="t", input=DEEP),
    "long names": event("tool_use", tool_use_id="i", tool_name="t", input={f"{n}" + "k" * 9000: n for n in range(50)}),
    "short members": event("complete", stop_reason="end_turn", usage={f"u{n}": n for n in range(60_000)}, cost_usd=0.5),
    "many lists": event("notice", name="n", detail=[[[], {}, [1]]] * 30_000),
    "many members": event("of_a_plugin", **{f"member {n}": "v" * 100 for n in range(3000)}),
    "a long name": event("delta", content="c", **{"k" * 5000: 1}),
    "an id of a megabyte": event("tool_use", tool_use_id="i" * 10**6, tool_name="t", input={}),
    "all long": event("error", error="e" * 9000, code="c" * 9000),
    "digits": event("complete", stop_reason="s", usage={"n": 10**4000}, cost_usd=10**4000),
    "a cut of its own": event("delta", content="x" * 9000, cut={"/content": 1}),
}


@pytest.mark.parametrize("name", NASTY)
@pytest.mark.parametrize("max_bytes", [1024, 4096, 16_384])
def test_what_does_not_consist_of_long_strings_is_cut_too(name: str, max_bytes: int) -> None:
    if len(encode_json(NASTY[name])) > max_bytes:
        cut(NASTY[name], max_bytes)


LARGE: Mapping[str, Json] = {
    "a text": event("delta", content='word \n"é😀 ' * 2_000_000),
    "plain": event("delta", content="x" * 30_000_000),
    "surrogates": event("delta", content="\ud83d" * 2_000_000),
    "values": event("notice", name="n", detail=[1, "ab", None] * 500_000),
    "lists": event("notice", name="n", detail=[[], {}, [[], [1]]] * 200_000),
    "texts": event("notice", name="n", detail=["t" * 300] * 30_000),
}


@pytest.mark.anyio
@pytest.mark.parametrize("name", LARGE)
async def test_nobody_waits_while_a_large_event_is_cut(name: str) -> None:
    data = encode_json(LARGE[name])
    async with longest_step() as longest:
        found = await Cutter().fitted(data, 10**6)
    assert longest[0] < 0.05
    assert len(found) <= 10**6
    assert json.loads(found)["type"] == LARGE[name]["type"]


@pytest.mark.anyio
async def test_what_fits_is_passed_on_as_it_is() -> None:
    events = [Event(1, "delta", None, b"no JSON: nobody looks"), Event(2, "delta", None, b"x" * 2000)]
    assert await Cutter().fitting(events, 2000 + AROUND) is events


@pytest.mark.anyio
async def test_all_who_want_the_same_share_the_work() -> None:
    events, life = (
        [Event(1, "delta", None, encode_json(event("delta", content="x" * 100_000)))],
        Life("s", MemoryStore()),
    )
    cutter, found = Cutter(), list[Event]()

    async def follow() -> None:
        found.extend(await cutter.fitting(events, 4096, life))

    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(follow)
    assert len(found) == 5
    assert all(each is found[0] for each in found)
    (other,) = await cutter.fitting(events, 2048, life)
    (elsewhere,) = await cutter.fitting(events, 4096, Life("s", MemoryStore()))
    assert len(other.data) <= 2048
    assert elsewhere is not found[0]


@pytest.mark.anyio
async def test_however_many_are_asked_for_at_once_few_are_in_progress() -> None:
    """The working data of a cut takes many times the size of its event."""
    large = Event(1, "notice", None, encode_json(event("notice", name="n", detail=[1] * 8000)))
    small = Event(2, "delta", None, encode_json(event("delta", content="x" * 5000)))
    cutter, waiting = Cutter(), set[int]()

    async def peak(count: int) -> int:
        async def cut(number: int) -> None:
            await cutter.fitting([large], 4096 + number, "one")
            waiting.discard(number)

        waiting.update(range(count))
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        async with anyio.create_task_group() as tasks:
            for number in range(count):
                tasks.start_soon(cut, number)
            await anyio.lowlevel.checkpoint()
            await cutter.fitting([small], 4096, "another")
            assert len(waiting) > count / 2, "who wants an event of another session does not wait for all of these"
        return tracemalloc.get_traced_memory()[1] - before

    tracemalloc.start()
    try:
        one = await peak(1)
        assert await peak(12) < 3 * one
    finally:
        tracemalloc.stop()

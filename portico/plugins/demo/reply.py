"""The Messages API's own shapes for a `Step`: one message, or the events of its stream.

Sans-IO. Event order and fields: https://docs.claude.com/en/docs/build-with-claude/streaming
"""

import json
import re
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

from portico.plugins.demo.script import Step

Json = dict[str, Any]
FILLER = ("portico", "opens", "onto", "a", "quiet", "square", "of", "light")
BLOCK = 16_384  # characters per delta when a reply is given by its size: words would be millions of events


def text_of(step: Step) -> str:
    """Return the whole text that a step says."""
    text = step.say or ""
    if step.words is not None:
        source = text.split() or FILLER
        text = " ".join(source[i % len(source)] for i in range(step.words))
    if step.size is not None:
        source_text = (text or " ".join(FILLER)) + " "
        text = (source_text * (step.size // len(source_text) + 1))[: step.size]
    return text


def pieces(text: str, chunk: int | None) -> Iterator[str]:
    """Yield the text in deltas: `chunk` characters each, or word by word."""
    if chunk is None:
        yield from re.findall(r"\s*\S+\s*\Z|\s*\S+|\s+", text)
    else:
        yield from (text[i : i + chunk] for i in range(0, len(text), chunk))


def message(step: Step, model: str) -> Json:
    """Make the answer to a call that doesn't stream."""
    content: list[Json] = []
    if step.think is not None:
        content.append({"type": "thinking", "thinking": step.think, "signature": _signature()})
    if text := text_of(step):
        content.append({"type": "text", "text": text})
    content += [{"type": "tool_use", "id": _id("toolu"), "name": t.name, "input": t.input} for t in step.tool]
    tokens = (len(text) + len(step.think or "")) // 4 + 20 * len(step.tool) + 1
    usage = {
        "input_tokens": 10,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "output_tokens": tokens,
        **step.usage,
    }
    return {
        "id": _id("msg"),
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": content,
        "stop_reason": step.stop_reason or ("tool_use" if step.tool else "end_turn"),
        "stop_sequence": None,
        **_details(step),
        "usage": usage,
    }


def _details(step: Step) -> Json:
    return {} if step.stop_details is None else {"stop_details": step.stop_details}


def events(step: Step, model: str) -> Iterator[Json]:
    """Make the events of a call that streams, `message_start` to `message_stop`."""
    whole = message(step, model)
    usage = whole["usage"]
    start = {**whole, "content": [], "stop_reason": None, "usage": {**usage, "output_tokens": 1}}
    yield {"type": "message_start", "message": start}
    chunk = step.chunk if step.chunk or step.size is None else BLOCK
    for index, block in enumerate(whole["content"]):
        cut = step.stop_reason == "max_tokens" and index == len(whole["content"]) - 1
        empty, deltas = _stream(block, chunk, cut=cut)
        yield {"type": "content_block_start", "index": index, "content_block": empty}
        if index == 0:
            yield {"type": "ping"}
        for delta in deltas:
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}
    ending = {"stop_reason": whole["stop_reason"], "stop_sequence": None, **_details(step)}
    yield {"type": "message_delta", "delta": ending, "usage": {"output_tokens": usage["output_tokens"]}}
    yield {"type": "message_stop"}


def _stream(block: Json, chunk: int | None, *, cut: bool) -> tuple[Json, Iterator[Json]]:
    """Return a block as it starts, and the deltas that fill it. A tool use that is ``cut`` ends in its input."""
    match block["type"]:
        case "thinking":
            deltas = [{"type": "thinking_delta", "thinking": p} for p in pieces(block["thinking"], chunk)]
            deltas.append({"type": "signature_delta", "signature": block["signature"]})
            return {"type": "thinking", "thinking": "", "signature": ""}, iter(deltas)
        case "tool_use":
            text = json.dumps(block["input"])
            text = text[: len(text) // 2] if cut else text
            parts = pieces(text, max(chunk or 0, 24))
            return {**block, "input": {}}, ({"type": "input_json_delta", "partial_json": p} for p in parts)
        case _:
            parts = pieces(block["text"], chunk)
            return {"type": "text", "text": ""}, ({"type": "text_delta", "text": p} for p in parts)


def _id(kind: str) -> str:
    return f"{kind}_{uuid4().hex[:24]}"


def _signature() -> str:
    return f"scripted-{uuid4().hex}"

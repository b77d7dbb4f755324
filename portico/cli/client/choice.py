"""Typed answers: the choice among options, and the fields of a form. No I/O.

Functions that read an answer raise ValueError, which says what is wrong with it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from portico.cli.client.request import visible

YES, NO = ("y", "yes", "true"), ("n", "no", "false")
MAX_MENU = 30
"""Choices of a field that are listed by number; a longer list is left out."""


def menu(options: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the lines that show ``options``, with a number in front of each label."""
    width = max((len(visible(option["label"])) for option in options), default=0)
    lines = []
    for number, option in enumerate(options, 1):
        said = visible(option.get("description") or "")
        lines.append(f"  {number:>3}  {visible(option['label']):<{width}}  {said}".rstrip())
        lines += [" " * 7 + visible(line) for line in (option.get("preview") or "").splitlines()]
    return lines


def chosen_labels(text: str, labels: Sequence[str], *, several: bool) -> list[str]:
    """Return the labels whose numbers (from 1 on) are in ``text``, or else ``text`` itself.

    With ``several``, commas or blanks stand between numbers. Text in double quotes is never a number.
    """
    text = text.strip()
    if len(text) > 1 and text[0] == text[-1] == '"':
        return [text[1:-1]]
    numbers = re.split(r"[,\s]+", text.strip(",")) if several else [text]
    if not all(re.fullmatch("[0-9]{1,3}", each) for each in numbers):
        return [text]
    wrong = [each for each in numbers if not 1 <= int(each) <= len(labels)]
    if wrong:
        raise ValueError(f'there is no {wrong[0]}; "{wrong[0]}" in quotes is text')
    return list(dict.fromkeys(labels[int(each) - 1] for each in numbers))


def fields(schema: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any], bool]]:
    """Return the name and the schema of each field of a form, and whether it is required; none for another schema."""
    properties, required = schema.get("properties"), schema.get("required")
    if not isinstance(properties, Mapping) or not all(isinstance(each, Mapping) for each in properties.values()):
        return []
    needed = required if isinstance(required, list) else []
    return [(name, each, name in needed) for name, each in properties.items()]


def describe_field(name: str, schema: Mapping[str, Any], *, required: bool) -> list[str]:
    """Return the lines that ask for a field; the last one is the prompt."""
    title = visible(str(schema.get("title") or name))
    values = _values(schema)
    lines = [f"  {title}: {visible(str(schema['description']))}"] if schema.get("description") else []
    if values:
        names = schema.get("enumNames")
        known = names if isinstance(names, list) and len(names) == len(values) else values
        lines += [f"  {number:>3}  {visible(str(each))}" for number, each in enumerate(known[:MAX_MENU], 1)]
    hints = [_hint(schema, values)]
    if "default" in schema:
        hints.append(f"Enter: {visible(str(schema['default']))}")
    elif not required:
        hints.append("Enter skips it")
    return [*lines, f"  {title} ({'; '.join(hints)}): "]


def field_value(text: str, schema: Mapping[str, Any]) -> Any:
    """Return the value that ``text`` means in a field of this schema."""
    text = text.strip()
    if values := _values(schema):
        found = chosen_labels(text, [str(each) for each in values], several=schema.get("type") == "array")
        for each in found:
            if each not in [str(value) for value in values]:
                raise ValueError(f"{each!r} is none of the choices")
        return found if schema.get("type") == "array" else next(v for v in values if str(v) == found[0])
    match schema.get("type"):
        case "boolean":
            if text.lower() not in (*YES, *NO):
                raise ValueError("say y or n")
            return text.lower() in YES
        case "integer":
            return _number(int, text, "a whole number")
        case "number":
            return _number(float, text, "a number")
    return text


def _number(kind: type[int] | type[float], text: str, wanted: str) -> int | float:
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"{text!r} is not {wanted}") from None


def _values(schema: Mapping[str, Any]) -> list[Any]:
    """Return the values among which the field chooses."""
    items = schema.get("items")
    for source in (schema, items if isinstance(items, Mapping) else {}):
        if isinstance(values := source.get("enum"), list):
            return values
        for name in ("oneOf", "anyOf"):
            if isinstance(titled := source.get(name), list) and all(
                isinstance(each, Mapping) and "const" in each for each in titled
            ):
                return [each["const"] for each in titled]
    return []


def _hint(schema: Mapping[str, Any], values: Sequence[Any]) -> str:
    if values:
        return "numbers, such as 1,3" if schema.get("type") == "array" else "a number"
    kind = {"boolean": "y or n", "integer": "a whole number", "number": "a number"}.get(str(schema.get("type")), "text")
    low, high = schema.get("minimum"), schema.get("maximum")
    if isinstance(low, int | float) and isinstance(high, int | float):
        return f"{kind} from {low} to {high}"
    return visible(f"{kind}, {schema['format']}") if isinstance(schema.get("format"), str) else kind

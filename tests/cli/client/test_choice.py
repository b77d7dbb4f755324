"""Typed answers become those that the server takes."""

from __future__ import annotations

from typing import Any

import pytest

from portico.cli.client.choice import chosen_labels, describe_field, field_value, fields, menu

LABELS = ("Red", "Blue", "7")


@pytest.mark.parametrize(
    ("text", "several", "expected"),
    [
        ("1", False, ["Red"]),
        (" 2 ", False, ["Blue"]),
        ("teal, or so", False, ["teal, or so"]),
        ('"2"', False, ["2"]),
        ("1,3", False, ["1,3"]),
        ("1,3", True, ["Red", "7"]),
        ("3 1, 3", True, ["7", "Red"]),
        ("1,teal", True, ["1,teal"]),
        ("Ⅷ", False, ["Ⅷ"]),
    ],
)
def test_numbers_are_labels_and_anything_else_is_text(text: str, several: bool, expected: list[str]) -> None:
    assert chosen_labels(text, LABELS, several=several) == expected


@pytest.mark.parametrize(("text", "several"), [("4", False), ("0", False), ("1,9", True)])
def test_a_number_that_is_not_there_is_asked_again(text: str, several: bool) -> None:
    with pytest.raises(ValueError, match="there is no"):
        chosen_labels(text, LABELS, several=several)


def test_a_menu_hides_nothing_and_obeys_nothing() -> None:
    shown = menu([{"label": "R\x1b[2Jed", "description": "a\u202eb", "preview": "one\ntwo"}])
    assert shown == ["    1  R<U+001B>[2Jed  a<U+202E>b", "       one", "       two"]


@pytest.mark.parametrize(
    ("schema", "text", "expected"),
    [
        ({"type": "integer"}, " 3 ", 3),
        ({"type": "number"}, "1.5", 1.5),
        ({"type": "boolean"}, "Y", True),
        ({"type": "boolean"}, "no", False),
        ({"type": "string"}, "two words", "two words"),
        ({"type": "string", "enum": ["a", "b"]}, "2", "b"),
        ({"type": "string", "enum": ["a", "b"]}, "b", "b"),
        ({"enum": [10, 20]}, "2", 20),
        ({"type": "string", "oneOf": [{"const": "x", "title": "An X"}]}, "1", "x"),
        ({"type": "array", "items": {"enum": ["a", "b", "c"]}}, "1,3", ["a", "c"]),
    ],
)
def test_a_field_takes_what_its_schema_says(schema: dict[str, Any], text: str, expected: Any) -> None:
    assert field_value(text, schema) == expected


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"type": "integer"}, "1.5"),
        ({"type": "number"}, "much"),
        ({"type": "boolean"}, "perhaps"),
        ({"enum": ["a"]}, "c"),
        ({"enum": ["a"]}, "2"),
    ],
)
def test_a_field_refuses_what_it_can_not_be(schema: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError):
        field_value(text, schema)


def test_the_fields_of_a_form_say_what_they_take() -> None:
    schema = {
        "properties": {
            "people": {"type": "integer", "title": "People", "minimum": 1, "maximum": 9},
            "place": {"enum": ["in", "out"], "enumNames": ["inside", "outside"], "default": "in"},
        },
        "required": ["people"],
    }
    (people, of_people, needed), (place, of_place, too) = fields(schema)
    assert describe_field(people, of_people, required=needed) == ["  People (a whole number from 1 to 9): "]
    assert describe_field(place, of_place, required=too) == [
        "    1  inside",
        "    2  outside",
        "  place (a number; Enter: in): ",
    ]


@pytest.mark.parametrize("schema", [{}, {"properties": 1}, {"properties": {"a": True}}, {"properties": {"a": 1}}])
def test_another_schema_has_no_fields(schema: dict[str, Any]) -> None:
    assert fields(schema) == []

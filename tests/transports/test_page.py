"""The page to read the OpenAPI document."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from portico.transports.page import page
from tests.transports.test_openapi import made

EVIL = "<script>alert(1)</script>\"'`<b>`&amp;"


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def tags(text: str) -> list[tuple[str, dict[str, str | None]]]:
    parser = _Tags()
    parser.feed(text)
    return parser.found


def test_it_has_an_entry_for_each_operation_and_schema() -> None:
    document = made()
    found = tags(page(document))
    there = {attributes.get("id") for _, attributes in found}
    operations = {known["operationId"] for methods in document["paths"].values() for known in methods.values()}
    assert operations | {f"schema-{name}" for name in document["components"]["schemas"]} <= there
    targets = {
        str(attributes["href"])[1:] for tag, attributes in found if tag == "a" and "#" in str(attributes["href"])
    }
    assert targets <= there, "every link leads somewhere"


@pytest.mark.parametrize("where", ["summary", "description", "operationId"])
def test_what_a_plugin_says_of_itself_is_text(where: str) -> None:
    document = made()
    document["paths"][f"/{EVIL}"] = {
        EVIL: {
            "operationId": "x",
            "summary": "",
            where: EVIL,
            "parameters": [
                {"name": EVIL, "in": EVIL, "required": True, "description": EVIL, "schema": {"enum": [EVIL]}}
            ],
            "responses": {EVIL: {"description": EVIL, "content": {EVIL: {"schema": {"type": EVIL, "pattern": EVIL}}}}},
        }
    }
    document["components"]["schemas"][EVIL] = {"description": EVIL, "properties": {EVIL: {"$ref": EVIL}}}
    text = page(document)
    assert {tag for tag, _ in tags(text)} == {tag for tag, _ in tags(page(made()))}
    assert not re.search(r"<(script|b)\b", text)
    names = {name for _, attributes in tags(text) for name in attributes}
    assert names == {"lang", "charset", "name", "content", "rel", "href", "id", "class"}

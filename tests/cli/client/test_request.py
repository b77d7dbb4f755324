"""The text of a permission request: it hides nothing that would be allowed."""

from typing import Any

import pytest

from portico.cli.client.request import describe_request, grants, visible


def described(name: str, tool_input: dict[str, Any], *, whole: bool = False) -> list[str]:
    return describe_request({"tool_name": name, "input": tool_input}, whole=whole).lines


@pytest.mark.parametrize(
    ("name", "tool_input", "lines"),
    [
        ("Bash", {"command": "a\n\n  b\r\tc"}, ["Bash", "    a", "    ", "      b<U+000D>    c"]),
        ("Bash", {"command": "a", "timeout": 5}, ["Bash", "    a", '    {"timeout":5}']),
        ("Bash", {"command": 5}, ["Bash", '    {"command":5}']),
        ("Write", {"file_path": "/f\n", "content": "a\nb\n"}, ["Write /f<U+000A>", "    a", "    b"]),
        (
            "Edit",
            {"file_path": "/f", "old_string": "a", "new_string": "b\nc", "replace_all": True},
            ["Edit /f", '    {"replace_all":true}', "    - a", "    + b", "    + c"],
        ),
        ("WebFetch", {"url": "http://x/\u202e", "n": 1}, ["WebFetch", '    {"url":"http://x/<U+202E>","n":1}']),
        ("mcp__x__y", {}, ["mcp__x__y"]),
        ("Bad\x1bName", {}, ["Bad<U+001B>Name"]),
    ],
)
def test_what_is_shown(name: str, tool_input: dict[str, Any], lines: list[str]) -> None:
    assert described(name, tool_input) == lines


def test_a_long_command_is_shown_whole() -> None:
    command = "\n".join("x" * 1000 for _ in range(100))
    assert described("Bash", {"command": command})[1:] == ["    " + "x" * 1000] * 100


def test_what_is_cut_says_so_and_is_there_when_asked_for() -> None:
    request = {"tool_name": "Write", "input": {"file_path": "f", "content": "x\n" * 30 + "y" * 1000}}
    short, whole = describe_request(request), describe_request(request, whole=True)
    assert (short.cut, short.lines[-1]) == (True, "    ... 1 more line")
    assert (whole.cut, whole.lines[-1]) == (False, "    " + "y" * 1000)
    (_, line) = described("Write", {"file_path": "f", "content": "y" * 1000})
    assert line == f"    {'y' * 400} ... 600 more characters"


def test_no_character_hides() -> None:
    assert visible("a\x00\x1b\x7f\x9b\u200b\u2028\u2066é😀") == (
        "a<U+0000><U+001B><U+007F><U+009B><U+200B><U+2028><U+2066>é😀"
    )


MODE = {"type": "setMode", "mode": "acceptEdits", "destination": "session"}
RULES = {
    "type": "addRules",
    "rules": [{"toolName": "Bash", "ruleContent": "ls *"}, {"toolName": "Read"}],
    "behavior": "allow",
    "destination": "localSettings",
}


@pytest.mark.parametrize(
    ("suggestions", "text"),
    [
        ([], None),
        ([MODE], "accept all edits in this session"),
        ([RULES], "allow Bash(ls *), every Read in this session"),
        ([MODE, RULES], "accept all edits, allow Bash(ls *), every Read in this session"),
        ([{"type": "addDirectories", "directories": ["/a", "/b"]}], "let it into /a, /b in this session"),
        ([{"id": "1", "type": "new", "x": "\x1b"}], '{"type":"new","x":"\\u001b"} in this session'),
        ([{"type": "setMode", "mode": "other"}], "permission mode other in this session"),
    ],
)
def test_what_always_allows(suggestions: list[dict[str, Any]], text: str | None) -> None:
    assert grants(suggestions) == text

"""The operator's rules can't be passed by the way in which rules are written."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from portico.config.settings import Settings
from portico.core.errors import InvalidRequest, NotAllowed
from portico.core.policy import Policy
from portico.core.requests import NewSession
from portico.core.tool_rule import ToolRule
from portico.testing.engine import generous_policy
from portico.transports.models import SessionBody
from portico.transports.parse import check
from tests.support.rules import Rule, heard

GOOD = [
    *("Read", "_a", "mcp__server__tool-name", "mcp__server__*", "*", "Bash(git log:*)", "Bash(a b, c)", "Bash(*)"),
    *(
        'Bash(python3 -c "1")',
        "Edit(//tmp/**)",
        "WebFetch(domain:a.example)",
        "Read(\u3000é)",
        "Read(a\\b)",
        "Read( a)",
    ),
]
BAD = [
    *("", " ", "Read ", " Read", "Read,", ",Read", "Read,Write", "Read Write", "Read\nWrite", "Read\tWrite", "Read\n"),
    *("Read(x),Write", "Read(x) Write", "Read(x)\n", "Read(x)Write", "Read(x)(y)", "Read(x)Write(y)", "Read (x)"),
    *("Read()", "Read( )", "Read(", "Read)", "(x)", "()", "Read((x))", "Read((x),Write)", "Read(x)),Write", "Read(x"),
    *("Read(x\\)", "Read(x\\),Write)", "Read(\\(),Write", "Read(x\\\\)", "Read(a\nb)", "Read(a\0b)", "Read(a\u2028b)"),
    *('Bash(python3 -c "print(1)")', "Rëad", "1Read", "-Read", "--flag", "*Read", "mcp__a__*(x)", "R" * 513, "a.b"),
]

names = st.sampled_from(["Read", "Edit", "Write", "Bash", "mcp__a", "mcp__a__b", "mcp__a__*", "bash"])
contents = st.text(alphabet="ab *:/,\\.\n", min_size=1, max_size=5)
good = names | st.builds("{}({})".format, names, contents)
parts = st.sampled_from(["Read", "Edit", "Bash", "mcp__a__b", "(", ")", ",", " ", "\\", "*", "\n", "x", "()", "\u00a0"])
wild = st.lists(parts, max_size=8).map("".join)
between = st.sampled_from(["", ",", " ", "),", "(", "(x),", "(x) ", "\\),", "\n"])
joined = st.builds("{}{}{}".format, good, between, good)
anything = st.lists(good | joined | wild, max_size=5)


def policy(*allowed: str) -> Policy:
    return generous_policy(Path("/nowhere"), allowed_tools=allowed)


def valid(text: str) -> bool:
    try:
        ToolRule.parse(text)
    except ValueError:
        return False
    return True


def in_settings(text: str) -> bool:
    try:
        Settings(data_dir=Path("/nowhere"), allowed_tools=(text,))
    except ValidationError:
        return False
    return True


@pytest.mark.parametrize("text", GOOD)
def test_one_rule_is_taken_as_it_stands(text: str) -> None:
    assert str(ToolRule.parse(text)) == text
    assert check(SessionBody, {"allowed_tools": [text], "disallowed_tools": [text]}).request().allowed_tools == (text,)
    assert len(heard([text, "Write"])) == 2 and in_settings(text)


@pytest.mark.parametrize("text", BAD)
def test_what_is_not_exactly_one_rule_is_refused_by_clients_settings_and_core(text: str) -> None:
    texts = ("Read", text)
    asked = {"allowed_tools": NewSession(allowed_tools=texts), "disallowed_tools": NewSession(disallowed_tools=texts)}
    for name, request in asked.items():
        with pytest.raises(InvalidRequest) as refused:
            check(SessionBody, {name: list(texts)})
        assert refused.value.extra["errors"][0]["loc"] == [name, 1]
        with pytest.raises(InvalidRequest) as refused:
            policy().options(request, None)
        assert refused.value.extra["errors"][0]["loc"] == [name, 1]
    assert not in_settings(text)
    with pytest.raises(InvalidRequest):
        policy(text)


@given(wild | joined | good)
def test_operators_may_write_the_rules_that_clients_may(text: str) -> None:
    assert in_settings(text) == valid(text)


@st.composite
def attacks(draw: st.DrawFn) -> tuple[list[str], list[str]]:
    """Return the operator's rules, and a request of a client who knows them and adds to them."""
    allowed = draw(st.lists(good.filter(valid), min_size=1, max_size=3))
    theirs = st.sampled_from(allowed)
    tools = theirs.map(lambda text: text.partition("(")[0])
    more = st.builds("{}{}{}".format, theirs, between, good | wild)
    asked = theirs | more | tools | st.builds("{}({})".format, tools, contents) | good
    return allowed, draw(st.lists(asked, min_size=1, max_size=2))


@settings(max_examples=500)
@given(attacks())
def test_no_list_that_is_let_through_allows_more_than_the_operator(attack: tuple[list[str], list[str]]) -> None:
    allowed, asked = attack
    try:
        options = policy(*allowed).options(NewSession(allowed_tools=tuple(asked)), None)
    except (InvalidRequest, NotAllowed):
        return
    theirs = heard(allowed)
    assert len(theirs) == len(allowed)
    for rule in heard(options.allowed_tools):
        assert any(covered(rule, by) for by in theirs), (rule, allowed, asked)


def covered(rule: Rule, by: Rule) -> bool:
    return rule == by or (by[1] is None and by[0] == rule[0] != "Edit")


@given(anything.filter(lambda texts: all(map(valid, texts))))
def test_a_list_of_rules_is_heard_as_these_rules(texts: list[str]) -> None:
    assert [str(ToolRule(*rule)) for rule in heard(texts)] == texts


@pytest.mark.parametrize(
    ("allowed", "asked"),
    [
        ("Bash(git:*)", "Bash(git log:*)"),  # narrower, but nobody here knows that
        ("Bash(*)", "Bash"),
        ("Bash", "bash"),
        ("Bash", "BashOutput"),
        ("Read", "Edit(x)"),
        ("Edit", "Edit(//**)"),  # which also allows Write
        ("mcp__a__b", "mcp__a"),
        ("mcp__a__b", "mcp__a__*"),
        ("mcp__a", "mcp__a__b"),
        ("Read", "*"),
    ],
)
def test_what_is_not_covered(allowed: str, asked: str) -> None:
    with pytest.raises(NotAllowed):
        policy(allowed).options(NewSession(allowed_tools=(asked,)), None)


@pytest.mark.parametrize(
    ("allowed", "asked"),
    [
        ("Bash", "Bash"),
        ("Bash", "Bash(git log:*)"),
        ("Read", "Read(//tmp/**)"),
        ("Edit(/src/**)", "Edit(/src/**)"),
        ("mcp__a__*", "mcp__a__*"),
    ],
)
def test_what_is_covered(allowed: str, asked: str) -> None:
    assert policy("Write", allowed).options(NewSession(allowed_tools=(asked,)), None).allowed_tools == (asked,)

"""The reference says all that there is, and its examples run."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anyio
import pytest
from pydantic import TypeAdapter

from portico.core.events import WRITTEN, Gap, Head
from portico.core.requests import SessionView
from portico.core.state import State
from portico.plugins.claude_code import cli_failures, stream
from portico.transports.codes import CODES, PLUGIN_CODES, TURN_CODES, WEBSOCKET_CODES
from portico.transports.models import PermissionBody, SessionBody, SessionPatch, TicketBody, TurnBody
from tests import cli_lines, cli_lines_page, cli_page, errors_page
from tests.support.limits import HANG_SECONDS
from tests.support.programs import needs
from tests.support.server import running_server

ROOT = Path(__file__).parent.parent
REFERENCE = ROOT / "docs" / "reference"
PAGES = ("index", "sessions", "turns", "events", "errors", "cli")
AT_START = {"data_dir_unusable", "jwt_not_installed", "jwt_settings", "plugin", "store_too_new", "token_file"} | {
    "transport_failed",
    "workspace_root_unusable",
}
"""Codes that an operator alone may see, when the server starts."""
NAMED_ELSEWHERE = {"subagent"}
"""Members of events, in the table of the CLI's lines."""
NEVER_ALONE = {"conflict", "exhausted", "unavailable", "sequence_conflict"}
"""Codes of classes of errors, of which every error that a client gets has a code of its own."""


def text_of(page: str) -> str:
    return (REFERENCE / f"{page}.md").read_text()


def section(page: str, heading: str) -> str:
    return re.split(r"\n## ", text_of(page).split(f"\n## {heading}\n")[1])[0]


def test_the_page_of_errors_is_made_of_the_codes() -> None:
    assert text_of("errors") == errors_page.page(), "python -m tests.errors_page > docs/reference/errors.md"


def test_the_page_of_the_command_line_is_made_of_the_commands() -> None:
    assert text_of("cli") == cli_page.page(), "python -m tests.cli_page > docs/reference/cli.md"


def test_the_page_of_the_clis_lines_is_made_of_the_table() -> None:
    page = (ROOT / "docs" / "cli-lines.md").read_text()
    assert page == cli_lines_page.page(), "python -m tests.cli_lines_page > docs/cli-lines.md"
    names = set(re.findall(r"\[?`(\w+)`", " ".join(cli_lines.CARRIED.values())))
    shown = text_of("events")
    assert [name for name in names if f"### `{name}`" not in shown and name not in NAMED_ELSEWHERE] == []


def test_every_code_that_a_client_may_see_is_in_the_tables() -> None:
    rooms = ("core", "transports", "gateway", "plugins")
    source = "".join(path.read_text() for room in rooms for path in (ROOT / "portico" / room).rglob("*.py"))
    found = set(re.findall(r'\bcode ?= ?"(\w+)"', source))
    found |= set(re.findall(r'\b(?:HttpError|Refused)\((?:\d+, )?"(\w+)"', source))
    tables = [table for name, table in vars(cli_failures).items() if name.startswith("_BY_")]
    found |= {code for table in tables for code in table.values()}
    known = {*CODES, *PLUGIN_CODES, *WEBSOCKET_CODES, *TURN_CODES}
    assert found - known - AT_START - NEVER_ALONE == set()
    assert len(found) > 80


def examples(text: str) -> list[Any]:
    return [json.loads(block) for block in re.findall(r"```json\n(.*?)```", text, re.DOTALL)]


def kind(body: Any) -> str:
    """The value of the member ``type`` of a TypedDict."""
    schema: Mapping[str, Any] = TypeAdapter(body).json_schema()
    return str(schema["properties"]["type"]["const"])


@pytest.mark.parametrize("body", [*WRITTEN, Gap], ids=kind)
def test_every_event_has_an_example_that_is_one(body: Any) -> None:
    shown = [each for each in examples(text_of("events")) if each["type"] == kind(body)]
    assert shown
    assert f"\n### `{kind(body)}`\n" in section("events", "Types")
    shape = TypeAdapter(body)
    heads = set() if body is Gap else set(Head.__annotations__) - {"type"}
    for each in shown:
        own = {name: value for name, value in each.items() if name not in heads}
        assert shape.validate_python(own, strict=False) == own
        assert own.keys() <= body.__annotations__.keys()
        assert heads - {"turn_id"} <= each.keys()


def test_every_notice_is_shown_under_its_name() -> None:
    source = "".join(path.read_text() for path in (ROOT / "portico").rglob("*.py"))
    names = set(re.findall(r'(?:Notice\(type="notice", name=|_notice\()"(\w+)"', source)) | set(stream.CUT.values())
    assert len(names) > 20
    shown = dict(re.findall(r"\n### `(\w+)`\n.*?```json\n(.*?)```", section("events", "Notices"), re.DOTALL))
    assert shown.keys() == names
    assert all(json.loads(example)["name"] == name for name, example in shown.items())


def test_every_stop_reason_has_its_row() -> None:
    rows = set(re.findall(r"^\| `(\w+)` \|", section("turns", "Every `stop_reason`"), re.MULTILINE))
    source = "".join(
        path.read_text() for room in ("core", "plugins") for path in (ROOT / "portico" / room).rglob("*.py")
    )
    found = set(re.findall(r'(?:stop_reason=|_complete\(|stop_reason"\] = |\.interrupt\()"(\w+)"', source))
    assert found and found - rows == set()


@pytest.mark.parametrize(
    ("page", "heading", "fields"),
    [
        ("sessions", "Create a session", SessionBody.model_fields),
        ("sessions", "Read a session", SessionView.__annotations__),
        ("sessions", "Read a session", [state.value for state in State]),
        ("sessions", "Change a session", SessionPatch.model_fields),
        ("sessions", "Make a ticket", TicketBody.model_fields),
        ("turns", "Ask, and watch", TurnBody.model_fields),
        ("turns", "Answer a permission request", PermissionBody.model_fields),
    ],
)
def test_every_field_is_named(page: str, heading: str, fields: Any) -> None:
    text = section(page, heading)
    assert [name for name in fields if f"`{name}`" not in text] == []


def test_the_example_of_a_session_has_every_field() -> None:
    (example,) = examples(section("sessions", "Read a session"))
    assert list(example) == list(SessionView.__annotations__)


@pytest.mark.anyio
@pytest.mark.real_cli
@needs("curl")
async def test_every_curl_of_the_reference_runs_as_printed(tmp_path: Path) -> None:
    (tmp_path / "mcp.json").write_text(json.dumps({"mcpServers": {"booking": BOOKING}}))
    settings = {"PORTICO_MCP_SERVERS": f"@{tmp_path}/mcp.json", "PORTICO_ALLOW_CLIENT_AGENTS": "true"}
    async with running_server(tmp_path, **settings) as server:

        async def bash(text: str) -> str:
            setup = f"TOKEN={server.token}\nAPI={server.api}\n"
            with anyio.fail_after(HANG_SECONDS):
                done = await anyio.run_process(["bash", "-euc", setup + text], env=server.client_env, stderr=None)
            return done.stdout.decode()

        async def seen(pattern: str, session: str = TALK) -> str:
            with anyio.fail_after(HANG_SECONDS):
                while not (found := re.findall(pattern, await bash(session))):
                    await anyio.sleep(0.1)
            return str(found[0])

        for page in PAGES:
            said = ""
            blocks = re.findall(r"```sh\n(.*?)```", text_of(page), re.DOTALL)
            assert blocks, page
            for block in blocks:
                if '"people"' in block:
                    block = block.replace("/talk/", "/booking/")
                    pattern = r'"request_id":"([^"]+)"'
                    await bash(BOOKED)
                    block = block.replace("REQUEST_ID", await seen(pattern, TALK.replace("/talk", "/booking")))
                if "REQUEST_ID" in block:
                    block = block.replace("REQUEST_ID", await seen(r'"request_id":"([^"]+)"'))
                if "RULE_ID" in block:
                    await bash(RULED)
                    await bash(REMEMBERED.replace("REQUEST_ID", await seen(r'"request_id":"([^"]+)"', TRIP)))
                    block = block.replace("RULE_ID", await seen(r'"permission_rules":\[\{"id":"([^"]+)"', TRIP))
                if "TASK_ID" in block:
                    block = block.replace("TASK_ID", await seen(r'"task_id":"([^"]+)"', BUILD))
                if "SCHEDULE_ID" in block:
                    block = block.replace("SCHEDULE_ID", await seen(r'"schedule_id":"([^"]+)"', BUILD))
                if "/rewind" in block:
                    await seen('"state":"idle"')
                if "/interrupt" in block:
                    await seen('"state":"idle"')
                    await bash(RUNNING)
                    await seen('"state":"running"')
                said += await bash(block)
            problems = re.findall(r'"code":"(\w+)"', said)
            assert problems == (["session_not_found", "invalid"] if page == "errors" else []), said
            if page == "turns":
                assert said.count('"stop_reason":"end_turn"') >= 1 and '"behavior":"allow"' in said


TALK = 'curl -sS -H "Authorization: Bearer $TOKEN" $API/sessions/talk'
RUNNING = f"""{TALK}/turns -H 'Content-Type: application/json' -d '{{"query": "[[{{\\"stall\\": 0}}]]"}}'"""
"""Starts a turn that goes on until it is interrupted."""
JSON = "-H 'Content-Type: application/json' -d"
USE = """'{"query": "[[{\\"tool\\": {\\"name\\": \\"TOOL\\", \\"input\\": {}}}]]"}'"""
TRIP = TALK.replace("/talk", "/trip")
MAKE = USE.replace("TOOL", "Bash").replace("{}", '{\\"command\\": \\"make\\"}')
RULED = f"{TRIP}/turns {JSON} {MAKE}"
REMEMBERED = f"""{TRIP}/permissions/REQUEST_ID {JSON} '{{"behavior": "allow", "remember": true}}'"""
"""Starts a turn that asks for permission, and remembers what it suggests."""
BOOKING = {"command": sys.executable, "args": [str(ROOT / "tests" / "support" / "eliciting_server.py")]}
BOOK = USE.replace("TOOL", "mcp__booking__book")
BOOKED = f"""
{TALK.removesuffix("/talk")} {JSON} \
    '{{"session_id": "booking", "mcp_servers": ["booking"], "allowed_tools": ["mcp__booking__book"]}}'
{TALK.replace("/talk", "/booking")}/turns {JSON} {BOOK}
"""
"""Opens a session, and starts a turn in which an MCP server asks for data."""
BUILD = TALK.replace("/talk", "/build")

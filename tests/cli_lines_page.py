"""Writes docs/cli-lines.md from the table: `python -m tests.cli_lines_page > docs/cli-lines.md`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tests import cli_lines

HEAD = """# What the CLI says, and what clients hear

The driver `claude-code` speaks to `claude` in lines of JSON. These tables name every kind of line, and every control
request, in the versions 2.1.330 and 2.1.332 of the program. Only the second has {new}.
A kind of `system` lines is written `system/SUBTYPE`.

`tests/plugins/claude_code/test_lines.py` holds the tables to the real program:
`test_the_table_has_all_that_is_in_the_schemas_of_the_cli` reads the kinds out of the program itself,
`test_each_kind_of_line_has_the_fate_that_the_table_says` makes it say what it can be made to say, and
`test_the_cli_answers_what_portico_asks_of_it` makes the requests. `PORTICO_TEST_CLAUDE` names another program to test.

```sh
PORTICO_TEST_CLAUDE=/usr/local/bin/claude .venv/bin/pytest -m long tests/plugins/claude_code/test_lines.py
```
"""

RECORDED = "tests/plugins/claude_code/test_protocol.py"


def page() -> str:
    new = " and ".join(f"`{name}`" for name in sorted(cli_lines.SINCE_2_1_332))
    recorded = ", ".join(f"`{name}`" for name in sorted(cli_lines.RECORDED))
    note = f"\nThese can't be brought forth at will: {recorded}. `{RECORDED}` shows them on lines.\n"
    parts = [
        HEAD.format(new=new),
        _rows("Lines that clients hear of", "what they hear", cli_lines.CARRIED) + note,
        _rows("Lines that are used, and have no event of their own", "what for", cli_lines.USED),
        _rows("Lines that are dropped", "why", cli_lines.DROPPED),
        _groups("Lines that were never seen, and would be dropped", "what they are for", cli_lines.NOT_SEEN),
        _rows("Control requests of the CLI that are answered", "how", cli_lines.ASKED),
        _groups("Control requests of the CLI that get an error", "what they are for", cli_lines.ASKED_NOT_SEEN),
        _rows("Control requests that Portico makes", "what for", cli_lines.MADE),
        _groups("Control requests that Portico does not make", "why", cli_lines.NOT_MADE),
    ]
    return "\n".join(parts)


def _rows(title: str, what: str, rows: Mapping[str, str]) -> str:
    lines = "".join(f"| `{name}` | {words} |\n" for name, words in rows.items())
    return f"## {title}\n\n| kind | {what} |\n|---|---|\n{lines}"


def _groups(title: str, what: str, groups: Mapping[str, Sequence[str]]) -> str:
    lines = "".join(f"| {', '.join(f'`{name}`' for name in names)} | {why} |\n" for why, names in groups.items())
    return f"## {title}\n\n| kinds | {what} |\n|---|---|\n{lines}"


if __name__ == "__main__":
    print(page(), end="")

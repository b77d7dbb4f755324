"""The table of docs/clients.md and its programs speak of the same versions."""

from __future__ import annotations

import re

from compat.snippets import PAGE, read
from compat.toolchains import PROGRAMS


def test_each_row_of_the_table_leads_to_a_program_with_its_version() -> None:
    text = PAGE.read_text()
    sections = {
        re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-"): section
        for heading, section in re.findall(r"^##+ (.*)\n((?:(?!^##).*\n)*)", text, re.MULTILINE)
    }
    rows = re.findall(r"^\| .*?\(#([\w-]+)\).*? \| ?(.*?) ?\|", text, re.MULTILINE)
    assert len(rows) == len(read())
    for anchor, version in rows:
        (head,) = re.findall(r"^```\w+\n((?:(?://|#) .*\n)+)", sections[anchor], re.MULTILINE)
        assert version in head, anchor


def test_each_program_has_a_name_of_its_own_and_a_toolchain() -> None:
    programs = [snippet for snippet in read() if snippet.language != "browser"]
    assert len({(snippet.language, snippet.name) for snippet in programs}) == len(programs)
    assert {snippet.language for snippet in programs} == {*PROGRAMS}

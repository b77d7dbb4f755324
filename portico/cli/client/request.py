"""A permission request in words: all of it, or with a note of what is left out. No I/O."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MOST_LINES = 30
"""Lines of a file's new content that are shown at once."""
MOST_CHARACTERS = 400
"""Characters of such a line that are shown."""
INDENT = "    "
MODES = {"acceptEdits": "accept all edits", "bypassPermissions": "allow everything", "plan": "only plan"}


@dataclass(frozen=True, slots=True)
class Described:
    """A description. ``lines`` have no control characters; ``cut`` tells whether parts of the text are left out."""

    lines: list[str]
    cut: bool


def describe_request(request: Mapping[str, Any], *, whole: bool = False) -> Described:
    """Describe what would be allowed. Only the content of files is ever cut, unless ``whole``."""
    name, rest = request["tool_name"], dict(request["input"])
    lines, content = _head(name, rest), _content(name, rest)
    if rest:
        lines += _indented(json.dumps(rest, ensure_ascii=False, separators=(",", ":")))
    shown = content if whole else [_start(line) for line in content[:MOST_LINES]]
    lines += [INDENT + line for line in shown]
    if more := len(content) - len(shown):
        lines.append(f"{INDENT}... {more} more {'line' if more == 1 else 'lines'}")
    return Described(lines, shown != content)


def grants(suggestions: Sequence[Mapping[str, Any]]) -> str | None:
    """Say what an answer with ``remember`` allows from now on, besides this once; None means nothing."""
    said = [_grant(suggestion) for suggestion in suggestions]
    return visible(f"{', '.join(said)} in this session") if said else None


def visible(text: str) -> str:
    """Return ``text`` on one line, with the code of each character that is invisible or changes the text direction."""
    return "".join(f"<U+{ord(c):04X}>" if unicodedata.category(c) in _UNSEEN else c for c in text.replace("\t", "    "))


# Control, format (which includes the bidirectional overrides), surrogate, line separator, paragraph separator.
_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def _head(name: str, rest: dict[str, Any]) -> list[str]:
    """Return the first lines; remove from ``rest`` what they say."""
    key = {"Bash": "command", "Write": "file_path", "Edit": "file_path", "NotebookEdit": "notebook_path"}.get(name)
    if not key or not isinstance(rest.get(key), str):
        return [visible(name)]
    value = rest.pop(key)
    return [visible(name), *_indented(value)] if name == "Bash" else [f"{visible(name)} {visible(value)}"]


def _content(name: str, rest: dict[str, Any]) -> list[str]:
    """Return a file's new content, and the content that it replaces; remove both from ``rest``."""
    marks = {"Write": {"content": ""}, "Edit": {"old_string": "- ", "new_string": "+ "}}.get(name, {})
    found = {key: rest.pop(key) for key in marks if isinstance(rest.get(key), str)}
    return [marks[key] + line for key, text in found.items() for line in _lines(text)]


def _start(line: str) -> str:
    more = len(line) - MOST_CHARACTERS
    return line if more <= 0 else f"{line[:MOST_CHARACTERS]} ... {more} more characters"


def _lines(text: str) -> list[str]:
    return [visible(line) for line in text.removesuffix("\n").split("\n")] if text else []


def _indented(text: str) -> list[str]:
    return [INDENT + line for line in _lines(text)]


def _grant(suggestion: Mapping[str, Any]) -> str:
    match suggestion:
        case {"type": "setMode", "mode": str(mode)}:
            return MODES.get(mode, f"permission mode {mode}")
        case {"type": "addRules", "behavior": str(behavior), "rules": [*rules]}:
            return f"{behavior} {_named(rules)}"
        case {"type": "addDirectories", "directories": [*folders]}:
            return f"let it into {', '.join(map(str, folders))}"
    suggestion = {name: value for name, value in suggestion.items() if name != "id"}
    return json.dumps(suggestion, ensure_ascii=False, separators=(",", ":"))


def _named(rules: Iterable[Any]) -> str:
    return ", ".join(_rule(rule) if isinstance(rule, dict) else str(rule) for rule in rules)


def _rule(rule: Mapping[str, Any]) -> str:
    content = rule.get("ruleContent")
    return f"{rule.get('toolName')}({content})" if content else f"every {rule.get('toolName')}"

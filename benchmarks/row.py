"""One line of the result, as text and as JSON."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from typing import Any

_TEXT = re.compile(
    r"(?:ok  |MISS) (?P<name>.*?) +(?P<value>-?[\d.]+|-?inf|nan) (?P<unit>\S*) *"
    r"\((?P<bound>at least|at most) (?P<goal>\S+)\)  (?P<note>.*)"
)


@dataclass(frozen=True, slots=True)
class Row:
    """``value`` in ``unit`` against ``goal``: at most it, or at least it where ``more_is_better``."""

    name: str
    value: float
    unit: str
    goal: float
    note: str
    more_is_better: bool = False

    @property
    def reached(self) -> bool:
        return self.value >= self.goal if self.more_is_better else self.value <= self.goal

    def __str__(self) -> str:
        bound = "at least" if self.more_is_better else "at most"
        mark = "ok  " if self.reached else "MISS"
        return f"{mark} {self.name:34} {self.value:8.2f} {self.unit:4} ({bound} {self.goal:g})  {self.note}"

    def as_json(self) -> str:
        """One line, with what is also in the text, and the value in full."""
        return json.dumps({**asdict(self), "reached": self.reached}, ensure_ascii=False)


def read_row(line: str) -> Row | None:
    """The row in a line of output, JSON or text; None for a line that holds none."""
    return _from_json(line) if line.startswith("{") else _from_text(line)


def _from_json(line: str) -> Row | None:
    try:
        value: dict[str, Any] = json.loads(line)
        value.pop("reached", None)
        return Row(**value)
    except (ValueError, TypeError):
        return None


def _from_text(line: str) -> Row | None:
    """Builds that are older than the JSON print text alone."""
    found = _TEXT.fullmatch(line.rstrip("\n"))
    if found is None:
        return None
    name, value, unit, bound, goal, note = found.groups()
    try:
        return Row(name, float(value), unit, float(goal), note, more_is_better=bound == "at least")
    except ValueError:
        return None

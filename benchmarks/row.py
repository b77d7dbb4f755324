"""One line of the result."""

from __future__ import annotations

from dataclasses import dataclass


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

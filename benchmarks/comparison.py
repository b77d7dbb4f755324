"""The rows of two builds side by side: which are the same, which are better, and which are worse."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from benchmarks.row import Row

TOLERANCE = 0.05
"""A ratio nearer to 1 than this says nothing, however alike the rounds are."""


class Verdict(StrEnum):
    SAME = "same"
    BETTER = "better"
    WORSE = "worse"
    ONLY_OLD = "only in old"
    ONLY_NEW = "only in new"
    CHANGED = "measured differently"  # in another unit, or with another idea of what is better


@dataclass(frozen=True, slots=True)
class Series:
    """One row of one build, with a value for each round. ``row`` is that of the last round."""

    row: Row
    values: Sequence[float]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def width(self) -> float:
        return max(self.values) - min(self.values)

    @property
    def spread(self) -> float | None:
        """The width as a share of the median; None where the median is no measure of it."""
        return self.width / self.median if self.median > 0 else None


@dataclass(frozen=True, slots=True)
class Comparison:
    """A row by its name. One of the two series may be missing."""

    name: str
    old: Series | None
    new: Series | None

    @property
    def ratio(self) -> float | None:
        """New to old; None where one is missing, or where a median is no divisor (a difference may be 0 or less)."""
        if self.old is None or self.new is None or self._changed or self.old.median <= 0 or self.new.median <= 0:
            return None
        return self.new.median / self.old.median

    @property
    def verdict(self) -> Verdict:
        if self.old is None:
            return Verdict.ONLY_NEW
        if self.new is None:
            return Verdict.ONLY_OLD
        if self._changed:
            return Verdict.CHANGED
        if not self._differ(self.old, self.new):
            return Verdict.SAME
        return Verdict.BETTER if (self.new.median > self.old.median) == self.new.row.more_is_better else Verdict.WORSE

    @property
    def _changed(self) -> bool:
        if self.old is None or self.new is None:
            return False
        old, new = self.old.row, self.new.row
        return (old.unit, old.more_is_better) != (new.unit, new.more_is_better)

    def _differ(self, old: Series, new: Series) -> bool:
        """Say if the medians are further apart than the tolerance, and than the rounds of either build."""
        if self.ratio is not None:
            return abs(self.ratio - 1) > max(TOLERANCE, old.spread or 0.0, new.spread or 0.0)
        return abs(new.median - old.median) > max(TOLERANCE * abs(new.row.goal), old.width, new.width)

    def __str__(self) -> str:
        ratio = "" if self.ratio is None else f"{self.ratio:.2f}"
        spreads = " / ".join(_percent(series) for series in (self.old, self.new))
        return (
            f"{self.name:42} {_median(self.old):>12} {_median(self.new):>12} {ratio:>6} {spreads:>13}  {self.verdict}"
        )


HEADING = f"{'':42} {'old':>12} {'new':>12} {'ratio':>6} {'spread':>13}"


def compare(old: Sequence[Iterable[Row]], new: Sequence[Iterable[Row]]) -> list[Comparison]:
    """Compare two builds by the rows of each round: in the new build's order, then what the old one alone has."""
    ours, theirs = _series(new), _series(old)
    names = [*ours, *(name for name in theirs if name not in ours)]
    return [Comparison(name, theirs.get(name), ours.get(name)) for name in names]


def _series(rounds: Sequence[Iterable[Row]]) -> dict[str, Series]:
    found: dict[str, list[Row]] = {}
    for rows in rounds:
        for row in rows:
            found.setdefault(row.name, []).append(row)
    return {name: Series(rows[-1], [row.value for row in rows]) for name, rows in found.items()}


def _median(series: Series | None) -> str:
    return "-" if series is None else f"{series.median:.2f} {series.row.unit:3}"


def _percent(series: Series | None) -> str:
    if series is None or len(series.values) < 2 or series.spread is None:
        return "-"
    return f"{series.spread:.0%}"

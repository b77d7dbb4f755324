"""The difference between a row that is worse and one that is only another round."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from benchmarks.comparison import Comparison, Verdict, compare
from benchmarks.row import Row


def rounds(*values: float, name: str = "row", unit: str = "x", goal: float = 2, more: bool = False) -> list[list[Row]]:
    return [[Row(name, value, unit, goal, "", more_is_better=more)] for value in values]


def compared(old: Sequence[Sequence[Row]], new: Sequence[Sequence[Row]]) -> Comparison:
    (comparison,) = compare(old, new)
    return comparison


@pytest.mark.parametrize(
    ("old", "new", "less_is_better", "more_is_better"),
    [
        ((1.0, 1.0, 1.0), (1.2, 1.2, 1.2), Verdict.WORSE, Verdict.BETTER),
        ((1.0, 1.0, 1.0), (0.8, 0.8, 0.8), Verdict.BETTER, Verdict.WORSE),
        ((1.0, 1.0, 1.0), (1.04, 1.04, 1.04), Verdict.SAME, Verdict.SAME),  # within the tolerance
        ((0.9, 1.0, 1.2), (1.2, 1.2, 1.2), Verdict.SAME, Verdict.SAME),  # the old build's own rounds differ as much
        ((1.0, 1.0, 1.0), (1.0, 1.2, 1.3), Verdict.SAME, Verdict.SAME),  # the new build's do
        ((1.0, 1.02, 1.0), (1.5, 1.2, 1.2), Verdict.SAME, Verdict.SAME),
        ((1.0, 1.02, 1.0), (1.25, 1.2, 1.2), Verdict.WORSE, Verdict.BETTER),
        ((1.0,), (1.1,), Verdict.WORSE, Verdict.BETTER),  # one round shows no spread
    ],
)
def test_a_verdict_needs_more_than_the_tolerance_and_the_spread(
    old: Sequence[float], new: Sequence[float], less_is_better: Verdict, more_is_better: Verdict
) -> None:
    assert compared(rounds(*old), rounds(*new)).verdict is less_is_better
    assert compared(rounds(*old, more=True), rounds(*new, more=True)).verdict is more_is_better


@pytest.mark.parametrize(
    ("old", "new", "verdict"),
    [
        ((0, 0), (0, 0), Verdict.SAME),
        ((0, 0), (1, 1), Verdict.WORSE),
        ((3, 3), (0, 0), Verdict.BETTER),
        ((-1, 1), (-2, 0), Verdict.SAME),
        ((-1, -1), (-40, -40), Verdict.BETTER),
    ],
)
def test_a_row_that_is_no_divisor_is_measured_by_its_goal(
    old: Sequence[float], new: Sequence[float], verdict: Verdict
) -> None:
    comparison = compared(rounds(*old, goal=100 if min(old) < 0 else 0), rounds(*new, goal=100 if min(new) < 0 else 0))
    assert (comparison.ratio, comparison.verdict) == (None, verdict)


def test_rows_are_matched_by_name_and_what_has_no_match_is_said() -> None:
    old = [[*a, *b] for a, b in zip(rounds(1, 1, name="both"), rounds(2, 2, name="gone"), strict=True)]
    new = [[*a, *b] for a, b in zip(rounds(3, 3, name="made"), rounds(1, 1, name="both"), strict=True)]
    verdicts = {comparison.name: comparison.verdict for comparison in compare(old, new)}
    assert list(verdicts.items()) == [
        ("made", Verdict.ONLY_NEW),
        ("both", Verdict.SAME),
        ("gone", Verdict.ONLY_OLD),
    ]


def test_rows_that_are_measured_differently_have_no_verdict() -> None:
    assert compared(rounds(1, unit="s"), rounds(1000, unit="ms")).verdict is Verdict.CHANGED
    assert compared(rounds(1), rounds(1, more=True)).verdict is Verdict.CHANGED


def test_the_line_has_medians_ratio_and_spreads() -> None:
    words = str(compared(rounds(1.0, 1.1, 1.2, unit="ms"), rounds(2.1, 2.2, 2.2, unit="ms"))).split()
    assert words == ["row", "1.10", "ms", "2.20", "ms", "2.00", "18%", "/", "5%", "worse"]

"""Pytest plugin: says at the end how many tests had a real agent, a fake one, or none, and why tests were skipped.

It counts the reports that the terminal has, so it is right under pytest-xdist as well.
"""

from collections import Counter

import pytest

GROUPS = {"real_cli": "real CLI", "fake_agent": "fake agent"}
OUTCOMES = {"passed": "passed", "failed": "failed", "error": "failed", "skipped": "skipped"}


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    counts: Counter[tuple[str, str]] = Counter()
    reasons: Counter[str] = Counter()
    for category, outcome in OUTCOMES.items():
        for report in terminalreporter.getreports(category):
            counts[_group(report), outcome] += 1
            if outcome == "skipped":
                reasons[_reason(report)] += 1
    terminalreporter.section("what ran")
    terminalreporter.write_line(
        " | ".join(
            f"{group}: "
            + ", ".join(f"{counts[group, outcome]} {outcome}" for outcome in ("passed", "failed", "skipped"))
            for group in (*GROUPS.values(), "other")
        )
    )
    for reason, count in reasons.most_common():
        terminalreporter.write_line(f"skipped {count}: {reason}")


def _group(report: pytest.TestReport | pytest.CollectReport) -> str:
    marks = getattr(report, "keywords", {})  # a module that could not be collected has none
    return next((group for mark, group in GROUPS.items() if mark in marks), "other")


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    # pytest gives a skip as (file, line, "Skipped: reason")
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return text.removeprefix("Skipped: ")

"""Pytest plugin: ``--last-skipped`` runs the tests that were skipped when they were last run.

So whoever installs what these tests lacked need not run all others again. The names are kept in pytest's own cache, as
those of ``--last-failed`` are.
"""

from __future__ import annotations

import pytest

KEY = "portico/skipped"
OPTION = "--last-skipped"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(OPTION, action="store_true", help="run only the tests that were skipped when they were last run")


def pytest_configure(config: pytest.Config) -> None:
    cache: pytest.Cache | None = getattr(config, "cache", None)
    if cache is not None:
        config.pluginmanager.register(Skipped(config, cache))
    elif config.getoption(OPTION):
        raise pytest.UsageError(f"{OPTION} needs pytest's cache")


class Skipped:
    """The names of the tests, and of the modules, that were skipped. A run that skips nothing of them forgets them."""

    def __init__(self, config: pytest.Config, cache: pytest.Cache) -> None:
        self._is_worker = hasattr(config, "workerinput")
        self._cache = cache
        self._names: set[str] = set(cache.get(KEY, []))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.skipped:
            self._names.add(report.nodeid)
        elif report.when == "call":
            module, *_ = report.nodeid.split("::")
            self._names -= {report.nodeid, module}

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.skipped:
            self._names.add(report.nodeid)

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        if not config.getoption(OPTION):
            return
        others = [item for item in items if self._names.isdisjoint(node.nodeid for node in item.listchain())]
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if item not in others]

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        if not self._is_worker:
            self._cache.set(KEY, sorted(self._names))
        if exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED and session.config.getoption(OPTION):
            session.exitstatus = pytest.ExitCode.OK  # none was skipped, and that is fine

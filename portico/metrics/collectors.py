"""Collectors for a Prometheus registry: one that reads its numbers on request, and a guard around any collector.

Label values must be few: never a path, an id, or anything else that a client can make up.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from prometheus_client import Metric
from prometheus_client.registry import Collector

log = logging.getLogger("portico.metrics")


class Reading(Collector):
    """A gauge, or a metric of another ``kind``, that is read on request.

    ``read`` returns a mapping of its numbers; each key is a tuple with one value for each label.
    """

    def __init__(
        self, name: str, text: str, *labels: str, read: Callable[[], Mapping[Any, float]], kind: str = "gauge"
    ) -> None:
        self._name = name
        self._text = text
        self._labels = labels
        self._read = read
        self._kind = kind

    def describe(self) -> Iterable[Metric]:
        """Return the metric without its numbers; the registry uses it to find names that are already taken."""
        return [Metric(self._name.removesuffix("_total"), self._text, self._kind)]

    def collect(self) -> Iterable[Metric]:
        """Return the metric with its numbers. Raises whatever ``read`` raises."""
        (metric,) = self.describe()
        for values, number in self._read().items():
            metric.add_sample(self._name, dict(zip(self._labels, values, strict=True)), float(number))
        return [metric]


class Guarded(Collector):
    """Leaves out ``collector`` when it fails, and logs why: it may come from a plugin.

    Drops the time at which each series began (``_created``), which nobody uses and which doubles the page.
    """

    def __init__(self, collector: Collector) -> None:
        self._collector = collector

    def describe(self) -> Iterable[Metric]:
        """Return the collector's description; empty if it has none."""
        describe: Callable[[], Iterable[Metric]] | None = getattr(self._collector, "describe", None)
        return describe() if describe is not None else ()

    def collect(self) -> Iterable[Metric]:
        """Return the collector's metrics; empty if it fails."""
        try:
            metrics = list(self._collector.collect())
        except Exception:
            log.exception("a metric can't be read: %s", ", ".join(metric.name for metric in self.describe()))
            return []
        for metric in metrics:
            metric.samples = [sample for sample in metric.samples if not sample.name.endswith("_created")]
        return metrics

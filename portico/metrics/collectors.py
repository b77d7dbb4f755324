"""Collectors for a Prometheus registry: numbers that are read when they are asked for, and a guard for everybody's.

Label values must be few: never a path, an id, or anything else that a client makes up.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from prometheus_client import Metric
from prometheus_client.registry import Collector

log = logging.getLogger("portico.metrics")


class Reading(Collector):
    """A gauge, or a metric of another ``kind``, that is read when it is asked for.

    ``read`` returns its numbers, each under a tuple with one value for each label.
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
        """The metric without its numbers, by which the registry finds names that are taken."""
        return [Metric(self._name.removesuffix("_total"), self._text, self._kind)]

    def collect(self) -> Iterable[Metric]:
        """The metric with its numbers. Raises whatever ``read`` raises."""
        (metric,) = self.describe()
        for values, number in self._read().items():
            metric.add_sample(self._name, dict(zip(self._labels, values, strict=True)), float(number))
        return [metric]


class Guarded(Collector):
    """Leaves ``collector`` out where it fails, and logs why: it may be anybody's.

    Drops the time at which each series began (``_created``), which doubles the page and which nobody asks for.
    """

    def __init__(self, collector: Collector) -> None:
        self._collector = collector

    def describe(self) -> Iterable[Metric]:
        """As the collector; empty where it does not say."""
        describe: Callable[[], Iterable[Metric]] | None = getattr(self._collector, "describe", None)
        return describe() if describe is not None else ()

    def collect(self) -> Iterable[Metric]:
        """As the collector; empty where it fails."""
        try:
            metrics = list(self._collector.collect())
        except Exception:
            log.exception("a metric can't be read: %s", ", ".join(metric.name for metric in self.describe()))
            return []
        for metric in metrics:
            metric.samples = [sample for sample in metric.samples if not sample.name.endswith("_created")]
        return metrics

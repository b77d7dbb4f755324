"""Families of numbers, and how Prometheus reads them.

Counting is adding to a dictionary, without locks: it is done on the event loop only. Label values must be few: never a
path, an id, or anything else that a client makes up.
"""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

log = logging.getLogger("portico.metrics")

Values = tuple[str, ...]
"""A value for each label."""


class Family(Protocol):
    name: str
    kind: str
    text: str

    def samples(self) -> Iterator[tuple[str, Mapping[str, str], float]]:
        """Name, labels and value of each line."""


class Counter:
    """Only grows. Its name ends in ``_total``. With no labels it is there from the start."""

    kind = "counter"

    def __init__(self, name: str, text: str, *labels: str) -> None:
        self.name = name
        self.text = text
        self._labels = labels
        self._values: dict[Values, float] = {} if labels else {(): 0}

    def add(self, *values: str, by: float = 1) -> None:
        self._values[values] = self._values.get(values, 0) + by

    def samples(self) -> Iterator[tuple[str, Mapping[str, str], float]]:
        for values, number in list(self._values.items()):
            yield self.name, dict(zip(self._labels, values, strict=True)), number


class Gauge(Counter):
    """Goes up and down."""

    kind = "gauge"


class Reading:
    """A gauge, or another kind, that is read when it is asked for: numbers by `Values`."""

    def __init__(
        self, name: str, text: str, *labels: str, read: Callable[[], Mapping[Any, float]], kind: str = "gauge"
    ) -> None:
        self.name = name
        self.kind = kind
        self.text = text
        self._labels = labels
        self._read = read

    def samples(self) -> Iterator[tuple[str, Mapping[str, str], float]]:
        for values, number in self._read().items():
            yield self.name, dict(zip(self._labels, values, strict=True)), number


class Histogram:
    """How many were at most ``bounds[0]``, at most ``bounds[1]`` ..., how many in all, and their sum."""

    kind = "histogram"

    def __init__(self, name: str, text: str, *labels: str, bounds: Sequence[float]) -> None:
        self.name = name
        self.text = text
        self._labels = labels
        self._bounds = bounds
        self._counts: dict[Values, list[int]] = {}
        self._sums: dict[Values, float] = {}

    def add(self, value: float, *values: str) -> None:
        counts = self._counts.get(values)
        if counts is None:
            counts = self._counts[values] = [0] * (len(self._bounds) + 1)
            self._sums[values] = 0.0
        counts[bisect_left(self._bounds, value)] += 1
        self._sums[values] += value

    def samples(self) -> Iterator[tuple[str, Mapping[str, str], float]]:
        for values, counts in list(self._counts.items()):
            labels = dict(zip(self._labels, values, strict=True))
            so_far = 0
            for bound, count in zip([*map(_number, self._bounds), "+Inf"], counts, strict=True):
                so_far += count
                yield f"{self.name}_bucket", {**labels, "le": bound}, so_far
            yield f"{self.name}_count", labels, so_far
            yield f"{self.name}_sum", labels, self._sums[values]


def exposition(families: Sequence[Family]) -> str:
    """https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format, version 0.0.4.

    A family that can't be read, which may be anybody's, is left out.
    """
    lines: list[str] = []
    for family in families:
        try:
            lines += _lines(family)
        except Exception:
            log.exception("the metric %s can't be read", family.name)
    return "\n".join([*lines, ""])


def _lines(family: Family) -> list[str]:
    lines = [f"# HELP {family.name} {_escaped(family.text)}", f"# TYPE {family.name} {family.kind}"]
    for name, labels, value in family.samples():
        pairs = ",".join(f'{label}="{_escaped(text, quoted=True)}"' for label, text in labels.items())
        lines.append(f"{name}{{{pairs}}} {_number(value)}" if pairs else f"{name} {_number(value)}")
    return lines


def _escaped(text: str, *, quoted: bool = False) -> str:
    text = text.replace("\\", r"\\").replace("\n", r"\n")
    return text.replace('"', r"\"") if quoted else text


def _number(value: float) -> str:
    return f"{value:.10g}" if value < 10**10 else str(value)

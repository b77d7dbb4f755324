"""Turns in a minute, by principal."""

import pytest

from portico.core.errors import Exhausted
from portico.core.quota import TurnRate


class Clock:
    time = 1000.0

    def __call__(self) -> float:
        return self.time


def test_at_most_so_many_in_any_minute() -> None:
    rate = TurnRate(2, now=(clock := Clock()))
    rate.take("a")
    clock.time += 59.5
    rate.take("a")
    with pytest.raises(Exhausted) as refused:
        rate.take("a")
    assert refused.value.retry_after == 1
    rate.take("b")
    clock.time += 0.5
    rate.take("a")
    with pytest.raises(Exhausted) as refused:
        rate.take("a")
    assert refused.value.retry_after == 60


def test_who_is_quiet_is_forgotten() -> None:
    rate = TurnRate(1, now=(clock := Clock()))
    for number in range(1000):
        rate.take(str(number))
        clock.time += 1
    assert len(rate._starts) <= 60

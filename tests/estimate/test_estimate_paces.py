"""The fastest and the slowest that held for a while."""

from __future__ import annotations

import pytest

from blocksync.estimate.paces import FAST_SECONDS, SLOW_SECONDS, extremes, rates


def test_a_second_may_be_fast_and_two_may_be_slow() -> None:
    # 100 a second for two seconds, 300 for one, 100 again for two; looked at four times a second.
    marks = [(step / 4, 100 * step / 4 + 200 * min(max(step / 4 - 2, 0), 1)) for step in range(21)]
    assert extremes(marks, 140.0) == pytest.approx((100.0, 300.0))


def test_a_moment_of_standstill_is_no_pace() -> None:
    marks = [(step / 4, 100.0 * (step / 4 - min(max(step / 4 - 2, 0), 0.5))) for step in range(21)]
    slowest, fastest = extremes(marks, 90.0)
    assert slowest == pytest.approx(75.0)
    assert fastest == pytest.approx(100.0)


def test_what_is_shorter_than_a_while_has_one_pace() -> None:
    assert extremes([(0.0, 0.0), (0.9 * FAST_SECONDS, 50.0)], 55.0) == (55.0, 55.0)
    assert rates([], SLOW_SECONDS) == []

"""What comes next, and how long the next pass would take. The expected figures are worked out by hand."""

from __future__ import annotations

import pytest

from blocksync.transfers.convergence import STUCK_PASSES, PassFigures, change_rate, is_stuck, next_seconds
from blocksync.transfers.policy import Action, Next, Policy

MIB = 1 << 20
FULL = PassFigures(began=0.0, seconds=100.0, changed=1000 * MIB, full=True)


def incremental(began: float, seconds: float, changed: int) -> PassFigures:
    return PassFigures(began=began, seconds=seconds, changed=changed, full=False)


def test_a_full_pass_says_nothing_of_the_next() -> None:
    assert next_seconds([]) is None
    assert next_seconds([FULL]) is None
    assert change_rate([FULL]) is None


def test_the_next_pass_sends_what_changes_during_the_last() -> None:
    # 100 MiB changed in the 100 s since the first pass began: 1 MiB/s. It took 20 s, of which 10 s went into sending
    # at the 10 MiB/s of the first pass; 10 s are reading. The next one: 10 s, and 20 MiB at 10 MiB/s.
    passes = [FULL, incremental(100.0, 20.0, 100 * MIB)]
    assert change_rate(passes) == MIB
    assert next_seconds(passes) == pytest.approx(12.0)


def test_a_quiet_source_needs_a_walk() -> None:
    assert next_seconds([FULL, incremental(100.0, 7.0, 0)]) == pytest.approx(7.0)
    empty = PassFigures(began=0.0, seconds=3.0, changed=0, full=True)
    assert next_seconds([empty, incremental(3.0, 4.0, 0)]) == 4.0


def test_a_source_that_changes_faster_than_the_link_is_stuck() -> None:
    passes = [FULL]
    at = 100.0
    for _ in range(STUCK_PASSES):
        passes.append(incremental(at, 100.0, 1000 * MIB))
        at += 100.0
        assert not is_stuck(passes)
    passes.append(incremental(at, 100.0, 1000 * MIB))
    assert is_stuck(passes)
    assert Policy(until_converged=30.0).next(passes) == Next(Action.GIVE_UP)


def test_passes_that_come_closer_are_not_stuck() -> None:
    passes, at, changed = [FULL], 100.0, 800 * MIB
    for _ in range(3 * STUCK_PASSES):
        seconds = changed / (10 * MIB)
        passes.append(incremental(at, seconds, changed))
        at, changed = at + seconds, changed * 8 // 10
    assert not is_stuck(passes)


def test_one_pass_is_all_where_nothing_else_is_asked() -> None:
    assert Policy().next([]) == Next(Action.ANOTHER)
    assert Policy().next([FULL]) == Next(Action.END)
    assert Policy(final=True).next([]) == Next(Action.FINAL)


def test_following_counts_from_the_beginning_of_a_pass() -> None:
    policy = Policy(follow=900.0)
    assert policy.next([]) == Next(Action.ANOTHER)
    assert policy.next([PassFigures(began=50.0, seconds=2.0, changed=1, full=True)]) == Next(Action.ANOTHER, 950.0)
    assert policy.next([FULL], final_now=True) == Next(Action.FINAL)


def test_convergence_ends_it_or_leads_to_the_final_pass() -> None:
    short = [FULL, incremental(100.0, 20.0, 100 * MIB)]
    assert Policy(until_converged=12.1).next(short) == Next(Action.END)
    assert Policy(until_converged=12.1, final=True).next(short) == Next(Action.FINAL)
    assert Policy(until_converged=11.9, final=True).next(short) == Next(Action.ANOTHER, 100.0)
    assert Policy(until_converged=11.9, follow=60.0).next(short) == Next(Action.ANOTHER, 160.0)
    # After the first pass nobody knows how much changes: one more, whatever it took.
    assert Policy(until_converged=1000.0, final=True).next([FULL]) == Next(Action.ANOTHER, 0.0)

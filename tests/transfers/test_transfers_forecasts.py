"""Predictions beside the truth. The expected figures are worked out by hand."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from blocksync.cli.forecasts import FORECASTS_SHOWN, beside_the_truth
from blocksync.engine.outlook import Outlooks, outlook_of
from blocksync.transfers.convergence import (
    PROVEN,
    TRIED,
    UNTRIED,
    PassFigures,
    change_rate,
    expectation,
    next_seconds,
)
from blocksync.transfers.figures import skipped
from blocksync.transfers.forecasts import of_pass, of_verify
from blocksync.transfers.record import Forecast, TransferRecord, canonical, decode, encode
from blocksync.transfers.states import TransferState

MIB = 1 << 20
FULL = PassFigures(began=0.0, seconds=100.0, changed=1000 * MIB, full=True)


def walk(began: float, seconds: float, changed: int = 0) -> PassFigures:
    return PassFigures(began=began, seconds=seconds, changed=changed, full=False)


def test_one_slow_pass_does_not_move_the_floor() -> None:
    passes = [FULL, *(walk(100.0 + 10 * each, seconds) for each, seconds in enumerate((2.0, 2.2, 1.9, 9.0)))]
    assert next_seconds(passes) == pytest.approx(2.1)
    passes += [walk(200.0 + 10 * each, 9.0) for each in range(5)]
    assert next_seconds(passes) == pytest.approx(9.0)


def test_a_pass_that_mostly_sent_does_not_tell_the_floor() -> None:
    # At the full pass's 10 MiB/s, the first walk sent for all of its 20 s; the second for 1 of its 6 s.
    passes = [FULL, walk(100.0, 20.0, 200 * MIB), walk(120.0, 6.0, 10 * MIB)]
    assert next_seconds(passes) == pytest.approx(5.0 + 10 / 20 * 6 / 10)


def test_changes_pile_up_until_the_pass_begins_and_are_no_more_than_the_disks() -> None:
    passes = [FULL, walk(100.0, 20.0, 100 * MIB)]  # 1 MiB/s, a floor of 10 s
    assert next_seconds(passes, at=200.0) == pytest.approx(10.0 + 100 / 10)
    assert next_seconds(passes, at=100_000.0, most=1000 * MIB) == pytest.approx(10.0 + 1000 / 10)


def test_the_interval_is_as_wide_as_predictions_were_off() -> None:
    even = [FULL, *(walk(100.0 + 10 * each, 2.0) for each in range(6))]
    assert expectation(even[:1]) is None
    assert expectation(even[:2]) == pytest.approx((2.0, 2.0 / UNTRIED, 2.0 * UNTRIED))
    assert expectation(even) == pytest.approx((2.0, 2.0 / PROVEN, 2.0 * PROVEN))
    likely, low, high = expectation([*even, walk(200.0, 6.0)]) or (0.0, 0.0, 0.0)
    assert likely == pytest.approx(2.0)
    assert low < 2.0 / 3
    assert high > 6.0


def test_a_pass_that_was_begun_again_on_the_way_says_nothing_of_the_next() -> None:
    passes = [FULL, dataclasses.replace(walk(100.0, 60.0), broken=True)]
    assert next_seconds(passes) == pytest.approx(60.0)  # nothing better is known
    passes += [walk(170.0, 2.0), walk(180.0, 2.0), walk(190.0, 2.0)]
    even = expectation(passes)
    assert even == pytest.approx((2.0, 2.0 / TRIED, 2.0 * TRIED))
    # A miss of the one that broke makes no interval wider, and its time is no floor.
    assert expectation([*passes, dataclasses.replace(walk(200.0, 90.0), broken=True)]) == even


def test_a_pass_that_sent_only_a_part_of_what_changed_does_not_tell_how_fast_it_changes() -> None:
    passes = [FULL, walk(100.0, 2.0, 10 * MIB), walk(110.0, 2.0, 10 * MIB)]
    assert change_rate(passes) == pytest.approx(MIB)
    half = dataclasses.replace(walk(130.0, 2.0, 4 * MIB), broken=True)
    assert change_rate([*passes, half]) == pytest.approx(MIB)
    assert change_rate([FULL, dataclasses.replace(walk(104.0, 2.0, 4 * MIB), broken=True)]) is not None


def test_a_generation_that_no_pass_is_recorded_for_was_committed_as_its_sender_was_stopped() -> None:
    assert skipped(4, 2)
    assert not skipped(3, 2)
    assert not skipped(7, None)


def test_who_stands_still_for_the_final_pass_leaves_it_the_machine() -> None:
    passes = [FULL, *(walk(100.0 + 10 * each, 2.0) for each in range(6))]
    (told,) = of_pass(passes, number=8, began=160.0, took=1.3, final=False)
    assert (told.low, told.held) == (pytest.approx(2.0 / PROVEN), False)
    (told,) = of_pass(passes, number=8, began=160.0, took=1.3, final=True)
    assert (told.low, told.held) == (pytest.approx(2.0 / (1 + 2 * (PROVEN - 1))), True)
    assert told.high == pytest.approx(2.0 * PROVEN)


def test_a_pass_is_compared_with_what_was_predicted_of_it_alone() -> None:
    first = of_pass([], number=1, began=0.0, took=9.0, final=False, first=(10.0, 8.0, 12.0), following=(3.0,))
    assert first == (Forecast(what="pass", number=1, by="estimate", likely=10.0, low=8.0, high=12.0, took=9.0),)
    assert first[0].held
    second = of_pass([FULL], number=2, began=101.0, took=4.0, final=False, following=(3.0,))
    assert [(each.by, each.likely, each.held) for each in second] == [("estimate", 3.0, False)]
    # It began long after the first one ended: that is no pass the estimate spoke of.
    assert of_pass([FULL], number=2, began=500.0, took=4.0, final=False, following=(3.0,)) == ()
    passes = [FULL, walk(100.0, 2.0)]
    final = of_pass(passes, number=3, began=103.0, took=2.1, final=True, pause=(2.0, 1.5, 2.5))
    assert [(each.what, each.by, each.held) for each in final] == [
        ("pause", "estimate", True),
        ("pause", "passes", True),
    ]
    assert of_verify((), number=3, took=1.0) == ()
    assert of_verify((2.0, 1.0, 3.0), number=3, took=3.5)[0].held is False


def test_lines_say_how_far_off_and_the_newest_are_shown() -> None:
    told = of_verify((2.0, 1.0, 3.0), number=3, took=2.5)
    assert beside_the_truth([]) == []
    head, line = beside_the_truth([dataclasses.asdict(each) for each in told])
    assert line == "verify  2.0 s (1.0 s to 3.0 s)  2.5 s  +25 %   the estimate"
    assert [head.index(word) for word in ("took", "off by")] == [line.index(word) for word in ("2.5 s", "+25 %")]
    passes = [
        Forecast(what="pass", number=number, by="passes", likely=2.0, low=1.0, high=3.0, took=2.0)
        for number in range(FORECASTS_SHOWN + 2)
    ]
    many = beside_the_truth([dataclasses.asdict(each) for each in (*told, *passes)])
    assert len(many) == FORECASTS_SHOWN + 2
    assert many[0].endswith("3 older")
    # What the estimate said is what one waits for.
    assert [line.split("  ")[0] for line in many[2:4]] == ["verify", "pass 3"]
    assert "the estimate" in many[2]
    nothing = Forecast(what="pass", number=2, by="passes", likely=0.0, low=0.0, high=0.0, took=1.0)
    assert "1.0 s  outside" in beside_the_truth([dataclasses.asdict(nothing)])[1]


def test_a_record_of_before_forecasts_is_read() -> None:
    record = TransferRecord(
        id="0" * 16, to="x", receiver="", disks=(), state=TransferState.READY, created=1.0, touched=1.0
    )
    kept = dataclasses.replace(record, forecasts=of_verify((2.0, 1.0, 3.0), number=1, took=2.5), pause=4.0)
    assert decode(encode(kept), "here") == kept
    said = json.loads(encode(record))
    del said["record"]["forecasts"], said["record"]["pause"]
    import hashlib

    said["checksum"] = hashlib.blake2b(canonical(said["record"]), digest_size=16).hexdigest()
    assert decode(json.dumps(said).encode(), "here") == record


def test_what_an_estimate_said_is_kept_and_what_is_damaged_says_nothing(tmp_path: Path) -> None:
    outlooks = Outlooks(tmp_path, bytes(32))
    outlook = outlook_of(
        (3.0, 2.0, 4.0),
        source_identity="disk",
        size=5,
        passes=(1.0, 0.5),
        pause=(0.5, 0.4, 0.6),
        verify=(1.0, 0.5, 2.0),
    )
    outlooks.save("a", outlook)
    assert outlooks.of("a", "disk", 5) == outlook
    assert outlooks.of("a", "disk", 6) is None
    assert outlooks.of("b", "disk", 5) is None
    (path,) = tmp_path.rglob("a.json")
    said = json.loads(path.read_text())
    path.write_text(json.dumps({name: said[name] for name in said if name not in ("passes", "pause", "verify")}))
    old = outlooks.of("a", "disk", 5)
    assert old is not None
    assert old.passes == ()
    for wrong in ({"pause": [1]}, {"passes": "ab"}, {"verify": 3}, {"low": "x"}):
        path.write_text(json.dumps({**said, **wrong}))
        assert outlooks.load("a") is None
    path.write_text("[]")
    assert outlooks.load("a") is None

"""From figures to intervals: what is the bottleneck, and how sure one can be."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from blocksync.codec import Packer
from blocksync.engine.cancel import Cancel
from blocksync.estimate.packing import chunk_gain, level_table, levels_used, packed_at
from blocksync.estimate.prediction import Packed, predict
from blocksync.estimate.rehearsal import Moment, Rehearsal
from blocksync.estimate.results import Range
from blocksync.estimate.sampling import Picture, Sample, Sampler
from blocksync.sources.memory import MemorySource

MIB = 1 << 20
GIB = 1 << 30


def rehearsal(
    done: float, wire: float, *, waiting: float = 1.0, starved: float = 0.0, busy: float = 0.3, **more: object
) -> Rehearsal:
    """Eight seconds at steady rates, bytes a second."""
    moments = tuple(
        Moment(
            seconds=step / 20,
            done=int(done * step / 20),
            changed=int(done * step / 20),
            wire=int(wire * step / 20),
            level=1 if step < 60 else 3,
            reading=0.01 * step,
            scanning=0.02 * step,
            sending=0.1 * step,
        )
        for step in range(161)
    )
    made = Rehearsal(
        moments=moments,
        connections=4,
        opening=0.1,
        committing=0.2,
        drained=8.0,
        size=2 * GIB,
        busy=busy,
        foreign=0.1,
        waiting=waiting,
        starved=starved,
        target="file",
        slot="a",
    )
    return replace(made, **more)  # type: ignore[arg-type]


def picture(size: int, data: int) -> Picture:
    return Picture(size=size, data=data, holes=size - data, unused=0, stored=data, compared=data)


PICTURE = picture(20 * GIB, 10 * GIB)
EVEN = Packed(lengths=[MIB] * 200, wires=[MIB / 2] * 200)


def test_amount_over_rate() -> None:
    found = predict(PICTURE, EVEN, rehearsal(20.0 * MIB, 10.0 * MIB), read_rate=1e12, link=10.0 * MIB)
    assert found.bottleneck == "link"
    assert found.transfer.likely == pytest.approx(10 * GIB / (20.0 * MIB), rel=0.01)
    assert found.seconds.likely == pytest.approx(found.transfer.likely + 0.1 + found.commit)
    assert found.wire.likely == pytest.approx(5 * GIB)
    assert found.seconds.holds(512.5)


def test_where_the_link_is_full_the_samples_count_not_what_the_rehearsal_happened_to_send() -> None:
    # The rehearsal sent more zeros than the disk has: its rate of the disk is too good, the link's is right.
    lucky = rehearsal(40.0 * MIB, 10.0 * MIB)
    found = predict(PICTURE, EVEN, lucky, read_rate=1e12, link=10.0 * MIB)
    assert found.rate == pytest.approx(20.0 * MIB, rel=0.01)


@pytest.mark.parametrize(
    ("figures", "read_rate", "expected"),
    [
        (rehearsal(200.0 * MIB, 100.0 * MIB), 50.0 * MIB, "read"),
        (rehearsal(200.0 * MIB, 100.0 * MIB, waiting=0.2), 1e12, "processor"),
        (rehearsal(200.0 * MIB, 100.0 * MIB, starved=0.8), 1e12, "target"),
        (rehearsal(200.0 * MIB, 100.0 * MIB, starved=0.8, busy=1.0), 1e12, "processor"),
        (rehearsal(200.0 * MIB, 100.0 * MIB, starved=0.8, target="nowhere"), 1e12, "processor"),
        (rehearsal(200.0 * MIB, 100.0 * MIB, waiting=0.0), 1e12, "link"),
        (rehearsal(200.0 * MIB, 10.0 * MIB, waiting=0.0, busy=0.95), 1e12, "processor"),
        (rehearsal(200.0 * MIB, 10.0 * MIB, waiting=0.0), 1e12, "target"),
    ],
)
def test_the_bottleneck(figures: Rehearsal, read_rate: float, expected: str) -> None:
    assert predict(PICTURE, EVEN, figures, read_rate=read_rate, link=100.0 * MIB).bottleneck == expected


def test_samples_that_differ_make_a_wide_interval_at_the_link_too() -> None:
    wild = Packed(lengths=[MIB] * 200, wires=[0.0, float(MIB)] * 100)
    sure = predict(PICTURE, EVEN, rehearsal(20.0 * MIB, 10.0 * MIB), read_rate=1e12, link=10.0 * MIB)
    unsure = predict(PICTURE, wild, rehearsal(20.0 * MIB, 10.0 * MIB), read_rate=1e12, link=10.0 * MIB)
    assert _width(sure.transfer) < 0.1
    assert _width(unsure.transfer) > 2 * _width(sure.transfer)


def test_levels_that_go_to_and_fro_tell_of_processors_that_are_short() -> None:
    torn = Packed(lengths=[MIB] * 200, wires=[MIB / 2] * 200, levels=0.3)
    found = predict(PICTURE, torn, rehearsal(20.0 * MIB, 10.0 * MIB), read_rate=1e12, link=10.0 * MIB)
    assert found.bottleneck == "processor"
    # What goes over the wire is unsure, not what it takes: that is how the levels were chosen.
    assert _width(found.wire) > 0.5
    assert _width(found.transfer) < 0.3


def test_what_processors_hold_back_may_be_packed_or_not() -> None:
    torn = replace(EVEN, shares=(0.4, 1.0))
    found = predict(PICTURE, torn, rehearsal(2e8, 1e8, waiting=0.2), read_rate=1e12, link=1e9)
    assert found.bottleneck == "processor"
    assert found.wire.low < 4 * GIB
    assert found.wire.high > 10 * GIB
    full = predict(PICTURE, torn, rehearsal(20.0 * MIB, 10.0 * MIB), read_rate=1e12, link=10.0 * MIB)
    assert full.bottleneck == "link"
    assert full.wire.low > 4.8 * GIB


def test_levels_that_a_pass_may_choose_say_what_may_be_on_the_wire() -> None:
    source = MemorySource(16 * MIB)
    source.write(0, b"plain words again and again " * (16 * MIB // 28))
    sample = Sampler(source, 1, Cancel(), random.Random(1)).run()
    assert packed_at(sample, {None: 1.0}).shares == ()
    low, high = packed_at(sample, {None: 1.0}, adapts=True).shares
    assert low < 0.2 < 0.99 < high <= 1.0


def _width(span: Range) -> float:
    return (span.high - span.low) / 2 / span.likely


def test_what_a_short_pass_may_lose_at_its_ends_does_not_add_up() -> None:
    # Six seconds at a full link: opening, transfer and commit each wander, but not all the same way at once.
    short = picture(GIB, 110 * MIB)
    found = predict(short, EVEN, rehearsal(20.0 * MIB, 10.0 * MIB, committing=0.5), read_rate=1e12, link=10.0 * MIB)
    assert found.seconds.likely == pytest.approx(5.5 + 0.1 + found.commit, rel=0.01)
    assert 0.03 < _width(found.seconds) < 0.15
    apart = (found.transfer.high - found.transfer.likely) + 0.1 + 0.7 * found.commit
    assert found.seconds.high - found.seconds.likely < apart


def test_a_full_link_goes_by_what_the_other_end_acknowledged() -> None:
    # Buffers took in twice as fast at first what the link then carried: what was handed over says little.
    sent = rehearsal(40.0 * MIB, 20.0 * MIB)
    moments = tuple(
        replace(moment, acknowledged=int(max(0.0, moment.seconds - 0.5) * 10 * MIB)) for moment in sent.moments
    )
    told = replace(sent, moments=moments)
    assert told.wire_rate == pytest.approx(10.0 * MIB, rel=0.01)
    assert told.late == pytest.approx(0.5, abs=0.05)
    assert told.wire_spread() < 0.01
    found = predict(PICTURE, EVEN, told, read_rate=1e12, link=10.0 * MIB)
    assert found.bottleneck == "link"
    assert found.transfer.likely == pytest.approx(5 * GIB / (10.0 * MIB) + 0.5, rel=0.01)


def test_a_machine_with_two_paces_may_keep_either() -> None:
    steady = rehearsal(2e8, 1e8, waiting=0.2, foreign=0.0)
    # Twice as fast for the first two seconds as for the six behind them.
    moments = tuple(
        replace(moment, done=int(1e8 * (2 * min(moment.seconds, 2.0) + max(moment.seconds - 2.0, 0.0))))
        for moment in steady.moments
    )
    slowing = replace(steady, moments=moments)
    assert slowing.extremes() == pytest.approx((1e8, 2e8))
    assert steady.extremes() == pytest.approx((2e8, 2e8))
    found = predict(PICTURE, EVEN, slowing, read_rate=1e12, link=1e9)
    assert found.transfer.holds(10 * GIB / 2e8)
    assert found.transfer.holds(10 * GIB / 1e8)
    assert _width(predict(PICTURE, EVEN, steady, read_rate=1e12, link=1e9).transfer) < 0.3


def test_a_rehearsal_that_was_over_at_once_has_one_pace() -> None:
    short = rehearsal(2e8, 1e8)
    short = replace(short, moments=short.moments[:10])
    assert short.extremes() == (short.done_rate, short.done_rate)


def test_a_busy_machine_makes_a_wide_interval() -> None:
    calm = predict(PICTURE, EVEN, rehearsal(2e8, 1e8, waiting=0.2, foreign=0.0), read_rate=1e12, link=1e9)
    busy = predict(PICTURE, EVEN, rehearsal(2e8, 1e8, waiting=0.2, foreign=0.9), read_rate=1e12, link=1e9)
    assert busy.error > 1.5 * calm.error


def test_a_target_whose_writing_nobody_measured_can_only_be_slower() -> None:
    known = predict(PICTURE, EVEN, rehearsal(2e8, 1e8, waiting=0.2), read_rate=1e12, link=1e9)
    unknown = predict(PICTURE, EVEN, rehearsal(2e8, 1e8, waiting=0.2, target="nowhere"), read_rate=1e12, link=1e9)
    assert unknown.transfer.high > known.transfer.high
    assert unknown.transfer.low == known.transfer.low


def test_a_pass_that_lost_time_at_first_loses_it_again() -> None:
    slow = predict(PICTURE, EVEN, rehearsal(2e8, 1e8, waiting=0.2, drained=11.0), read_rate=1e12, link=1e9)
    quick = predict(PICTURE, EVEN, rehearsal(2e8, 1e8, waiting=0.2), read_rate=1e12, link=1e9)
    assert slow.transfer.likely - quick.transfer.likely == pytest.approx(3.0, rel=0.01)


def test_a_pass_shorter_than_the_rehearsal_goes_by_its_beginning() -> None:
    # Three times as fast for the first two seconds, while the target's memory took what was written.
    slow = rehearsal(1e8, 1e8, waiting=0.2, foreign=0.0)
    moments = tuple(
        replace(moment, done=int(min(moment.seconds, 2.0) * 3e8 + max(moment.seconds - 2.0, 0.0) * 1e8))
        for moment in slow.moments
    )
    told = replace(slow, moments=moments)
    short = picture(GIB, 300_000_000)
    found = predict(short, EVEN, told, read_rate=1e12, link=1e9)
    assert found.bottleneck == "processor"
    assert found.transfer.likely == pytest.approx(1.0, rel=0.02)
    long = predict(PICTURE, EVEN, told, read_rate=1e12, link=1e9)
    assert long.transfer.likely == pytest.approx(8.0 + (10 * GIB - 1.2e9) / 1e8, rel=0.02)


def _text() -> bytes:
    chance = random.Random(3)
    words = [bytes(chance.choices(range(97, 123), k=7)) for _ in range(3000)]
    return b" ".join(chance.choices(words, k=MIB // 7))[:MIB]


TEXT = _text()


def text(at: int) -> bytes:
    """A MiB of words, another one at each place."""
    turn = at * 4999
    return TEXT[turn % MIB :] + TEXT[: turn % MIB]


def sampled() -> Sample:
    source = MemorySource(224 * MIB)
    for at in range(0, 224, 2):
        source.write(at * MIB, random.Random(at).randbytes(MIB) if at % 4 else text(at))
    return Sampler(source, 2, Cancel(), random.Random(1)).run()


def test_short_pieces_and_whole_chunks_give_the_size_of_the_disk_on_the_wire() -> None:
    """The truth is packing all of the disk by the chunk, as a pass does."""
    sample = sampled()
    assert sample.sampled + len(sample.chunks) * MIB <= 0.02 * sample.picture.data
    packer = Packer()
    truth = sum(len(packer.pack(text(at), 1) or b"") if at % 4 == 0 else MIB for at in range(0, 224, 2))
    found = packed_at(sample, {1: 1.0}).share * sample.picture.data
    assert found == pytest.approx(truth, rel=0.12)
    assert chunk_gain(sample, 1, packer) < 0.95


def test_levels_are_ordered_and_none_packs_nothing() -> None:
    table = level_table(sampled())
    assert table[0].level is None
    assert table[0].ratio == 1.0
    assert all(figure.ratio > 1.0 and figure.rate > 0 for figure in table[1:])


def test_the_levels_of_the_second_half_count() -> None:
    assert levels_used(rehearsal(2e7, 1e7)) == {3: 1.0}


def half_width(span: Range) -> float:
    return (span.high - span.low) / 2 / span.likely


def test_a_full_link_on_a_full_machine_is_less_sure_and_never_wider_than_a_quarter() -> None:
    widths = {}
    for foreign in (0.0, 0.1, 0.3, 0.5, 0.7, 0.9):
        seen = rehearsal(20.0 * MIB, 10.0 * MIB, busy=1.0, foreign=foreign)
        found = predict(PICTURE, EVEN, seen, read_rate=1e12, link=10.0 * MIB)
        assert found.bottleneck == "link"
        widths[foreign] = half_width(found.seconds)
    assert widths[0.0] < widths[0.1] < widths[0.3] < widths[0.5] <= 0.25
    assert widths[0.9] < widths[0.7] < widths[0.5]
    idle = predict(
        PICTURE, EVEN, rehearsal(20.0 * MIB, 10.0 * MIB, busy=0.6, foreign=0.3), read_rate=1e12, link=10.0 * MIB
    )
    assert half_width(idle.seconds) == pytest.approx(widths[0.0], rel=0.01)

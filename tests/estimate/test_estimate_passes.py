"""How changes are extrapolated, and where following passes lead."""

from __future__ import annotations

import itertools
import random

import pytest

from blocksync.engine.cancel import Cancel
from blocksync.errors import InterruptedTransferError
from blocksync.estimate.passes import Curve, Pace, changes, fit, follow, needed_link
from blocksync.estimate.sampling import Sampler
from blocksync.estimate.watching import Watcher
from blocksync.sources.memory import MemorySource

MIB = 1 << 20
GIB = 1 << 30


@pytest.mark.parametrize("hot", [20 * MIB, 400 * MIB, 40 * GIB])
def test_the_curve_is_found_again_from_its_points(hot: int) -> None:
    truth = Curve(rate=2.0 * MIB, hot=float(hot))
    points = [(seconds, truth.after(seconds)) for seconds in (75.0, 150.0, 300.0, 600.0)]
    found = fit(points, 100 * GIB)
    for seconds in (30.0, 600.0, 1800.0):
        assert found.after(seconds) == pytest.approx(truth.after(seconds), rel=0.06)


def test_nothing_that_changes_is_a_flat_curve() -> None:
    found = fit([(10.0, 0.0), (20.0, 0.0)], GIB)
    assert (found.rate, found.hot, found.after(1e9)) == (0.0, 0.0, 0.0)


def test_what_differs_never_exceeds_the_hot_set() -> None:
    curve = Curve(rate=10.0 * MIB, hot=50.0 * MIB)
    amounts = [curve.after(seconds) for seconds in range(0, 1000, 10)]
    assert all(earlier <= later for earlier, later in itertools.pairwise(amounts))
    assert amounts[0] == 0.0
    assert amounts[-1] <= curve.hot


def pace(link: float = 10.0 * MIB) -> Pace:
    return Pace(fixed=1.0, data=100.0 * GIB, scan_rate=GIB / 1.0, packed=0.5, send_rate=200.0 * MIB, link=link)


def test_passes_get_shorter_until_one_is_within_the_pause() -> None:
    curve = Curve(rate=1.0 * MIB, hot=100.0 * GIB)
    passes, last = follow(curve, pace(), first=10_000.0, pause=120.0)
    lengths = [following.seconds for following in passes]
    assert lengths == sorted(lengths, reverse=True)
    assert last <= 120.0
    assert passes[0].changed == pytest.approx(curve.after(10_000.0))
    assert passes[0].wire == pytest.approx(passes[0].changed * 0.5)


def test_changes_faster_than_the_link_do_not_converge_and_a_faster_link_would() -> None:
    curve = Curve(rate=30.0 * MIB, hot=100.0 * GIB)
    found = changes(
        [(10.0, curve.after(10.0)), (100.0, curve.after(100.0))], 100.0, pace(), 10_000.0, 50.0 * GIB, 150.0
    )
    assert not found.converges
    assert found.needed is not None
    assert 15.0 * MIB < found.needed < 1000.0 * MIB
    faster = pace(found.needed)
    assert follow(curve, faster, 50.0 * GIB / found.needed, 160.0)[1] <= 160.0


def test_where_reading_alone_takes_longer_than_the_pause_no_link_helps() -> None:
    curve = Curve(rate=1.0, hot=100.0 * MIB)
    assert needed_link(curve, pace(), 50.0 * GIB, pause=30.0) is None
    found = changes([(10.0, 10.0)], 10.0, pace(), 10_000.0, 50.0 * GIB, 30.0)
    assert (found.converges, found.needed) == (False, None)
    assert found.pause is not None
    assert found.pause.low < 101.0 < found.pause.high
    # Measured while the writer was at work, which is over in the final pass.
    assert found.pause.likely / found.pause.low == pytest.approx(1.9)
    assert found.pause.high / found.pause.likely == pytest.approx(1.3)


def test_watching_sees_what_a_writer_changes() -> None:
    chance = random.Random(1)
    source = MemorySource(64 * MIB)
    source.write(0, chance.randbytes(64 * MIB))
    sample = Sampler(source, 1, Cancel(), random.Random(2)).run()
    now = 0.0

    def wait(seconds: float) -> bool:
        nonlocal now
        now += seconds
        # A tenth of the pages in 80 s: always the same ones, the first of every ten.
        for page in range(0, int(16384 * now / 80), 10):
            source.write(page * 4096, chance.randbytes(16))
        return False

    watcher = Watcher(source, sample.pieces, Cancel(), clock=lambda: now, wait=wait)
    told: list[float] = []
    points = watcher.run(80.0, told.append)
    assert [seconds for seconds, _ in points] == told == [10.0, 20.0, 40.0, 80.0]
    assert points[-1][1] == pytest.approx(6.4 * MIB, rel=0.25)
    assert points[1][1] == pytest.approx(1.6 * MIB, rel=0.6)


def test_a_quiet_source_shows_no_changes_and_growth_counts() -> None:
    source = MemorySource(16 * MIB)
    source.write(0, b"x" * 4 * MIB)
    sample = Sampler(source, 1, Cancel(), random.Random(2)).run()

    def wait(_seconds: float) -> bool:
        source.write(8 * MIB, b"y" * MIB)
        return False

    watcher = Watcher(source, sample.pieces, Cancel(), clock=lambda: 0.0, wait=lambda _s: False)
    assert {changed for _, changed in watcher.run(8.0, lambda _age: None)} == {0.0}
    growing = Watcher(source, sample.pieces, Cancel(), clock=lambda: 0.0, wait=wait)
    assert {changed for _, changed in growing.run(8.0, lambda _age: None)} == {float(MIB)}


def test_what_grew_before_the_watching_began_is_no_change() -> None:
    source = MemorySource(16 * MIB)
    source.write(0, b"x" * 4 * MIB)
    sample = Sampler(source, 1, Cancel(), random.Random(2)).run()
    source.write(8 * MIB, b"y" * MIB)
    late = Watcher(source, sample.pieces, Cancel(), clock=lambda: 0.0, wait=lambda _s: False)
    assert {changed for _, changed in late.run(8.0, lambda _age: None)} == {0.0}


def test_watching_is_cancelled() -> None:
    source = MemorySource(MIB)
    source.write(0, b"x" * MIB)
    sample = Sampler(source, 1, Cancel(), random.Random(2)).run()
    cancel = Cancel()
    cancel.set()
    with pytest.raises(InterruptedTransferError):
        Watcher(source, sample.pieces, cancel).run(60.0, lambda _age: None)

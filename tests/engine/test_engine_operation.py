"""Transfers from the first pass to the cutover, against a real receiver, on a clock of the test's."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from blocksync import api
from blocksync.api import Cancel, DiskSpec, Limits, SendOptions, TransferEvent, TransferOptions, TransferResult
from blocksync.engine.clock import Clock
from blocksync.engine.operation import Operation, already_open
from blocksync.engine.statedir import prepare
from blocksync.errors import (
    InterruptedTransferError,
    NotConvergingError,
    QuietError,
    SourceError,
    TransferRunningError,
    UsageError,
)
from blocksync.sources.memory import MemorySource
from blocksync.transfers.store import TransferStore
from tests.serving import MIB, Receiver, receiver


class TestClock(Clock):
    """Waiting makes it go on at once; ``on_wait`` sees each wait."""

    __test__ = False

    def __init__(self, on_wait: Callable[[float], None] | None = None) -> None:
        super().__init__()
        self.time = float(int(time.time()))  # a transfer of another year would have expired
        self.waits: list[float] = []
        self._on_wait = on_wait

    def now(self) -> float:
        self.time += 0.001
        return self.time

    def wait(self, seconds: float) -> None:
        self.waits.append(round(seconds))
        self.time += seconds
        if self._on_wait is not None:
            self._on_wait(seconds)


class Bench:
    """A source in memory, a receiver on loopback, and what was told."""

    def __init__(self, there: Receiver) -> None:
        self.there = there
        self.source = MemorySource(MIB, "disk")
        self.source.write(0, b"1" * MIB)
        self.events: list[TransferEvent] = []
        self.cancel = Cancel()
        self.state = there.folder / "sender"

    def run(self, clock: Clock | None = None, **options: object) -> TransferResult:
        send = SendOptions(to=self.there.to, state_dir=self.state, retry_seconds=0)
        wanted = TransferOptions(send=send, on_event=self.events.append, **options)  # type: ignore[arg-type]
        code = None if (self.state / "receivers.json").exists() else self.there.listening.code
        with contextlib.closing(self.there.reach(code=code)) as reach:
            return Operation(
                state=prepare(self.state),
                reach=reach,
                opening=lambda: already_open([self.source]),
                disks=[DiskSpec(source="disk", slot="a")],
                options=wanted,
                cancel=self.cancel,
                clock=clock or TestClock(),
            ).run()

    def states(self) -> list[object]:
        return [event.facts["state"] for event in self.events if event.kind == "state"]

    def target(self) -> bytes:
        return (self.there.folder / "a.img").read_bytes()[:MIB]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    tmp_path.chmod(0o700)
    with receiver(tmp_path) as there:
        yield Bench(there)


def test_a_single_pass_leaves_a_transfer_that_waits(bench: Bench) -> None:
    result = bench.run()
    assert (result.state, result.passes, result.consistency) == ("waiting", 1, "live")
    (status,) = api.transfers(bench.state)
    assert (status.id, status.state, status.running, status.pass_count) == (result.transfer, "waiting", False, 1)
    again = bench.run()
    assert again.transfer == result.transfer
    assert api.transfers(bench.state)[0].pass_count == 2


def test_it_follows_until_it_is_stopped(bench: Bench) -> None:
    def change(_seconds: float) -> None:
        bench.source.write(0, bytes([len(clock.waits)]) * 4096)
        if len(clock.waits) == 3:
            bench.cancel.set()

    clock = TestClock(change)
    with pytest.raises(InterruptedTransferError):
        bench.run(clock, follow=900.0)
    assert clock.waits == [900, 900, 900]
    assert bench.target()[:4096] == b"\x02" * 4096
    assert bench.states()[-2:] == ["waiting", "stopped"]
    assert api.transfers(bench.state)[0].state == "stopped"


def test_a_final_pass_on_request_ends_the_following(bench: Bench) -> None:
    def ask(_seconds: float) -> None:
        told = api.stop_transfer("disk", bench.state, final=True)
        assert (told.running, told.state) == (True, "waiting")

    result = bench.run(TestClock(ask), follow=900.0, verify=False)
    assert (result.state, result.passes) == ("finished", 2)


def test_it_converges_and_the_final_pass_is_verified_while_the_source_is_quiet(bench: Bench) -> None:
    mark = bench.there.folder / "mark"
    result = bench.run(
        until_converged=60.0,
        final=True,
        verify=True,
        pre_final=f"echo before >> {mark}",
        post_final=f"echo after $BLOCKSYNC_TRANSFER >> {mark}",
    )
    assert (result.state, result.passes, result.consistency) == ("finished", 3, "application")
    assert result.verified == {"a": True}
    assert mark.read_text() == f"before\nafter {result.transfer}\n"
    assert bench.target() == b"1" * MIB
    assert [event.kind for event in bench.events if event.kind != "state"] == [
        "transfer", "pass", "pass", "pass", "verified", "receipt",
    ]  # fmt: skip
    assert TransferStore(bench.state).load(result.transfer).passes[-1].kind == "final"
    # A finished transfer is not taken up again: the next run is another one, on the same slot.
    assert bench.run().transfer != result.transfer


def test_a_hook_that_fails_leaves_the_transfer_failed_and_the_source_running(bench: Bench) -> None:
    mark = bench.there.folder / "mark"
    with pytest.raises(QuietError, match="ended with 7"):
        bench.run(final=True, pre_final="exit 7", post_final=f"echo after > {mark}")
    assert mark.read_text() == "after\n"
    (status,) = api.transfers(bench.state)
    assert (status.state, status.fault and status.fault["code"]) == ("failed", "BS1602")
    assert bench.run(final=True).state == "finished"


def test_passes_that_do_not_get_short_are_given_up(bench: Bench) -> None:
    class Restless(MemorySource):
        def check(self) -> None:  # at each pass's end everything is new again
            self.write(0, bytes([self.read(0)[0] % 255 + 1]) * MIB)

        def read(self, offset: int) -> bytes:
            buffer = bytearray(1)
            self.read_into(offset, memoryview(buffer))
            return bytes(buffer)

    bench.source = Restless(MIB, "disk")
    bench.source.write(0, b"1" * MIB)
    with pytest.raises(NotConvergingError, match="do not get shorter"):
        bench.run(until_converged=1e-9)
    assert api.transfers(bench.state)[0].state == "failed"


def test_a_follower_outlives_its_receivers_absence(bench: Bench) -> None:
    def away(_seconds: float) -> None:
        if len(clock.waits) == 1:
            bench.there.serving.close()
        elif len(clock.waits) == 4:
            bench.cancel.set()

    clock = TestClock(away)
    with pytest.raises(InterruptedTransferError):
        bench.run(clock, follow=900.0)
    assert clock.waits[1:] == [60, 60, 60]
    bench.there.serving._receiver.slots.clear()


def test_one_running_transfer_a_source_and_what_can_be_asked_of_it(bench: Bench) -> None:
    def ask(_seconds: float) -> None:
        with pytest.raises(TransferRunningError):
            bench.run()
        with pytest.raises(TransferRunningError):
            api.delete_transfer("disk", bench.state)
        limits = api.limit_transfer("", {"read": 1 << 30, "nice": None}, bench.state)
        assert limits == Limits(read=1 << 30)
        (status,) = api.transfers(bench.state)
        assert status.running
        assert status.limits is not None
        assert status.limits["read"] == 1 << 30
        assert status.moments["a"]["stage"] == "done"
        assert api.stop_transfer(status.id[:8], bench.state).running

    clock = Clock()
    waited: list[float] = []

    def wait(seconds: float) -> None:
        if not waited:
            waited.append(seconds)
            ask(seconds)
        Clock.wait(clock, seconds)

    clock.wait = wait  # type: ignore[method-assign]
    with pytest.raises(InterruptedTransferError):
        bench.run(clock, follow=900.0)
    gone = api.delete_transfer("disk", bench.state)
    assert gone.state == "stopped"
    assert api.transfers(bench.state) == []
    assert not any((bench.state / "copies").glob("*/a"))


def test_what_makes_no_sense_is_refused_before_anything_is_sent(bench: Bench) -> None:
    with pytest.raises(UsageError, match="in use"):
        bench.run(follow=1.0, verify=True)
    with pytest.raises(SourceError, match="waiting times"):
        bench.run(limits=Limits(max_latency=0.02))
    assert api.transfers(bench.state) == []


def test_the_end_tells_what_was_predicted_and_what_it_took(bench: Bench) -> None:
    """The same in the result, in status and in the receipt, from the passes of another run too."""
    clock = TestClock()
    bench.run(clock)
    bench.run(clock)
    result = bench.run(clock, final=True, verify=True)
    (pause,) = result.forecasts
    assert (pause.what, pause.by, pause.number) == ("pause", "passes", 3)
    assert result.pause is not None
    assert result.pause >= pause.took > 0
    (status,) = api.transfers(bench.state)
    assert [each["took"] for each in status.forecasts] == [pause.took]
    assert status.pause == result.pause
    assert status.predicted_pause is None  # there is none to come
    info = api.verify_receipt(Path(result.receipt), state_dir=bench.state)
    assert [each["took"] for each in info.sender["forecasts"]] == [pause.took]

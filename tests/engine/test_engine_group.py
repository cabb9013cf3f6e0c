"""Several disks as one transfer: who goes where, and that each disk's state says what is true of it alone."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from blocksync import api
from blocksync.api import Cancel, DiskSpec, SendOptions
from blocksync.engine.group import Group, Member, match_slots
from blocksync.errors import (
    GroupIncompleteError,
    InterruptedTransferError,
    PeerError,
    SourceError,
    TargetRefusedError,
    TrustError,
    UsageError,
)
from blocksync.extents import Extent
from blocksync.results import Progress
from blocksync.sources.memory import MemorySource
from tests.serving import MIB, Receiver, receiver
from tests.story.story_processes import sample_disk


@pytest.fixture
def there(tmp_path: Path) -> Iterator[Receiver]:
    tmp_path.chmod(0o700)
    with receiver(tmp_path) as made:
        yield made


def options(there: Receiver, **more: object) -> SendOptions:
    wanted = {
        "to": there.to,
        "code": there.listening.code,
        "state_dir": there.folder / "sender",
        "retry_seconds": 0,
    }
    return SendOptions(**{**wanted, **more})  # type: ignore[arg-type]


def filled(source: MemorySource, content: bytes) -> MemorySource:
    source.write(0, content * source.size)
    return source


def generations(there: Receiver) -> dict[str, int]:
    stores = {name: slot.store for name, slot in there.serving._receiver.slots.items()}
    return {name: store.generation if store else 0 for name, store in stores.items()}


@pytest.mark.parametrize(
    ("named", "offered", "slots"),
    [
        ([("x", ""), ("y", "")], ["a", "b"], ["a", "b"]),
        ([("x", ""), ("y", "a")], ["a", "b"], ["b", "a"]),
        ([("x", "b"), ("y", "a")], ["a", "b", "c"], ["b", "a"]),
        ([("x", "other")], [], ["other"]),
    ],
)
def test_sources_find_their_slots(named: list[tuple[str, str]], offered: list[str], slots: list[str]) -> None:
    assert match_slots(named, offered) == slots


@pytest.mark.parametrize(
    ("named", "offered"),
    [
        ([("x", ""), ("y", "")], ["a", "b", "c"]),
        ([("x", ""), ("y", "")], ["a"]),
        ([("x", "a"), ("x", "b")], ["a", "b"]),
        ([("x", "a"), ("y", "a")], ["a", "b"]),
    ],
)
def test_what_order_does_not_tell_is_refused(named: list[tuple[str, str]], offered: list[str]) -> None:
    with pytest.raises(UsageError):
        match_slots(named, offered)
    with pytest.raises(PeerError, match="several slots: a, b"):
        match_slots([("x", "")], ["a", "b"])
    with pytest.raises(TrustError):
        match_slots([("x", "")], [])


def test_two_disks_go_as_one_transfer(there: Receiver) -> None:
    one = sample_disk(there.folder / "one.img", 4 * MIB, 1)
    two = sample_disk(there.folder / "two.img", 3 * MIB, 2)
    seen: set[str] = set()
    wanted = options(there, progress=lambda moment: seen.add(moment.slot))
    sent = api.send_disks([DiskSpec(source=str(one)), DiskSpec(source=str(two))], wanted)
    assert [(disk.source, disk.slot) for disk in sent.disks] == [(str(one), "a"), (str(two), "b")]
    assert [disk.result.generation for disk in sent.disks if disk.result] == [1, 1]
    assert (there.folder / "a.img").read_bytes() == one.read_bytes()
    assert (there.folder / "b.img").read_bytes()[: 3 * MIB] == two.read_bytes()
    assert seen == {"a", "b"}
    with open(two, "r+b") as file:
        file.write(bytes(4096))
    again = api.send_disks(
        [DiskSpec(source=str(two), slot="b"), DiskSpec(source=str(one), slot="a")], options(there)
    )
    assert [disk.result.kind for disk in again.disks if disk.result] == ["incremental", "incremental"]
    assert (there.folder / "b.img").read_bytes()[: 3 * MIB] == two.read_bytes()
    assert generations(there) == {"a": 2, "b": 2}


class Failing(MemorySource):
    """Reads fail behind the first MiB."""

    def read_into(self, offset: int, buffer: memoryview) -> None:
        if offset + len(buffer) > MIB:
            raise SourceError("cannot read it", remedy="look at the disk")
        super().read_into(offset, buffer)


class Growing(MemorySource):
    """Found out at the end of the pass not to be a view of one disk."""

    def check(self) -> None:
        raise SourceError("its snapshot overflowed")


@pytest.mark.parametrize("kind", [Failing, Growing])
def test_a_disk_that_fails_neither_advances_nor_holds_back_another(
    there: Receiver, kind: type[MemorySource]
) -> None:
    good, bad = filled(MemorySource(4 * MIB, "good"), b"g"), filled(kind(4 * MIB, "bad"), b"b")
    with contextlib.closing(there.reach(code=there.listening.code)) as reach:
        members = [Member(source=bad, slot="a"), Member(source=good, slot="b")]
        group = Group(members, lambda slot: reach.route(slot, own=True), options(there), Cancel())
        with pytest.raises(GroupIncompleteError, match="1 of 2 disks failed: bad to slot a") as failed:
            group.run()
    assert generations(there) == {"a": 0, "b": 1}
    assert failed.value.safe == "committed: good"
    bad_outcome, good_outcome = failed.value.outcomes
    assert (bad_outcome.result, bad_outcome.code) == (None, "BS0400")  # type: ignore[attr-defined]
    assert good_outcome.result.generation == 1  # type: ignore[attr-defined]
    assert (there.folder / "b.img").read_bytes() == b"g" * 4 * MIB


def test_a_group_of_one_fails_as_one(there: Receiver) -> None:
    with contextlib.closing(there.reach(code=there.listening.code)) as reach:
        big = MemorySource(8 * MIB)
        members = [Member(source=big, slot="a")]
        with pytest.raises(TargetRefusedError, match="8388608"):
            Group(members, lambda slot: reach.route(slot, own=True), options(there), Cancel()).run()


def test_cancelling_stops_all_disks(there: Receiver) -> None:
    cancel = Cancel()
    begun = threading.Barrier(2, action=cancel.set)

    class Waiting(MemorySource):
        def extents(self) -> Iterator[Extent]:
            begun.wait(30)
            return super().extents()

    with contextlib.closing(there.reach(code=there.listening.code)) as reach:
        members = [Member(source=filled(Waiting(4 * MIB, slot), b"9"), slot=slot) for slot in "ab"]
        with pytest.raises(InterruptedTransferError):
            Group(members, lambda slot: reach.route(slot, own=True), options(there), cancel).run()
    assert generations(there) == {"a": 0, "b": 0}


def test_the_disks_share_the_connections(there: Receiver) -> None:
    """All of them arrive, and the receiver never sees more connections than were asked for."""
    most = 0
    slots = there.serving._receiver.slots

    def look(_moment: Progress) -> None:
        nonlocal most
        sessions = [slot.session for slot in slots.values() if slot.session is not None]
        most = max(most, sum(session.limits.connections for session in sessions))

    disks = [filled(MemorySource(MIB, str(number)), b"x") for number in range(2)]
    with contextlib.closing(there.reach(code=there.listening.code)) as reach:
        members = [Member(source=disk, slot=slot) for disk, slot in zip(disks, "ab", strict=True)]
        wanted = options(there, connections=3, progress=look)
        Group(members, lambda slot: reach.route(slot, own=True), wanted, Cancel()).run()
    assert generations(there) == {"a": 1, "b": 1}
    assert most <= 3

"""``take``: sources for what a person named, with snapshots below them where that is wanted and possible."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from blocksync.changes.base import Tracker
from blocksync.errors import BlocksyncError, SnapshotError, UsageError
from blocksync.platforms.dialing import Watching, unwatched
from blocksync.snapshots.cleaning import clean
from blocksync.snapshots.lvm import STILL_SECONDS, Taken, Taker
from blocksync.snapshots.records import Records
from blocksync.snapshots.shadowing import shadowed, speaks_of_windows
from blocksync.snapshots.source import SnapshotSource
from blocksync.snapshots.tracking import LiveTracker, device_tracker, snapshot_tracker
from blocksync.snapshots.volumes import Volume, find_volume, installed, list_volumes
from blocksync.sources import open_source
from blocksync.sources.base import Source

MODES = ("auto", "lvm", "vss", "none")


def _nobody(_message: str) -> None:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """How snapshots are taken.

    Args:
        size: bytes of each classic snapshot; None to choose.
        track: keep what tells the next pass what changed since.
        still_seconds: how long volumes of a group may be held back at most.
        say: gets what a person should know, a line each.
        records: where this process notes what it does.
        watching: gives up a wait for a source that does not answer.
        shadows: folder of what is noted of shadow copies, which outlive a restart; None for none of them.
    """

    size: int | None = None
    track: bool = False
    still_seconds: float = STILL_SECONDS
    say: Callable[[str], None] = _nobody
    records: Records = field(default_factory=Records)
    watching: Watching = unwatched
    shadows: Path | None = None


@contextlib.contextmanager
def take(sources: Sequence[str], mode: str = "auto", wishes: Wishes | None = None) -> Iterator[list[Source]]:
    """Open sources, in their order; snapshots are of one instant where that is possible, and removed at the end.

    Args:
        sources: as a person names them.
        mode: ``auto`` takes snapshots where it can and says where it could not; ``lvm`` and ``vss`` insist on
            theirs; ``none`` reads what is there.
        wishes: how.

    Raises:
        UsageError: there is no such mode.
        SnapshotSpaceError, SnapshotError: insisted on, and cannot be taken.
        SourceError: a source cannot be opened.
    """
    wishes = wishes or Wishes()
    if mode not in MODES:
        raise UsageError(f"there is no snapshot mode {mode}", remedy=f"one of {', '.join(MODES)}")
    if mode == "vss" or (mode == "auto" and speaks_of_windows(sources)):
        with shadowed(sources, wishes.shadows, insist=mode == "vss", say=wishes.say) as opened:
            yield opened
        return
    with contextlib.ExitStack() as exits:
        volumes = _volumes_of(sources, mode)
        transfer = secrets.token_hex(4)
        taken: dict[str, Taken] = {}
        taker: Taker | None = None
        consistency = "live"
        if volumes:
            exits.enter_context(wishes.records.running(transfer))
            for done in clean(wishes.records):
                wishes.say(done)
            taker = Taker(
                transfer=transfer, records=wishes.records, size=wishes.size, still_seconds=wishes.still_seconds
            )
            consistency = _take(taker, volumes, mode, len(sources), wishes)
            exits.push(_Removal(taker, wishes.say))
            taken = {
                path: each for path, volume in volumes.items() for each in taker.taken if each.origin == volume
            }
        yield [exits.enter_context(_open(path, taken.get(path), taker, consistency, wishes)) for path in sources]


def _take(taker: Taker, volumes: dict[str, Volume], mode: str, count: int, wishes: Wishes) -> str:
    """Take the snapshots; returns what they are worth."""
    try:
        together = taker.take(list(volumes.values()))
    except SnapshotError as error:
        if mode != "auto":
            raise
        wishes.say(f"{error.message}; it is read as it is, which is not consistent while somebody writes to it")
        return "live"
    if count == 1:
        return "crash"
    if not together:
        wishes.say(
            "the system stands on several of these volumes: each is consistent in itself, not with the others"
        )
    # A disk of the transfer that no snapshot is of is of no instant at all.
    return "crash-group" if together and len(volumes) == count else "crash"


def _open(path: str, taken: Taken | None, taker: Taker | None, consistency: str, wishes: Wishes) -> Source:
    if taken is None:
        source = open_source(path, wishes.watching)
        if wishes.track and source.tracker is None:
            source.tracker = device_tracker(path) or _live_tracker(path, wishes.records)
            if source.tracker is None:
                wishes.say(f"nothing on this machine keeps track of what changes on {path}: all of it is compared")
        return source
    opened = SnapshotSource(taken, path, consistency)
    if wishes.track:
        assert taker is not None
        opened.tracker = snapshot_tracker(taken, taker)
    return opened


def _live_tracker(path: str, records: Records) -> Tracker | None:
    if not _is_device(path) or not installed():
        return None
    volume = find_volume(path, list_volumes())
    return None if volume is None else LiveTracker(volume, records)


def _volumes_of(sources: Sequence[str], mode: str) -> dict[str, Volume]:
    """The sources that are logical volumes."""
    if mode == "none":
        return {}
    devices = [path for path in sources if _is_device(path)]
    if mode == "auto" and (not devices or not installed() or os.geteuid() != 0):
        return {}
    listed = list_volumes() if devices else []
    found = {path: volume for path in devices if (volume := find_volume(path, listed)) is not None}
    if mode == "lvm" and len(found) != len(sources):
        missing = ", ".join(path for path in sources if path not in found)
        raise SnapshotError(
            f"no logical volume of this machine: {missing}", remedy="leave --snapshot out, or read it with --live"
        )
    if mode == "auto":
        # A snapshot of a snapshot cannot be taken, and need not be: it stands still by itself where nobody writes
        # to it.
        return {path: volume for path, volume in found.items() if volume.thin or not volume.snapshot}
    return found


def _is_device(path: str) -> bool:
    try:
        return stat.S_ISBLK(os.stat(path).st_mode)
    except OSError:
        return False


class _Removal:
    """Removes snapshots at the end; a failure there does not hide what went wrong before."""

    def __init__(self, taker: Taker, say: Callable[[str], None]) -> None:
        self._taker = taker
        self._say = say

    def __call__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        del kind, trace
        try:
            self._taker.remove()
        except BlocksyncError as failure:
            if error is None:
                raise
            self._say(f"{failure.message}: {failure.remedy}")
        return False

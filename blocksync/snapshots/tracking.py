"""Snapshots that are kept from one pass to the next, to tell what changed between them.

The snapshot of a pass is kept once that pass is committed; the one before it goes when the new one's token is
durable. A pass that fails removes its own, so what is kept is always of the last committed pass.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from blocksync.changes.base import Token, Tracker
from blocksync.changes.cow import changed_chunks
from blocksync.changes.era import era_tracker
from blocksync.changes.thin import changed_blocks
from blocksync.errors import ChangesUnknownError, SnapshotError
from blocksync.extents import Extent
from blocksync.platforms.tools import run_tool
from blocksync.snapshots.lvm import KEPT_TAG, Taken, Taker, remove, remove_thin, thin_tag
from blocksync.snapshots.records import Records
from blocksync.snapshots.reserving import reserved
from blocksync.snapshots.source import is_broken
from blocksync.snapshots.volumes import TAG_PREFIX, Volume, list_volumes, short_uuid

CLASSIC = "lvm-snapshot"
THIN = "lvm-thin"
KEPT = "kept"
BOOT = Path("/proc/sys/kernel/random/boot_id")


class KeptTracker(Tracker):
    """Of a volume whose snapshot is being read.

    Args:
        taken: the snapshot.
        taker: removes it, unless it is kept.
    """

    def __init__(self, taken: Taken, taker: Taker) -> None:
        self._taken = taken
        self._taker = taker
        self._records = taker.records
        self._origin = taken.origin
        self.provider = THIN if taken.origin.thin else CLASSIC

    def changed(self, token: Token) -> Iterator[Extent]:
        if (token.get("provider"), token.get("origin")) != (self.provider, self._origin.uuid):
            raise ChangesUnknownError(f"what is kept is no snapshot of {self._origin.text}")
        if self._origin.thin:
            return self._changed_thin(token)
        return self._changed_classic(token)

    def token(self) -> Token:
        made = self._keep()
        return {"provider": self.provider, "origin": self._origin.uuid, "snapshot": made}

    def settle(self) -> None:
        """Remove older kept snapshots of this volume."""
        volumes = list_volumes()
        for volume in volumes:
            if _is_kept_of(volume, self._origin) and volume.name != self._taken.name:
                remove(Taken(origin=self._origin, name=volume.name, device=volume.device))
        if self._origin.thin:
            mark = f"{TAG_PREFIX}{KEPT}-{short_uuid(self._origin.uuid)}.thin."
            for pool in (each for each in volumes if each.text == f"{self._origin.group}/{self._origin.pool}"):
                for tag in sorted(pool.tags):
                    number = tag.removeprefix(mark)
                    if tag.startswith(mark) and number.isdigit() and int(number) != self._taken.thin_id:
                        remove_thin(pool.group, pool.name, int(number))

    # -- classic ----------------------------------------------------------------------------------------------

    def _changed_classic(self, token: Token) -> Iterator[Extent]:
        kept = self._find(token)
        if is_broken(kept.device):
            raise ChangesUnknownError("the snapshot that was kept has overflowed", remedy="keep a bigger one")
        found = changed_chunks(f"/dev/mapper/{kept.device}-cow", kept.chunk, self._origin.size)
        # It may have overflowed while its table was read.
        if is_broken(kept.device):
            raise ChangesUnknownError("the snapshot that was kept has overflowed", remedy="keep a bigger one")
        return found

    def _find(self, token: Token) -> Volume:
        wanted = token.get("snapshot", "")
        for volume in list_volumes():
            if volume.uuid == wanted and _is_kept_of(volume, self._origin) and volume.number:
                return volume
        raise ChangesUnknownError(f"the snapshot of {self._origin.text} that was kept is gone or not active")

    # -- thin -------------------------------------------------------------------------------------------------

    def _changed_thin(self, token: Token) -> Iterator[Extent]:
        before = self._number_of(token.get("snapshot", ""))
        now = self._number_now()
        origin = self._origin
        with reserved(origin.group, origin.pool, self._records):
            return changed_blocks(origin.pool_metadata_device, before, now, origin.size)

    def _number_now(self) -> int:
        return self._taken.thin_id if self._taken.thin_id >= 0 else self._volume().thin_id

    def _number_of(self, wanted: str) -> int:
        for volume in list_volumes():
            if volume.uuid == wanted and _is_kept_of(volume, self._origin):
                return volume.thin_id
            pool = volume.text == f"{self._origin.group}/{self._origin.pool}"
            if pool and wanted.isdigit() and _kept_thin_tag(self._origin, int(wanted)) in volume.tags:
                return int(wanted)
        raise ChangesUnknownError(f"the snapshot of {self._origin.text} that was kept is gone")

    # -- keeping ----------------------------------------------------------------------------------------------

    def _volume(self) -> Volume:
        for volume in list_volumes(f"{self._origin.group}/{self._taken.name}"):
            return volume
        raise ChangesUnknownError(f"the snapshot of {self._origin.text} is gone")

    def _keep(self) -> str:
        """Exchange the tag that says *remove me* for the one that says *kept*; returns what names it."""
        doing = f"cannot keep the snapshot of {self._origin.text}"
        transfer = self._taker.transfer
        number = self._taken.thin_id
        if number >= 0:
            where = f"{self._origin.group}/{self._origin.pool}"
            tags = _kept_thin_tag(self._origin, number), thin_tag(transfer, number)
            named = str(number)
        else:
            volume = self._volume()
            where, named = volume.text, volume.uuid
            tags = KEPT_TAG, self._taker.tag
        try:
            run_tool(["lvchange", "-q", "--addtag", tags[0], "--deltag", tags[1], where], SnapshotError, doing)
        except SnapshotError as error:
            raise ChangesUnknownError(error.message) from error
        self._taker.keep(self._taken)
        return named


class LiveTracker(KeptTracker):
    """Of a volume that is read as it is: the final pass, in which it stands still.

    Nothing new is kept; what was kept before goes on telling more than has changed since, which is enough.
    """

    def __init__(self, origin: Volume, records: Records) -> None:
        self.provider = THIN if origin.thin else CLASSIC
        self._records = records
        self._origin = origin
        self._token: Token | None = None

    def changed(self, token: Token) -> Iterator[Extent]:
        found = super().changed(token)
        self._token = token
        return found

    def token(self) -> Token:
        if self._token is None:
            raise ChangesUnknownError("no snapshot is kept by a pass that takes none")
        return self._token

    def settle(self) -> None:
        """What was kept stays."""

    def _number_now(self) -> int:
        return self._origin.thin_id


def snapshot_tracker(taken: Taken, taker: Taker) -> Tracker:
    """The tracker of a volume whose snapshot was just taken."""
    return KeptTracker(taken, taker)


def device_tracker(path: str) -> Tracker | None:
    """The tracker of a device that keeps track by itself; None where it does not.

    Raises:
        ChangesUnknownError: it does, and cannot be asked.
    """
    from blocksync.sources.disk import DeviceSource

    try:
        number = os.stat(path).st_rdev
        at = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}")
        name = (at / "dm/name").read_text().strip()
        # Of no other activation, of this boot or another: what is begun anew counts its eras from 1 again, and what
        # is written below it while it is not active is in none.
        activation = f"{BOOT.read_text().strip()}:{(at / 'diskseq').read_text().strip()}"
    except OSError:
        return None
    with DeviceSource(path) as device:
        return era_tracker(name, f"{device.identity}:{activation}")


def _is_kept_of(volume: Volume, origin: Volume) -> bool:
    return KEPT_TAG in volume.tags and volume.group == origin.group and volume.origin == origin.name


def _kept_thin_tag(origin: Volume, number: int) -> str:
    return f"{TAG_PREFIX}{KEPT}-{short_uuid(origin.uuid)}.thin.{number}"

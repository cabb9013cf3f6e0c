"""Taking and removing snapshots of logical volumes, one or several at one instant.

Several at one instant: all origins are suspended, each snapshot is made, all are resumed. A classic snapshot is
made by ``lvcreate`` on the suspended origin. A thin one is made by messages to the pool, with numbers that LVM
never gives: ``lvcreate`` on a suspended thin origin fails and leaves LVM and the pool at odds about their
transaction (seen with lvm2 2.03.16). What is made that way is noted beforehand as a tag of the pool, which
outlives a crash and a reboot.

A volume that the running system stands on is not suspended by us: loading the next program would wait for it. LVM
snapshots it by itself, with its memory locked, while the others are held: that is still one instant for whoever
writes in order to several of them, since nothing that came after a write to a held volume can be in its snapshot.
With two such volumes it is not.
"""

from __future__ import annotations

import os
import secrets
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from blocksync.errors import SnapshotError, SnapshotSpaceError
from blocksync.platforms import below, devicemapper, swaps
from blocksync.platforms.tools import run_tool
from blocksync.snapshots.holding import Hold
from blocksync.snapshots.records import Records
from blocksync.snapshots.sizing import Origin, divide
from blocksync.snapshots.volumes import TAG_PREFIX, Volume, device_name, list_volumes

NAME_PREFIX = "blocksync_"
KEPT_TAG = f"{TAG_PREFIX}kept"
MEASURE_SECONDS = 1.0
STILL_SECONDS = 30.0
# LVM counts its thin numbers from 1; these are of the upper end of the 24 bits.
FIRST_THIN_ID = 16_000_000
MOST_THIN_IDS = 700_000
_THIN_DEVICE = "blocksync-"
_REMOVE_TRIES = 5
_SECTOR_BYTES = 512
_SYSTEM_PATHS = ("/", "/usr", "/usr/sbin", "/etc", "/run", "/var", "/tmp", "/dev")  # noqa: S108 - looked at only


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """A snapshot that stands.

    Args:
        origin: what it is of.
        name: LVM's; empty for one that LVM does not know.
        device: device-mapper's name.
        thin_id: its number in the pool, for one that LVM does not know; -1 for others.
    """

    origin: Volume
    name: str
    device: str
    thin_id: int = -1

    @property
    def path(self) -> str:
        return f"/dev/mapper/{self.device}"


@dataclass(slots=True)
class Taker:
    """Takes the snapshots of one transfer.

    Args:
        transfer: part of their tags.
        records: what this process does is noted there already.
        size: bytes of each classic snapshot; None to choose.
        still_seconds: how long volumes may be held back at most.
        pause: waits between two looks at the counters.
    """

    transfer: str
    records: Records
    size: int | None = None
    still_seconds: float = STILL_SECONDS
    pause: Callable[[float], None] = time.sleep
    taken: list[Taken] = field(default_factory=list)

    @property
    def tag(self) -> str:
        return f"{TAG_PREFIX}{self.transfer}"

    def take(self, origins: Sequence[Volume]) -> bool:
        """Take a snapshot of each; on an error none is left.

        Returns:
            whether all are of one instant.

        Raises:
            SnapshotSpaceError: there is no room for them.
            SnapshotError: LVM refuses.
        """
        for origin in origins:
            if not origin.number:
                raise SnapshotError(f"the volume {origin.text} is not active", remedy=f"lvchange -ay {origin.text}")
            if origin.snapshot and not origin.thin:
                raise SnapshotError(
                    f"{origin.text} is a snapshot itself", remedy="read it as it is with --live, or name its origin"
                )
        sizes = self._sizes(origins)
        try:
            if len(origins) == 1:
                self._create(origins[0], sizes.get(origins[0].text))
                return True
            return self._take_group(origins, sizes)
        except BaseException:
            self.remove()
            raise

    def remove(self) -> None:
        """Remove what was taken and is not kept.

        Raises:
            SnapshotError: something could not be removed; the rest is.
        """
        failed: SnapshotError | None = None
        while self.taken:
            try:
                remove(self.taken.pop())
            except SnapshotError as error:
                failed = failed or error
        if failed is not None:
            raise failed

    def keep(self, taken: Taken) -> None:
        """Leave a snapshot standing when this transfer ends."""
        self.taken.remove(taken)

    def _take_group(self, origins: Sequence[Volume], sizes: dict[str, int]) -> bool:
        standing = [origin for origin in origins if _system_stands_on(origin)]
        if len(standing) > 1:
            for origin in origins:
                self._create(origin, sizes.get(origin.text))
            return False
        held = [origin for origin in origins if origin not in standing]
        numbers = {origin.text: self._announce_thin(origin) for origin in held if origin.thin}
        with Hold(self.transfer, self.records, seconds=self.still_seconds) as hold:
            for origin in held:
                hold.suspend(origin.device)
            for origin in origins:
                if origin.text in numbers:
                    self._message_snapshot(origin, numbers[origin.text])
                else:
                    self._create(origin, sizes.get(origin.text))
            hold.check()
        for origin in held:
            if origin.thin:
                self._map_thin(origin, numbers[origin.text])
        return True

    # -- by LVM -----------------------------------------------------------------------------------------------

    def _create(self, origin: Volume, size: int | None) -> None:
        name = f"{NAME_PREFIX}{secrets.token_hex(4)}"
        device = device_name(origin.group, name)
        more = ["-kn", "-ay"] if origin.thin else ["-L", f"{size}b"]
        words = ["lvcreate", "-q", "-A", "n", "-s", "-n", name, "--addtag", self.tag, *more, origin.text]
        # Noted first: an lvcreate that fails late may have left something.
        self.taken.append(Taken(origin=origin, name=name, device=device))
        run_tool(words, SnapshotError, f"cannot take a snapshot of {origin.text}")

    # -- by messages ------------------------------------------------------------------------------------------

    def _announce_thin(self, origin: Volume) -> int:
        number = FIRST_THIN_ID + secrets.randbelow(MOST_THIN_IDS)
        tag = thin_tag(self.transfer, number)
        words = ["lvchange", "-q", "--addtag", tag, f"{origin.group}/{origin.pool}"]
        run_tool(words, SnapshotError, f"cannot note a snapshot of {origin.text}")
        self.taken.append(Taken(origin=origin, name="", device=thin_device(self.transfer, number), thin_id=number))
        return number

    @staticmethod
    def _message_snapshot(origin: Volume, number: int) -> None:
        message(origin, f"create_snap {number} {origin.thin_id}", f"cannot take a snapshot of {origin.text}")

    def _map_thin(self, origin: Volume, number: int) -> None:
        table = f"0 {origin.size // _SECTOR_BYTES} thin /dev/mapper/{origin.pool_device} {number}"
        words = ["dmsetup", "create", thin_device(self.transfer, number), "--readonly", "--table", table]
        run_tool(words, SnapshotError, f"cannot open the snapshot of {origin.text}")

    # -- size -------------------------------------------------------------------------------------------------

    def _sizes(self, origins: Sequence[Volume]) -> dict[str, int]:
        classic = [origin for origin in origins if not origin.thin]
        if not classic:
            return {}
        if self.size is not None:
            return {origin.text: -(-self.size // origin.extent) * origin.extent for origin in classic}
        rates = measure(classic, self.pause)
        sizes: dict[str, int] = {}
        for group in sorted({origin.group for origin in classic}):
            members = [origin for origin in classic if origin.group == group]
            free, unit = members[0].free, members[0].extent
            facts = [Origin(size=each.size, written_a_second=rates[each.text]) for each in members]
            divided = divide(facts, free, unit)
            if divided is None:
                raise SnapshotSpaceError(
                    f"the volume group {group} has {free >> 20} MiB free, too little for {len(members)} snapshots"
                )
            sizes.update({each.text: size for each, size in zip(members, divided, strict=True)})
        return sizes


def measure(volumes: Sequence[Volume], pause: Callable[[float], None]) -> dict[str, float]:
    """Bytes a second that are being written to each volume now."""
    before = {volume.text: _written(volume) for volume in volumes}
    began = time.monotonic()
    pause(MEASURE_SECONDS)
    seconds = max(time.monotonic() - began, MEASURE_SECONDS)
    return {volume.text: max(0, _written(volume) - before[volume.text]) / seconds for volume in volumes}


def _written(volume: Volume) -> int:
    at = Path(f"/sys/dev/block/{os.major(volume.number)}:{os.minor(volume.number)}/stat")
    try:
        return int(at.read_text().split()[6]) * _SECTOR_BYTES
    except (OSError, IndexError, ValueError):
        return 0


def _system_stands_on(volume: Volume) -> bool:
    """Whether the running system or this program lies on a volume, directly or with something stacked between."""
    paths = (*_SYSTEM_PATHS, sys.prefix, sys.executable, os.path.dirname(os.path.abspath(__file__)), os.getcwd())
    devices = {devicemapper.device_holding(path) for path in paths}
    devices.update(swap.st_rdev or swap.st_dev for swap in swaps())
    return any(volume.number in below(device) for device in devices if device)


def thin_tag(transfer: str, number: int) -> str:
    """The pool's tag that says: this number is ours."""
    return f"{TAG_PREFIX}{transfer}.thin.{number}"


def thin_device(transfer: str, number: int) -> str:
    return f"{_THIN_DEVICE}{transfer}-{number}"


def message(origin: Volume, text: str, doing: str) -> None:
    """Send a message to the pool of a thin volume.

    Raises:
        SnapshotError: the pool refuses.
    """
    run_tool(["dmsetup", "message", origin.pool_device, "0", text], SnapshotError, doing)


def remove(taken: Taken) -> None:
    """Remove a snapshot; fine where it is not there.

    Raises:
        SnapshotError: it is still there.
    """
    doing = f"cannot remove the snapshot of {taken.origin.text}"
    if taken.thin_id >= 0:
        remove_thin(taken.origin.group, taken.origin.pool, taken.thin_id)
        return
    name = f"{taken.origin.group}/{taken.name}"
    words = ["lvremove", "-q", "-f", "-A", "n", name]
    for attempt in range(_REMOVE_TRIES):
        said = run_tool(words, SnapshotError, doing, check=False)
        if not said.code or "Failed to find logical volume" in said.words:
            return
        time.sleep(0.2 * attempt)  # udev may be looking at it
    raise SnapshotError(f"{doing}: {said.words}", remedy=f"blocksync check --clean, or lvremove {name}")


def remove_thin(group: str, pool: str, number: int) -> None:
    """Remove a snapshot that LVM does not know: its device, its number in the pool, the pool's tag.

    Raises:
        SnapshotError: it is still there; its tag then stays too.
    """
    doing = f"cannot remove the snapshot {number} of the pool {group}/{pool}"
    pool_device = f"{device_name(group, pool)}-tpool"
    for device in _mapped(pool_device, number, doing):
        for attempt in range(_REMOVE_TRIES):
            said = run_tool(["dmsetup", "remove", device], SnapshotError, doing, check=False)
            if not said.code or "No such device" in said.words:
                break
            time.sleep(0.2 * attempt)
        else:
            raise SnapshotError(f"{doing}: {said.words}", remedy="blocksync check --clean")
    said = run_tool(["dmsetup", "message", pool_device, "0", f"delete {number}"], SnapshotError, doing, check=False)
    if said.code and "No data available" not in said.words:
        raise SnapshotError(f"{doing}: {said.words}", remedy="activate the pool, then blocksync check --clean")
    for volume in list_volumes(f"{group}/{pool}"):
        for tag in volume.tags:
            if tag.startswith(TAG_PREFIX) and tag.endswith(f".thin.{number}"):
                run_tool(["lvchange", "-q", "--deltag", tag, volume.text], SnapshotError, doing)


def _mapped(pool_device: str, number: int, doing: str) -> list[str]:
    """Our devices over a number of a pool, whatever transfer took it: one that is kept still has that one's name."""
    words = ["dmsetup", "info", "-c", "--noheadings", "-o", "major,minor", pool_device]
    pool = run_tool(words, SnapshotError, doing, check=False)
    if pool.code:
        return []
    said = run_tool(["dmsetup", "table", "--target", "thin"], SnapshotError, doing)
    wanted = ["thin", pool.output.strip(), str(number)]
    # NAME: 0 SECTORS thin POOL NUMBER
    lines = [line.split() for line in said.output.splitlines()]
    return [line[0].removesuffix(":") for line in lines if line[3:6] == wanted and line[0].startswith(_THIN_DEVICE)]

"""Finding and undoing what a process that died has left: suspended devices, frozen filesystems, snapshots."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping

from blocksync.errors import SnapshotError, from_os_error
from blocksync.platforms import devicemapper
from blocksync.snapshots.lvm import KEPT_TAG, NAME_PREFIX, Taken, remove, remove_thin
from blocksync.snapshots.records import Records
from blocksync.snapshots.reserving import METADATA_TAG, release_left
from blocksync.snapshots.volumes import TAG_PREFIX, Volume, installed, list_volumes, short_uuid

_THIN_TAG = re.compile(rf"{re.escape(TAG_PREFIX)}([0-9a-z-]+)\.thin\.([0-9]+)")
KEPT = "kept"


def clean(records: Records | None = None, *, kept: bool = False) -> list[str]:
    """Undo what is left of transfers whose process is gone; what runs is left alone.

    Args:
        records: where processes note what they do.
        kept: also remove the snapshots that are kept for the next pass; it will then compare everything.

    Returns:
        what was done, a line each.

    Raises:
        SnapshotError: something could not be undone; the rest is.
    """
    records = records or Records()
    done: list[str] = []
    failures: list[SnapshotError] = []
    # First of all what makes others wait: LVM's own commands may be among them.
    for record in records.all():
        if not record.alive:
            done.extend(_release(record.suspended, record.frozen, failures))
            records.remove(record.transfer)
    if installed():
        alive = {record.transfer for record in records.all() if record.alive}
        for volume in list_volumes():
            done.extend(_clean_volume(volume, alive, failures, kept=kept))
            done.extend(_clean_metadata(volume, records, failures))
    if failures:
        raise failures[0]
    return done


def _release(suspended: tuple[str, ...], frozen: tuple[str, ...], failures: list[SnapshotError]) -> list[str]:
    done = []
    for point in frozen:
        with contextlib.suppress(FileNotFoundError):
            try:
                devicemapper.thaw(point)
                done.append(f"thawed the filesystem at {point}")
            except FileNotFoundError:
                raise
            except OSError as error:
                failures.append(SnapshotError(f"cannot thaw {point}: {error.strerror}"))
    for name in suspended:
        try:
            if devicemapper.is_suspended(name):
                devicemapper.resume(name)
                done.append(f"resumed the suspended device {name}")
        except OSError as error:
            told = from_os_error(error, SnapshotError, f"cannot resume {name}")
            failures.append(SnapshotError(told.message, remedy=f"dmsetup resume {name}"))
    return done


def _clean_volume(volume: Volume, alive: set[str], failures: list[SnapshotError], *, kept: bool) -> list[str]:
    done = []
    ours = {tag for tag in volume.tags if tag.startswith(TAG_PREFIX)}
    for tag in sorted(ours):
        thin = _THIN_TAG.fullmatch(tag)
        transfer = thin[1] if thin else tag.removeprefix(TAG_PREFIX)
        if transfer in alive or (_says_kept(transfer) and not kept) or tag == METADATA_TAG:
            continue
        try:
            if thin:
                remove_thin(volume.group, volume.name, int(thin[2]))
                done.append(f"removed the snapshot {thin[2]} of the pool {volume.text}")
            elif _made_by_us(volume) and (KEPT_TAG not in ours or kept):
                remove(Taken(origin=volume, name=volume.name, device=volume.device))
                done.append(f"removed the snapshot {volume.text}")
                break
        except SnapshotError as error:
            failures.append(error)
    return done


def _clean_metadata(volume: Volume, records: Records, failures: list[SnapshotError]) -> list[str]:
    try:
        if release_left(volume, records):
            return [f"released the metadata snapshot of the pool {volume.text}"]
    except SnapshotError as error:
        failures.append(error)
    return []


def _made_by_us(volume: Volume) -> bool:
    """A tag alone does not make a volume ours to remove: anybody can write one."""
    return volume.snapshot and volume.name.startswith(NAME_PREFIX)


def _says_kept(transfer: str) -> bool:
    """The place of the transfer's name in a tag is taken by this word; names are hexadecimal, so none is like it."""
    return transfer == KEPT or transfer.startswith(f"{KEPT}-")


def drop_kept(token: Mapping[str, str]) -> None:
    """Remove the snapshot that a tracker's token names; nothing where it names none, or where that is gone.

    Raises:
        SnapshotError: it is still there.
    """
    wanted, origin = token.get("snapshot", ""), token.get("origin", "")
    if not wanted or not installed():
        return
    mark = f"{KEPT}-{short_uuid(origin)}"
    for volume in list_volumes():
        if volume.uuid == wanted and KEPT_TAG in volume.tags and _made_by_us(volume):
            remove(Taken(origin=volume, name=volume.name, device=volume.device))
        for tag in volume.tags:
            thin = _THIN_TAG.fullmatch(tag)
            if thin is not None and (thin[1], thin[2]) == (mark, wanted):
                remove_thin(volume.group, volume.name, int(wanted))


def kept_snapshots() -> list[str]:
    """What is kept for next passes, for people."""
    if not installed():
        return []
    found = []
    for volume in list_volumes():
        if KEPT_TAG in volume.tags:
            found.append(volume.text)
        found.extend(
            f"{volume.text} (thin number {thin[2]})"
            for tag in sorted(volume.tags)
            if (thin := _THIN_TAG.fullmatch(tag)) and _says_kept(thin[1])
        )
    return found

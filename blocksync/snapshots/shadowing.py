"""Disks and volumes of Windows read through shadow copies of one set.

A disk is put together: volumes from their copies, the rest (tables, gaps, the EFI partition, which VSS cannot copy)
from the disk itself.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from blocksync.errors import ShadowCopyError, SnapshotError
from blocksync.platforms import shadowtools, windows
from blocksync.platforms.windows import WindowsCalls
from blocksync.snapshots.vss import ShadowCopy, Shadows, ShadowSet
from blocksync.sources import open_source
from blocksync.sources.base import Source
from blocksync.sources.windows import (
    ShadowedDisk,
    WindowsSource,
    WindowsVolume,
    device_path,
    disk_number,
    is_windows_device,
    volumes_of,
)

SHADOWS_FOLDER = "shadows"
"""In the state folder."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """Of one source: the volumes to copy, and what of it stays as it is, for people."""

    volumes: tuple[WindowsVolume, ...] = ()
    spanned: tuple[str, ...] = ()
    plain: tuple[str, ...] = ()


def speaks_of_windows(sources: Sequence[str]) -> bool:
    """Whether one of them is a device of Windows."""
    return any(_is_device(path) for path in sources)


def clean_shadows(folder: Path) -> list[str]:
    """Remove the shadow copies that processes which died have left; what was done, a line each.

    Raises:
        ShadowCopyError: one cannot be removed.
    """
    return Shadows(shadowtools.system_tools(), folder).clean() if folder.is_dir() else []


@contextlib.contextmanager
def shadowed(
    sources: Sequence[str], folder: Path | None, *, insist: bool, say: Callable[[str], None]
) -> Iterator[list[Source]]:
    """Open sources, in their order, with shadow copies below those that can have one.

    Args:
        sources: as a person names them.
        folder: for records; None where nothing is noted, and so no copy made.
        insist: each of them must have one.
        say: gets what a person should know.

    Raises:
        ShadowCopyError, SnapshotSpaceError: insisted on, and cannot be made.
        SourceError: a source cannot be opened.
    """
    with contextlib.ExitStack() as exits:
        calls, plans, taken = None, {path: _Plan() for path in sources}, ShadowSet((), "live")
        try:
            calls = _calls()
            plans = _plans(sources, volumes_of(calls), insist=insist)
            wanted = list(dict.fromkeys(volume.name for plan in plans.values() for volume in plan.volumes))
            if wanted and folder is not None:
                shadows = Shadows(shadowtools.system_tools(), folder, say=say)
                taken = exits.enter_context(shadows.taken(wanted, secrets.token_hex(4)))
        except SnapshotError as error:
            if insist:
                raise
            if calls is not None:
                say(f"{error.message}; it is read as it is, which is not consistent while somebody writes to it")
        consistency = taken.consistency
        if consistency == "crash-group" and not all(plan.volumes for plan in plans.values()):
            consistency = "crash"
        for note in taken.notes:
            say(note)
        copies = {copy.volume.lower(): copy for copy in taken.copies}
        opened: list[Source] = []
        for path in sources:
            if not copies or calls is None or not plans[path].volumes:
                opened.append(exits.enter_context(open_source(path)))
                continue
            for name in (*plans[path].spanned, *plans[path].plain):
                say(f"{name} on {path} has no shadow copy and is read as it is")
            opened.append(exits.enter_context(_composed(calls, path, plans[path], copies, consistency)))
        yield opened


def _calls() -> WindowsCalls:
    try:
        return windows.system_calls()
    except OSError as error:
        raise ShadowCopyError(
            "only a machine that runs Windows has shadow copies", remedy="leave --snapshot vss out"
        ) from error


def _is_device(path: str) -> bool:
    return is_windows_device(path) and not os.path.exists(path)


def _plans(sources: Sequence[str], volumes: Sequence[WindowsVolume], *, insist: bool) -> dict[str, _Plan]:
    plans = {path: _plan(path, volumes) for path in sources}
    if insist:
        for path, plan in plans.items():
            if plan.spanned:
                names = ", ".join(plan.spanned)
                raise ShadowCopyError(
                    f"{names} lies on more than the disk {path}",
                    remedy=f"send the volume by its name: {plan.spanned[0]}",
                )
            if not plan.volumes:
                raise ShadowCopyError(
                    f"{path} has no volume that VSS makes shadow copies of", remedy="leave --snapshot vss out"
                )
    return plans


def _plan(path: str, volumes: Sequence[WindowsVolume]) -> _Plan:
    if not _is_device(path):
        return _Plan()
    number = disk_number(path)
    if number is None:
        wanted = device_path(path).lower()
        found = [
            volume
            for volume in volumes
            if wanted in {device_path(name).lower() for name in (volume.name, *volume.points)} and volume.kind
        ]
        return _Plan(tuple(found[:1]))
    here = [volume for volume in volumes if any(extent.disk == number for extent in volume.extents)]
    whole = [volume for volume in here if volume.kind and len(volume.extents) == 1]
    return _Plan(
        tuple(sorted(whole, key=lambda volume: volume.extents[0].offset)),
        tuple(volume.text for volume in here if volume.kind and len(volume.extents) > 1),
        tuple(volume.text for volume in here if not volume.kind),
    )


def _composed(
    calls: WindowsCalls, path: str, plan: _Plan, copies: dict[str, ShadowCopy], consistency: str
) -> Source:
    if disk_number(path) is None:
        copy = copies[plan.volumes[0].name.lower()]
        # The same disk to its receiver, whether it is read with a copy or without.
        identity = f"windows:{device_path(path).lower()}"
        return WindowsSource(copy.device, calls, name=path, identity=identity, consistency=consistency)
    with contextlib.ExitStack() as exits:
        disk = exits.enter_context(WindowsSource(path, calls))
        parts = []
        for volume in plan.volumes:
            copy, place = copies[volume.name.lower()], volume.extents[0]
            shadow = exits.enter_context(WindowsSource(copy.device, calls))
            parts.append((place.offset, place.length, shadow))
        composed = ShadowedDisk(disk, parts, consistency)
        exits.pop_all()
    return composed

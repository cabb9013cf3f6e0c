"""The sources of a flatten: some disks, their layout, and each piece of them that goes to a partition."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from blocksync.extents import Extent
from blocksync.flatten.aliases import mapper_name
from blocksync.flatten.placing import flattened_volumes
from blocksync.flatten.plan import Copy, Plan, make_plan
from blocksync.flatten.refusals import Wishes
from blocksync.sources import open_source
from blocksync.sources.base import Source
from blocksync.sources.volume import VolumeSource
from blocksync.volumes.layout import Layout, read_layout
from blocksync.volumes.reader import SourceReader

Taking = Callable[[Sequence[str]], AbstractContextManager[list[Source]]]
"""Opens devices by their paths, in their order."""

_LINK_FOLDERS = ("/dev/disk/by-id", "/dev/disk/by-path")


def layout_of(disks: Sequence[Source]) -> Layout:
    """The layout of open disks."""
    return read_layout([(disk.name, SourceReader(disk)) for disk in disks])


def plan_for(
    disks: Sequence[Source], wishes: Wishes, *, target_bytes: Sequence[int] = (), target_sector_bytes: int = 512
) -> Plan:
    """The plan for open disks; a device of this machine tells its own names.

    Raises:
        FlattenRefusedError: see :func:`~blocksync.flatten.plan.make_plan`.
    """
    layout = layout_of(disks)
    names = wishes.names
    if not names and all(disk.name.startswith("/dev/") for disk in disks):
        names = tuple(device_names(disk.name) for disk in disks)
    numbers = wishes.numbers or (running_numbers(layout) if names else {})
    wanted = dataclasses.replace(wishes, names=names, numbers=numbers)
    return make_plan(layout, wanted, target_bytes=target_bytes, target_sector_bytes=target_sector_bytes)


def device_names(path: str) -> tuple[str, ...]:
    """All that this system calls a device."""
    real = os.path.realpath(path)
    names = {path, real}
    for folder in _LINK_FOLDERS:
        if os.path.isdir(folder):
            links = (os.path.join(folder, name) for name in os.listdir(folder))
            names |= {link for link in links if os.path.realpath(link) == real}
    return tuple(sorted(names))


def running_numbers(layout: Layout, folder: str = "/dev/mapper", root: str = "/") -> dict[str, int]:
    """What the running system calls each volume as ``/dev/dm-N``, by ``VG/LV``.

    Numbers are given out anew at each boot. They mean the same in a system's configuration only where that system is
    the one that runs: nothing is told unless its root is one of the volumes.
    """
    found: dict[str, int] = {}
    for volume in flattened_volumes(layout):
        with contextlib.suppress(OSError):
            info = os.stat(os.path.join(folder, mapper_name(volume.group, volume.name)))
            if stat.S_ISBLK(info.st_mode):
                found[volume.path] = info.st_rdev
    if os.stat(root).st_dev not in found.values():
        return {}
    return {path: os.minor(device) for path, device in found.items()}


def is_live(copy: Copy) -> str:
    """The device of a volume that is active on this machine; empty where it is not."""
    path = f"/dev/mapper/{mapper_name(copy.group, copy.volume)}" if copy.volume else ""
    return path if path and Path(path).exists() else ""


@contextlib.contextmanager
def pieces(
    disks: Sequence[Source], plan: Plan, taking: Taking | None = None
) -> Iterator[list[tuple[int, Copy, Source]]]:
    """Each piece as a source of its own, with the index of its target.

    Args:
        disks: open; they stay the caller's, and stay open until this ends.
        taking: opens the devices of volumes that are active here, snapshots of one instant or as they are; the
            latter when left out.
    """
    on_devices = all(disk.name.startswith("/dev/") for disk in disks)
    active = [(index, copy) for index, copy in plan.placed() if on_devices and is_live(copy)]
    with contextlib.ExitStack() as exits:
        opened = exits.enter_context((taking or _as_they_are)([is_live(copy) for _, copy in active]))
        live = {(index, copy.to): source for (index, copy), source in zip(active, opened, strict=True)}
        found: list[tuple[int, Copy, Source]] = []
        for index, copy in plan.placed():
            source = live.get((index, copy.to))
            if source is None and copy.disk is not None and not copy.partition:
                source = disks[copy.disk]
            elif source is None:
                below = disks if copy.volume else [disks[copy.disk or 0]]
                place = f"{copy.group}/{copy.volume}" if copy.volume else str(copy.partition)
                source = VolumeSource(_borrowed(below), place)
                exits.callback(source.close)
            found.append((index, copy, source))
        yield found


@contextlib.contextmanager
def _as_they_are(paths: Sequence[str]) -> Iterator[list[Source]]:
    with contextlib.ExitStack() as exits:
        yield [exits.enter_context(open_source(path)) for path in paths]


def _borrowed(disks: Sequence[Source]) -> list[Source]:
    """The disks, such that closing a piece does not close them."""
    return [_Borrowed(disk) for disk in disks]


class _Borrowed(Source):
    """A source that is open elsewhere, where it is closed too."""

    def __init__(self, lender: Source) -> None:
        self._lender = lender
        self.name, self.identity, self.size = lender.name, lender.identity, lender.size
        self.sector_bytes, self.capabilities = lender.sector_bytes, lender.capabilities
        self.told = lender.told

    def extents(self) -> Iterator[Extent]:
        return self._lender.extents()

    def extents_within(self, first: int, stop: int) -> Iterator[Extent]:
        return self._lender.extents_within(first, stop)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self._lender.read_into(offset, buffer)

    def check(self) -> None:
        self._lender.check()

    def in_use(self) -> str:
        return self._lender.in_use()

    def unreadable(self) -> tuple[tuple[int, int], ...]:
        return self._lender.unreadable()

    def close(self) -> None:
        """The lender closes it."""

"""The sources of a flatten: some disks, their layout, and each piece of them that goes to a partition."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from blocksync.extents import Extent
from blocksync.flatten.aliases import mapper_name
from blocksync.flatten.plan import Copy, Plan, make_plan
from blocksync.flatten.refusals import Wishes
from blocksync.sources import open_source
from blocksync.sources.base import Source
from blocksync.sources.volume import VolumeSource
from blocksync.volumes.layout import Layout, read_layout
from blocksync.volumes.reader import SourceReader

_LINK_FOLDERS = ("/dev/disk/by-id", "/dev/disk/by-path")


def layout_of(disks: Sequence[Source]) -> Layout:
    """The layout of open disks."""
    return read_layout([(disk.name, SourceReader(disk)) for disk in disks])


def plan_for(
    disks: Sequence[Source], wishes: Wishes, *, target_bytes: int | None = None, target_sector_bytes: int = 512
) -> Plan:
    """The plan for open disks; a device of this machine tells its own names.

    Raises:
        FlattenRefusedError: see :func:`~blocksync.flatten.plan.make_plan`.
    """
    layout = layout_of(disks)
    names = wishes.names
    if not names and all(disk.name.startswith("/dev/") for disk in disks):
        names = tuple(device_names(disk.name) for disk in disks)
    wanted = Wishes(table=wishes.table, grow=wishes.grow, encrypted=wishes.encrypted, names=names)
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


def is_live(copy: Copy) -> str:
    """The device of a volume that is active on this machine; empty where it is not."""
    path = f"/dev/mapper/{mapper_name(copy.group, copy.volume)}" if copy.volume else ""
    return path if path and Path(path).exists() else ""


@contextlib.contextmanager
def pieces(disks: Sequence[Source], plan: Plan) -> Iterator[list[tuple[Copy, Source]]]:
    """Each piece as a source of its own.

    Args:
        disks: open; they stay the caller's, and stay open until this ends.
    """
    found: list[tuple[Copy, Source]] = []
    try:
        for copy in plan.copies:
            live = is_live(copy) if all(disk.name.startswith("/dev/") for disk in disks) else ""
            if live:
                found.append((copy, open_source(live)))
            elif copy.volume:
                found.append((copy, VolumeSource(_borrowed(disks), f"{copy.group}/{copy.volume}")))
            elif copy.partition:
                found.append((copy, VolumeSource(_borrowed([disks[copy.disk or 0]]), str(copy.partition))))
            else:
                found.append((copy, disks[copy.disk or 0]))
        yield found
    finally:
        for _, source in found:
            if source not in disks:
                source.close()


def _borrowed(disks: Sequence[Source]) -> list[Source]:
    """The disks, such that closing a piece does not close them."""
    return [_Borrowed(disk) for disk in disks]


class _Borrowed(Source):
    """A source that is open elsewhere, where it is closed too."""

    def __init__(self, lender: Source) -> None:
        self._lender = lender
        self.name, self.identity, self.size = lender.name, lender.identity, lender.size
        self.sector_bytes, self.capabilities = lender.sector_bytes, lender.capabilities

    def extents(self) -> Iterator[Extent]:
        return self._lender.extents()

    def extents_within(self, first: int, stop: int) -> Iterator[Extent]:
        return self._lender.extents_within(first, stop)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self._lender.read_into(offset, buffer)

    def check(self) -> None:
        self._lender.check()

    def unreadable(self) -> tuple[tuple[int, int], ...]:
        return self._lender.unreadable()

    def close(self) -> None:
        """The lender closes it."""

"""``blocksync inspect``."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from blocksync.cli.flattening import growth, places, plan_lines, plan_options
from blocksync.cli.parameters import common
from blocksync.cli.quantities import show_size
from blocksync.cli.session import Session
from blocksync.errors import UsageError
from blocksync.options import FlattenOptions

if TYPE_CHECKING:
    from blocksync.volumes.layout import Disk, Filesystem, Group, Layout, Partition, Volume


@click.command()
@click.argument("disks", nargs=-1, required=True, metavar="DISK…")
@click.option("--flatten", is_flag=True, help="Show what flatten would make of them.")
@click.option(
    "--targets",
    type=click.IntRange(1),
    default=None,
    metavar="NUMBER",
    help="With --flatten: how many there will be.",
)
@plan_options
@common(state=False)
def inspect(
    session: Session,
    disks: tuple[str, ...],
    flatten: bool,
    targets: int | None,
    table: str | None,
    grow: tuple[str, ...],
    place: tuple[str, ...],
    encrypted: tuple[str, ...],
) -> int:
    """Show what is on disks or disk images: partitions, LVM, filesystems, and how much of them is used.

    Name all disks of a volume group together. Nothing is written, nothing is mounted. --targets, --place, --table,
    --grow and --encrypted are for --flatten.
    """
    from blocksync import api

    if flatten:
        options = FlattenOptions(table=table or "", grow=growth(grow), encrypted=encrypted, place=places(place))
        plan = api.plan_flatten(disks, options, targets=targets)
        session.output.result({"command": "inspect", "flatten": dataclasses.asdict(plan)}, *plan_lines(plan))
        return 0
    if targets or place or table or grow or encrypted:
        raise UsageError("--targets, --place, --table, --grow and --encrypted go with --flatten")
    layout = api.inspect(disks)
    session.output.result({"command": "inspect", **dataclasses.asdict(layout)}, *lines(layout))
    return 0


def lines(layout: Layout) -> list[str]:
    """The tree in words, one line an entry."""
    shown: list[str] = []
    for disk in layout.disks:
        shown += _disk(disk, layout)
    for group in layout.groups:
        shown += _group(group)
    shown += [f"note: {note}" for note in layout.notes]
    return shown


def _disk(disk: Disk, layout: Layout) -> Iterator[str]:
    what = [disk.table.upper()] if disk.table else []
    if disk.physical:
        what.append(_member(disk.physical, layout))
    if disk.filesystem is not None:
        what.append(_filesystem(disk.filesystem, disk.size) + (" (a leftover?)" if disk.table else ""))
    yield f"{disk.name}  {show_size(disk.size)}  {', '.join(what) or 'nothing recognised'}"
    for partition in disk.partitions:
        yield f"  #{partition.number}  {_partition(partition, layout)}"
    for note in disk.notes:
        yield f"  note: {note}"


def _partition(partition: Partition, layout: Layout) -> str:
    if partition.container:
        what = "extended"
    elif partition.physical:
        what = _member(partition.physical, layout)
    elif partition.filesystem is not None:
        what = _filesystem(partition.filesystem, partition.size)
    else:
        what = f"nothing recognised (type {partition.type_id})"
    name = f'  "{partition.name}"' if partition.name else ""
    return f"{show_size(partition.size)}  {what}{name}{'  bootable' if partition.bootable else ''}"


def _member(uuid: str, layout: Layout) -> str:
    for group in layout.groups:
        if any(physical.uuid == uuid and physical.disk is not None for physical in group.physicals):
            return f"LVM, volume group {group.name}"
    return "LVM, in no volume group"


def _group(group: Group) -> Iterator[str]:
    missing = sum(physical.disk is None for physical in group.physicals)
    state = ", exported" if group.exported else ""
    state += f", {missing} of {len(group.physicals)} physical volumes missing" if missing else ""
    yield f"{group.name}  volume group, extents of {show_size(group.extent_bytes)}{state}"
    for volume in group.volumes:
        if volume.visible:
            yield f"  #{volume.path}  {_volume(volume)}"
    for note in group.notes:
        yield f"  note: {note}"


def _volume(volume: Volume) -> str:
    origin = f" of {volume.origin}" if volume.origin else ""
    if volume.refusal:
        what = f"cannot be read ({volume.code}): {volume.refusal}"
    elif volume.filesystem is not None:
        what = _filesystem(volume.filesystem, volume.size)
    else:
        what = "nothing recognised"
    return f"{show_size(volume.size)}  {volume.type}{origin}  {what}"


def _filesystem(found: Filesystem, room: int) -> str:
    parts = [found.kind]
    if found.label:
        parts.append(f'"{found.label}"')
    if found.uuid:
        parts.append(found.uuid)
    if found.used is not None:
        parts.append(f"{show_size(found.used)} used")
    if found.size is not None and found.size < room:
        parts.append(f"of {show_size(found.size)}")
    if found.clean is False:
        parts.append("not clean")
    if found.others:
        parts.append(f"also bears signatures of {', '.join(found.others)}")
    return "  ".join(parts)

"""The source and the target."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from blocksync.errors import BlocksyncError, StateError, TargetError, TargetRefusedError, from_os_error
from blocksync.preflight import findings
from blocksync.preflight.findings import Finding, found
from blocksync.preflight.quantities import size_of
from blocksync.sources.base import Source
from blocksync.targets import open_target
from blocksync.volumes.layout import Disk, Filesystem, Layout

SAMPLE_BYTES = 4096
MOST_PARTS = 12


def picture(source: Source, layout: Layout) -> Iterator[Finding]:
    """The source in one line, and what is odd about it."""
    parts = [text for disk in layout.disks for text in _parts_of(disk)]
    for group in layout.groups:
        parts.extend(
            f"{volume.path} {_content(volume.filesystem, volume.size)}"
            for volume in group.volumes
            if volume.visible
        )
    more = f" and {len(parts) - MOST_PARTS} more" if len(parts) > MOST_PARTS else ""
    said = "; ".join(parts[:MOST_PARTS]) + more or "nothing that is recognised"
    table = next((f", {disk.table.upper()}" for disk in layout.disks if disk.table), "")
    yield found(findings.PICTURE, f"{source.name}: {size_of(source.size)}{table}: {said}")
    odd = [*layout.notes, *(note for disk in layout.disks for note in disk.notes)]
    for group in layout.groups:
        odd.extend(group.notes)
        if not group.complete:
            odd.append(f"volume group {group.name} lacks a physical volume")
        odd.extend(f"{volume.path}: {volume.refusal}" for volume in group.volumes if volume.refusal)
    for text in odd[:MOST_PARTS]:
        yield found(findings.LAYOUT_ODD, text)


def _parts_of(disk: Disk) -> Iterator[str]:
    if disk.filesystem is not None and not disk.partitions:
        yield _content(disk.filesystem, disk.size)
    for part in disk.partitions:
        if part.container:
            continue
        inside = "LVM" if part.physical else _content(part.filesystem, part.size)
        yield f"{part.number} {inside}"


def _content(filesystem: Filesystem | None, size: int) -> str:
    if filesystem is None:
        return f"{size_of(size)}"
    used = f", {size_of(filesystem.used)} used" if filesystem.used is not None else ""
    return f"{filesystem.kind} {size_of(size)}{used}"


def readable(source: Source) -> Iterator[Finding]:
    """Whether the source's first, middle and last bytes can be read."""
    unit = max(source.capabilities.alignment, SAMPLE_BYTES)
    import mmap

    # Not closed here: a read that fails leaves views of it in its traceback.
    view = memoryview(mmap.mmap(-1, unit))
    for offset in sorted({0, source.size // 2 // unit * unit, max(0, source.size - unit) // unit * unit}):
        try:
            source.read_into(offset, view[: min(unit, source.size - offset)])
        except BlocksyncError as error:
            yield found(findings.SOURCE_UNREADABLE, error.message, error.remedy)
            return


def target_findings(path: str, state: Path) -> Iterator[Finding]:
    """Whether a target may be written, by the checks that ``recv`` makes; nothing is written.

    Args:
        path: of a file or device.
        state: the state folder.
    """
    if not os.path.lexists(path):
        yield from _new_image(path)
        return
    full: Finding | None = None
    try:
        try:
            target = open_target(path, overwrite=False, state_dir=state)
        except TargetRefusedError as error:
            # Refused for good, or for want of consent alone?
            target = open_target(path, overwrite=True, state_dir=state)
            full = found(findings.TARGET_FULL, error.message, error.remedy)
    except (TargetError, StateError) as error:
        yield found(findings.TARGET_UNFIT, error.message, error.remedy)
        return
    with target:
        size = target.size
        extents = target.capabilities.extents
    if full is not None:
        yield full
    yield found(findings.TARGET_FITS, f"{path} can be used: {size_of(size)}")
    if extents:
        free = shutil.disk_usage(os.path.dirname(os.path.realpath(path))).free
        held = os.stat(path).st_blocks * 512 if hasattr(os.stat_result, "st_blocks") else 0
        if free < size - held:
            yield found(
                findings.TARGET_SPACE, f"{path} may need {size_of(size - held)} more, and {size_of(free)} are free"
            )


def _new_image(path: str) -> Iterator[Finding]:
    folder = os.path.dirname(os.path.abspath(path))
    try:
        free = shutil.disk_usage(folder).free
        if not os.access(folder, os.W_OK):
            raise PermissionError(13, os.strerror(13))
    except OSError as error:
        mapped = from_os_error(error, TargetError, f"no image can be made at {path}")
        yield found(findings.TARGET_UNFIT, mapped.message, mapped.remedy)
        return
    yield found(
        findings.TARGET_FITS, f"{path} does not exist: recv --create SIZE makes it; {size_of(free)} are free there"
    )

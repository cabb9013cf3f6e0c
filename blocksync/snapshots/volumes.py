"""What lvm2 says of logical volumes: read as JSON, with numbers in bytes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from blocksync.errors import SnapshotError
from blocksync.platforms.tools import find_tool, run_tool

TAG_PREFIX = "blocksync."
_FIELDS = (
    "vg_name,lv_name,lv_uuid,lv_path,lv_dm_path,lv_size,lv_layout,lv_role,pool_lv,origin,lv_tags,"
    "lv_active,lv_kernel_major,lv_kernel_minor,vg_free,vg_extent_size,chunk_size,thin_id"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """A logical volume.

    Args:
        group, name: LVM's.
        uuid: of the volume.
        device: device-mapper's name.
        size: bytes.
        layout, role: LVM's words.
        pool: name of the thin pool; empty for a classic volume.
        origin: of a snapshot; empty for others.
        tags: LVM's.
        number: device number; 0 where it is not active.
        free: bytes free in the group.
        extent: bytes of the group's extents.
        chunk: bytes of a classic snapshot's or a pool's chunks; 0 for others.
        thin_id: of a thin volume in its pool; -1 for others.
    """

    group: str
    name: str
    uuid: str
    device: str
    size: int
    layout: frozenset[str]
    role: frozenset[str]
    pool: str
    origin: str
    tags: frozenset[str]
    number: int
    free: int
    extent: int
    chunk: int
    thin_id: int

    @property
    def text(self) -> str:
        return f"{self.group}/{self.name}"

    @property
    def path(self) -> str:
        return f"/dev/mapper/{self.device}"

    @property
    def thin(self) -> bool:
        return "thin" in self.layout and bool(self.pool)

    @property
    def snapshot(self) -> bool:
        return bool(self.origin)

    @property
    def pool_device(self) -> str:
        """Device-mapper's name of the thin pool below a thin volume."""
        return f"{device_name(self.group, self.pool)}-tpool"

    @property
    def pool_metadata_device(self) -> str:
        return f"{device_name(self.group, self.pool)}_tmeta"


def device_name(group: str, name: str) -> str:
    """Device-mapper's name: hyphens doubled, a single one between."""
    return f"{group.replace('-', '--')}-{name.replace('-', '--')}"


def installed() -> bool:
    """Whether lvm2 is there."""
    return find_tool("lvs") is not None


def list_volumes(*names: str) -> list[Volume]:
    """All logical volumes, or those named ``VG/LV``.

    Raises:
        SnapshotError: lvm2 is missing or fails.
    """
    words = ["lvs", "--all", "--reportformat", "json", "--units", "b", "--nosuffix", "-o", _FIELDS, *names]
    said = run_tool(words, SnapshotError, "cannot list logical volumes")
    return parse_volumes(said.output)


def parse_volumes(text: str) -> list[Volume]:
    """Read a report of ``lvs``.

    Raises:
        SnapshotError: it is none.
    """
    try:
        rows = [row for report in json.loads(text)["report"] for row in report["lv"]]
        return [_volume(row) for row in rows]
    except (ValueError, KeyError, TypeError) as error:
        raise SnapshotError(f"lvs prints something unexpected: {error}") from error


def find_volume(path: str, volumes: Iterable[Volume]) -> Volume | None:
    """The volume that a path is the device of; None for anything else."""
    try:
        number = os.stat(path).st_rdev
    except OSError:
        return None
    return next((volume for volume in volumes if number and volume.number == number), None)


def _volume(row: dict[str, Any]) -> Volume:
    major, minor = int(row["lv_kernel_major"]), int(row["lv_kernel_minor"])
    name = row["lv_name"].strip("[]")
    return Volume(
        group=row["vg_name"],
        name=name,
        uuid=row["lv_uuid"],
        device=os.path.basename(row["lv_dm_path"]) or device_name(row["vg_name"], name),
        size=_number(row["lv_size"]),
        layout=frozenset(row["lv_layout"].split(",")),
        role=frozenset(row["lv_role"].split(",")),
        pool=row["pool_lv"].strip("[]"),
        origin=row["origin"].strip("[]"),
        tags=frozenset(tag for tag in row["lv_tags"].split(",") if tag),
        number=os.makedev(major, minor) if major >= 0 and minor >= 0 else 0,
        free=_number(row["vg_free"]),
        extent=_number(row["vg_extent_size"]),
        chunk=_number(row["chunk_size"]),
        thin_id=int(row["thin_id"]) if row["thin_id"] else -1,
    )


def _number(text: str) -> int:
    return int(float(text)) if text else 0


def short_uuid(uuid: str) -> str:
    """A volume's UUID as tags have it."""
    return uuid.replace("-", "")[:12].lower()

"""Volume groups made by lvm2 on loop devices, without device-mapper.

``lvcreate --driverloaded n`` writes linear and striped volumes; the other types go through ``vgcfgrestore --force``,
which checks the text as strictly as any command of lvm2. Every physical volume is stamped: each sector holds its
device's number and its own offset, so that a reader's bytes tell where they came from.
"""

from __future__ import annotations

import re
import struct
from itertools import pairwise
from pathlib import Path

from volume_images import image, looped, run

MIB = 1 << 20
STAMP_BYTES = 512
CONF = """
devices {{ filter = [ {accept} "r|.*|" ] use_devicesfile = 0 scan_lvs = 0 {devices} }}
backup {{ backup = 0 archive = 0 }}
global {{ locking_dir = "{folder}/lock" use_lvmpolld = 0 }}
activation {{ udev_sync = 0 udev_rules = 0 monitoring = 0 }}
"""


def stamp(device: int, offset: int) -> bytes:
    """What a sector of a physical volume holds."""
    return struct.pack("<QQ", device, offset) * (STAMP_BYTES // 16)


def stamps(device: int, offset: int, length: int) -> bytes:
    return b"".join(stamp(device, at) for at in range(offset, offset + length, STAMP_BYTES))


class Lvm:
    """lvm2, confined to the loop devices of one test."""

    def __init__(self, folder: Path, devices: list[str]) -> None:
        self.folder = folder
        self.devices = devices
        accept = "".join(f'"a|^{device}$|", ' for device in devices)
        (folder / "lvm.conf").write_text(CONF.format(accept=accept, folder=folder, devices=""))

    def __call__(self, *arguments: str | Path) -> str:
        return run("lvm", *arguments, environment={"LVM_SYSTEM_DIR": str(self.folder)})

    def create(self, *arguments: str) -> None:
        """``lvcreate`` without a driver: nothing is activated, zeroed or wiped."""
        self("lvcreate", "--driverloaded", "n", "-an", "-Zn", "-Wn", "-y", *arguments)

    def backup(self, group: str) -> str:
        path = self.folder / "backup"
        self("vgcfgbackup", "-f", path, group)
        return path.read_text()

    def restore(self, group: str, text: str) -> None:
        """Have lvm2 check a text and write it to all metadata areas."""
        path = self.folder / "restore"
        path.write_text(text)
        self("vgcfgrestore", "--force", "--driverloaded", "n", "-f", path, "-y", group)

    def edit(self, group: str, volumes: str) -> None:
        """Restore the group with logical volumes added, given as text."""
        text = self.backup(group)
        if "logical_volumes {" in text:
            text = text.replace("logical_volumes {", "logical_volumes {\n" + volumes, 1)
        else:
            text = re.sub(r"\n}\s*$", "\nlogical_volumes {\n" + volumes + "\n}\n}\n", text)
        self.restore(group, text)


def stamp_disk(path: Path, device: int, start: int = MIB, end: int | None = None) -> None:
    """Fill a disk with stamps from the start of its extents on."""
    with path.open("r+b") as file:
        file.seek(0, 2)
        size = file.tell() if end is None else end
        file.seek(start)
        while start < size:
            count = min(4 * MIB, size - start)
            file.write(stamps(device, start, count))
            start += count


def uuid(number: int) -> str:
    """An LVM UUID for a volume that a text adds."""
    digits = f"{number:032d}"
    cuts = (0, 6, 10, 14, 18, 22, 26, 32)
    return "-".join(digits[start:end] for start, end in pairwise(cuts))


def volume_text(name: str, number: int, segments: list[str], *, visible: bool = True) -> str:
    """A logical volume as a section of the text; each segment is its inside, with start_extent and all."""
    status = '["READ", "WRITE", "VISIBLE"]' if visible else '["READ", "WRITE"]'
    inside = "\n".join(f"segment{index + 1} {{\n{segment}\n}}" for index, segment in enumerate(segments))
    head = f'id = "{uuid(number)}"\nstatus = {status}\nflags = []\nsegment_count = {len(segments)}'
    return f"{name} {{\n{head}\n{inside}\n}}\n"


def linear_segment(pv: int, first: int, extents: int, start: int = 0) -> str:
    return (
        f'start_extent = {start}\nextent_count = {extents}\ntype = "striped"\nstripe_count = 1\n'
        f'stripes = ["pv{pv}", {first}]'
    )


__all__ = [
    "MIB",
    "STAMP_BYTES",
    "Lvm",
    "image",
    "linear_segment",
    "looped",
    "run",
    "stamp",
    "stamp_disk",
    "stamps",
    "uuid",
    "volume_text",
]

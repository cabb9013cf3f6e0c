"""A system with a clone of its root beside it, UUID and all: which of both boots is not left to chance."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from blocksync import api
from tests.vm.apart import with_data
from tests.vm.flattening import booted, faults, row
from tests.vm.systems import MIB, PV_START_BYTES, RECIPES, Lv, boot_place
from tests.vm.wire import sent


def twin() -> dict[str, object]:
    """Send, look and boot; the facts for a table. fstab mounts the clone by the name of its volume."""
    base = RECIPES["bios-mbr"]
    size = next(volume.mib for volume in base.volumes if volume.where == "/") * MIB
    with tempfile.TemporaryDirectory(prefix="flattening-") as name:
        folder = Path(name)
        clone = Lv(name="clone", where="/data", kind="ext4", mib=size // MIB)
        recipe, disks = with_data(base, (clone,), folder)
        with disks[0].open("rb") as system, disks[1].open("r+b") as data:
            system.seek(boot_place(base) + base.boot_mib * MIB + PV_START_BYTES)
            data.seek(PV_START_BYTES)
            data.write(system.read(size))
        target = folder / "target.img"
        began = time.monotonic()
        sent(disks, target, folder)
        taken = time.monotonic() - began
        found = api.check_flattened(str(target))
        report, told = booted(target, recipe, folder / "boot")
        wrong = faults(recipe, report, told)
    # The clone is told, and harms nobody: what means it by its volume's name has PARTUUID instead.
    said = [(each.code, each.fatal) for each in found]
    wrong += [] if said == [("BS1143", False)] else [f"--check says {said}"]
    wrong += [] if told and "root=PARTUUID=" in told.command_line else ["the root is not named by PARTUUID"]
    return {**row("twin", wrong, [], report, told, taken), "way": "TLS"}

"""The test machine itself: what runs in it is real, and what it leaves is only what it wrote to its disks."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.devices import image
from tests.vm.machine import CommandError, Machine

MIB = 1 << 20


def test_device_mapper_is_real_and_disks_keep_what_was_synced(tmp_path: Path) -> None:
    disk = image(tmp_path / "disk.img", 64 * MIB)
    with Machine([disk], memory_mib=512) as machine:
        machine.run("pvcreate -q /dev/vdb && vgcreate -q vg0 /dev/vdb && lvcreate -q -n data -L 16M vg0")
        machine.push(__file__, "/root/pushed")
        machine.run("dd if=/root/pushed of=/dev/vg0/data bs=4096 conv=fsync,notrunc 2>&1")
        machine.pull("/root/pushed", tmp_path / "pulled")
        with pytest.raises(CommandError, match="ended with 3"):
            machine.run("exit 3")
        assert "vg0-data" in machine.run("dmsetup ls")
    written = Path(__file__).read_bytes()
    assert (tmp_path / "pulled").read_bytes() == written
    assert written in disk.read_bytes()

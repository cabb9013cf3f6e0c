"""A Debian with its root on LVM goes over TLS to standard partitions, again after a change, and boots there.

One system for each run of the suite; all of them, and boots of what was left undone: ``python -m tests.vm.flattening``.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from blocksync import api
from blocksync.options import FlattenOptions
from tests.devices import need_root
from tests.vm.flattening import booted, faults
from tests.vm.systems import RECIPES, cached, working_copy
from tests.vm.wire import flattened, receiving


def change_marker(disk: Path, old: bytes, new: bytes) -> None:
    """Change a small file of the root volume where it lies on the disk, as production would through its filesystem."""
    content = disk.read_bytes()
    wanted = old + b"\n" + bytes(64)
    places = [at for at in range(0, len(content), 512) if content.startswith(wanted, at)]
    # Blocks that were freed may hold it too: there it makes no difference.
    assert places
    with disk.open("r+b") as file:
        for at in places:
            file.seek(at)
            file.write(new)


def test_a_system_on_lvm_arrives_over_tls_is_sent_again_and_boots(tmp_path: Path) -> None:
    need_root()
    recipe = RECIPES["bios-mbr"]
    disks = working_copy(cached(recipe), tmp_path)
    target = tmp_path / "target.img"
    size = api.plan_flatten([str(disk) for disk in disks]).size
    # Which kernels compared the blocks makes no difference to a boot of some minutes.
    boots = os.environ.get("BLOCKSYNC_KERNELS") != "python"
    with receiving(target, tmp_path, create=size) as where:
        first = flattened(disks, where, tmp_path, verify=True)
    assert api.check_flattened(str(target)) == []
    change_marker(disks[0], b"first", b"again")
    with receiving(target, tmp_path, boot_test=boots) as where:  # as recv --boot-test, for the last pass
        second = flattened(disks, where, tmp_path)
    assert (second.boot or {}).get("verdict") == ("login" if boots else None)
    assert [outcome.result.kind for outcome in first.group.disks if outcome.result] == ["full"] * 3
    assert [outcome.result.kind for outcome in second.group.disks if outcome.result] == ["incremental"] * 3
    assert api.check_flattened(str(target)) == []
    if not boots:
        return
    report, told = booted(target, dataclasses.replace(recipe, marker="again"), tmp_path / "boot")
    assert report.good
    assert faults(dataclasses.replace(recipe, marker="again"), report, told) == []


@pytest.mark.parametrize("name", ["bios-mbr"])
def test_each_step_that_is_left_out_is_predicted(name: str, tmp_path: Path) -> None:
    need_root()
    disks = [str(disk) for disk in cached(RECIPES[name])]
    for step in ("fstab", "grub.cfg", "loader", "stale"):
        # Anew each time: a loader that an earlier repair wrote lies in no partition, so no copy takes it back.
        target = str(tmp_path / f"{step}.img")
        options = FlattenOptions(create=True, state_dir=tmp_path / "state", skip=(step,))
        api.flatten(disks, target, options)
        assert {each.rule for each in api.check_flattened(target)} == {step}
        api.repair_flattened(target)
        assert api.check_flattened(target) == []

"""Of flattened volumes only what filesystems use is read; verifying comes before the repair; devices are targets."""

from __future__ import annotations

import subprocess
from pathlib import Path

from flatten_trees import copied

from blocksync import api
from blocksync.flatten.system import look_at
from tests.devices import image, loop_device, need_root
from tests.vm.systems import Lv, Recipe, disks_of
from tests.vm.wire import flattened, receiving


def test_blocks_that_no_file_uses_are_not_read(tmp_path: Path) -> None:
    need_root()
    recipe = Recipe(
        name="used",
        boot_mib=16,
        volumes=(
            Lv(name="root", where="/", kind="ext4", mib=48),
            Lv(name="home", where="/home", kind="xfs", mib=320),
        ),
    )
    tree = copied("debian", "before", tmp_path / "tree")
    (tree / "home").mkdir()
    (tree / "etc/crypttab").unlink()
    (tree / "etc/fstab").write_text("/dev/vg0/root / ext4 defaults 0 1\n/dev/vg0/home /home xfs defaults 0 2\n")
    disks = disks_of(recipe, tree, tmp_path)
    target = tmp_path / "target.img"
    with receiving(target, tmp_path, create=api.plan_flatten([str(disk) for disk in disks]).size) as where:
        done = flattened(disks, where, tmp_path, verify=True)
    results = {outcome.slot: outcome.result for outcome in done.group.disks}
    for slot, least in (("vm.p2", 0.5), ("vm.p3", 0.5)):
        result = results[slot]
        assert result is not None
        assert result.unused > least * result.size
        assert result.read + result.unused <= result.size
    assert done.root == 2  # nothing differed: else there is no repair
    parts = look_at(str(target)).parts
    assert [part.kind for part in parts] == ["ext4", "ext4", "xfs"]
    for part, tool in zip(parts, ("e2fsck", "e2fsck", "xfs_repair"), strict=True):
        content = tmp_path / f"p{part.number}"
        content.write_bytes(target.read_bytes()[part.offset : part.offset + part.size])
        checked = subprocess.run([tool, "-n", content], capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stdout


def test_a_device_is_a_target_in_flight_twice(tmp_path: Path) -> None:
    need_root()
    recipe = Recipe(name="device", boot_mib=16, volumes=(Lv(name="root", where="/", kind="ext4", mib=48),))
    tree = copied("debian", "before", tmp_path / "tree")
    (tree / "etc/crypttab").unlink()
    (tree / "etc/fstab").write_text("/dev/vg0/root / ext4 defaults 0 1\n")
    disks = disks_of(recipe, tree, tmp_path)
    size = api.plan_flatten([str(disk) for disk in disks]).size
    with loop_device(image(tmp_path / "target.img", size)) as device:
        for kind in ("full", "incremental"):
            with receiving(Path(device), tmp_path) as where:
                done = flattened(disks, where, tmp_path, verify=True)
            assert [outcome.result.kind for outcome in done.group.disks if outcome.result] == [kind] * 2
            assert done.root == 2
            assert "fstab" not in [leftover.rule for leftover in api.check_flattened(device)]

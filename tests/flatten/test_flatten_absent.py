"""Disks that are not part of a flatten: what fstab has on them, and what else bears a target's UUIDs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from flatten_trees import copied

from blocksync import api
from blocksync.flatten import check
from blocksync.flatten.plan import Copy
from blocksync.flatten.sending import device_of
from blocksync.options import FlattenOptions
from tests.devices import need_root
from tests.vm.systems import Lv, Recipe, disks_of, fs_uuid

RECIPE = Recipe(
    name="absent",
    group="web-01-vg",
    volumes=(
        Lv(name="lv-root", where="/", kind="ext4", mib=48),
        Lv(name="lv-swap", where="swap", kind="swap", mib=8),
        Lv(name="vault", where="/srv", kind="ext4", mib=16),
    ),
)
MORE = f"""\
UUID={fs_uuid(RECIPE, "vault")} /srv ext4 defaults 0 2
/dev/mapper/data-lake /lake xfs defaults 0 0
/dev/mapper/luks-opened /secret ext4 defaults 0 0
LABEL=backup /backup ext4 nofail 0 0
UUID=0a1b2c3d-0000-4000-8000-00000000ffff /logs ext4 noauto 0 0
/swapfile none swap sw 0 0
tmpfs /tmp tmpfs defaults 0 0
server:/export /nfs nfs defaults 0 0
/dev/zram0 none swap sw 0 0
"""


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A disk with a system on LVM whose fstab names other disks."""
    need_root()
    folder = tmp_path_factory.mktemp("absent")
    tree = copied("debian", "before", folder / "tree")
    (tree / "srv").mkdir()
    (tree / "etc/crypttab").write_text("luks-opened LABEL=secret none luks\n")
    (tree / "etc/fstab").write_text((tree / "etc/fstab").read_text() + MORE)
    return str(disks_of(RECIPE, tree, folder)[0])


def test_the_plan_tells_what_fstab_has_on_disks_that_are_not_given(disk: str) -> None:
    notes = [note for note in api.plan_flatten([disk]).notes if note.startswith("fstab has")]
    told = {note.split(",")[0]: "emergency mode" in note for note in notes}
    assert told == {
        "fstab has /boot on /dev/sda1": True,
        "fstab has /lake on /dev/mapper/data-lake": True,
        "fstab has /backup on LABEL=backup": False,
        "fstab has /logs on UUID=0a1b2c3d-0000-4000-8000-00000000ffff": False,
    }


def test_the_check_tells_it_too_and_is_not_fatal(disk: str, tmp_path: Path) -> None:
    target = str(tmp_path / "target.img")
    api.flatten([disk], target, FlattenOptions(create=True, state_dir=tmp_path / "state", skip=("loader",)))
    found = {each.where: each for each in api.check_flattened(target) if each.rule == "fstab"}
    assert set(found) == {"/etc/fstab: /boot", "/etc/fstab: /lake"}
    assert {(each.code, each.fatal) for each in found.values()} == {("BS1146", False)}


def test_a_source_that_is_attached_too_is_told(disk: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = str(tmp_path / "target.img")
    api.flatten([disk], target, FlattenOptions(create=True, state_dir=tmp_path / "state"))
    monkeypatch.setattr(check, "BY_UUID", tmp_path)
    (tmp_path / fs_uuid(RECIPE, "lv-root")).symlink_to("/dev/sdq1")
    (tmp_path / fs_uuid(RECIPE, "vault")).symlink_to("/dev/loop77")
    (tmp_path / "0a1b2c3d-0000-4000-8000-00000000ffff").symlink_to("/dev/sdq2")
    found = [each for each in api.check_flattened(target) if each.code == "BS1152"]
    assert [(each.names, each.where, each.fatal) for each in found] == [
        ((fs_uuid(RECIPE, "lv-root"),), "this machine: /dev/sdq1", False)
    ]


@pytest.mark.parametrize(
    ("disks", "partition", "known"),
    [
        (["/dev/sda"], 1, "/dev/sda1"),
        (["/dev/nvme0n1"], 2, "/dev/nvme0n1p2"),
        (["/dev/sda"], 3, "disk 1 partition 3"),
        (["disk.img"], 1, "disk 1 partition 1"),
    ],
)
def test_a_kept_partition_is_known_by_its_device_so_that_it_can_be_frozen(
    disks: list[str], partition: int, known: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = {"/dev/sda1", "/dev/nvme0n1p2"}
    exists: Callable[[Path], bool] = lambda path: str(path) in there  # noqa: E731 - typed
    monkeypatch.setattr(Path, "exists", exists)
    assert device_of(Copy(to=1, size=512, disk=0, partition=partition), disks) == known

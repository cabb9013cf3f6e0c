"""What a system on LVM may hold that nobody expects: each ends in partitions that boot, or in a code and a remedy."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import stat
import subprocess
from pathlib import Path

import pytest
from flatten_trees import alias_map, copied, guest
from test_flatten_plan import GIB, MIB, bios_mbr, disk, group, partition, simple, volume

from blocksync import api
from blocksync.engine.reach import Reach
from blocksync.errors import (
    BlocksyncError,
    FlattenNothingError,
    FlattenRefusedError,
    FlattenSpaceError,
    GuestMountError,
    UsageError,
)
from blocksync.flatten import record
from blocksync.flatten.aliases import AliasMap
from blocksync.flatten.configuration import edit_fstab
from blocksync.flatten.leftovers import file_findings, unknown_numbers
from blocksync.flatten.mounts import privately
from blocksync.flatten.plan import make_plan
from blocksync.flatten.refusals import Wishes
from blocksync.flatten.sources import running_numbers
from blocksync.flatten.system import assembled, look_at
from blocksync.options import FlattenOptions
from blocksync.protocol.messages import CONTROL_VERSION, MAX_MESSAGE_BYTES, MAX_PLAN_BYTES, DivideRequest
from blocksync.volumes.layout import Filesystem, Layout
from tests.devices import image, need_root, replace_bytes
from tests.vm.apart import data_disk
from tests.vm.base import run
from tests.vm.systems import Lv, Recipe, disks_of, fs_uuid
from tests.vm.wire import receiving

RECIPE = Recipe(
    name="surprising",
    boot_mib=16,
    group="web-01-vg",
    volumes=(
        Lv(name="lv-root", where="/", kind="ext4", mib=48),
        Lv(name="lv-swap", where="swap", kind="swap", mib=8),
        Lv(name="vault", where="/srv", kind="ext4", mib=16),
    ),
)
ROOT_LINE = "/dev/web-01-vg/lv-root / ext4 defaults 0 1\n"


def system(tmp_path: Path, fstab: str, recipe: Recipe = RECIPE) -> Path:
    """A disk with a Debian-like system that has this fstab."""
    need_root()
    tree = copied("debian", "before", tmp_path / "tree")
    (tree / "etc/fstab").write_text(f"{fstab}UUID={fs_uuid(recipe, 'boot')} /boot ext4 defaults 0 2\n")
    (tree / "etc/crypttab").unlink()
    for each in recipe.volumes:
        if each.where != "swap":
            (tree / each.where.strip("/")).mkdir(exist_ok=True)
    return disks_of(recipe, tree, tmp_path)[0]


def local(disk_path: Path, tmp_path: Path, **more: object) -> api.FlattenResult:
    facts: dict[str, object] = {"create": True, "state_dir": tmp_path / "state", **more}
    return api.flatten([str(disk_path)], str(tmp_path / "target.img"), FlattenOptions(**facts))  # type: ignore[arg-type]


def read(target: Path, path: str) -> str:
    """A file of the system on a target."""

    def look() -> bytes | None:
        with assembled(look_at(str(target)), None, write=False) as found:
            return found.guest.read(path, MIB)

    return (privately(look) or b"").decode()


def fatal(target: Path) -> list[str]:
    return [each.code for each in api.check_flattened(str(target)) if each.fatal]


# -- plans ---------------------------------------------------------------------------------------------------------


def test_a_uuid_that_two_filesystems_bear_names_neither() -> None:
    same = Filesystem(kind="ext4", uuid="0a1b2c3d-0000-4000-8000-000000000001")
    plan = make_plan(
        bios_mbr(volume("root", GIB, filesystem=same), volume("clone", GIB, filesystem=same), volume("var", GIB))
    )
    tags = {alias.volume: alias.tag for alias in plan.aliases if alias.volume}
    assert tags == {"root": "PARTUUID=00c0ffee-02", "clone": "PARTUUID=00c0ffee-03", "var": "UUID=uuid-var"}
    assert any(same.uuid in note for note in plan.notes)
    edited = edit_fstab("/dev/vg0/root / ext4 defaults 0 1\n", plan.alias_map())
    assert edited.startswith("PARTUUID=00c0ffee-02 ")


def test_groups_of_one_name_are_refused_before_they_are_taken_for_each_other() -> None:
    one = group(volume("root", GIB))
    two = dataclasses.replace(one, uuid="HHHHHH-0000-0000-0000-0000-0000-HHHHHH")
    with pytest.raises(FlattenRefusedError, match="several volume groups are named vg0") as caught:
        make_plan(Layout(disks=simple().disks, groups=(one, two)))
    assert "vgrename" in caught.value.remedy


@pytest.mark.parametrize(
    ("kind", "said", "remedy"),
    [("luks", "encrypted with LUKS", "as they are"), ("md", "software RAID", "/dev/md0")],
)
def test_what_hides_a_group_is_told(kind: str, said: str, remedy: str) -> None:
    hiding = partition(1, GIB, "0x83", kind)
    with pytest.raises(FlattenNothingError, match=said) as caught:
        make_plan(Layout(disks=(disk(hiding, table="mbr"),)))
    assert remedy in caught.value.remedy
    whole = dataclasses.replace(disk(table=""), filesystem=Filesystem(kind=kind))
    with pytest.raises(FlattenNothingError, match=said):
        make_plan(Layout(disks=(whole,)))
    beside = bios_mbr(volume("root", GIB))
    (first,) = beside.disks
    more = dataclasses.replace(first, partitions=(*first.partitions, partition(3, GIB, "0x83", kind)))
    assert any(said in note for note in make_plan(dataclasses.replace(beside, disks=(more,))).notes)


def test_a_disk_named_twice_is_not_told_to_hold_nothing() -> None:
    with pytest.raises(FlattenNothingError, match="two devices") as caught:
        make_plan(Layout(disks=(disk(),), notes=("the volume groups cannot be read: two devices are …",)))
    assert "each disk of the groups once" in caught.value.remedy


def test_a_label_that_cannot_be_printed_does_not_make_the_plan_unusable() -> None:
    odd = Filesystem(kind="ext4", uuid="uuid-root", label="a\tb\x1b[2J\ufffd")
    plan = make_plan(simple(volume("root", GIB, filesystem=odd)))
    assert record.from_json(json.loads(json.dumps(record.to_json(plan)))) == plan


def test_a_full_table_with_the_longest_names_fits_into_a_message() -> None:
    volumes = [
        volume(
            f"{number:03d}{'v' * 60}", 4 * MIB, group="g" * 63, filesystem=Filesystem(kind="ext4", uuid="u" * 36)
        )
        for number in range(126)  # with the partition for GRUB's core and one that is kept: as many as a GPT has
    ]
    layout = bios_mbr()
    layout = dataclasses.replace(layout, groups=(dataclasses.replace(group(*volumes), name="g" * 63),))
    plan = make_plan(layout)
    assert len(plan.slices) == 128
    assert len(json.dumps(record.to_json(plan))) < MAX_PLAN_BYTES - (8 << 10)
    assert len(json.dumps(record.to_json(plan), indent=1)) < 1 << 20  # what a state folder takes
    assert record.from_json(record.to_json(plan)) == plan


# -- numbers -------------------------------------------------------------------------------------------------------


def test_numbers_are_known_where_the_system_itself_runs(tmp_path: Path) -> None:
    need_root()
    layout = simple(volume("root", GIB), volume("home", GIB))
    root = os.stat("/").st_dev
    os.mknod(tmp_path / "vg0-root", stat.S_IFBLK | 0o600, root)
    os.mknod(tmp_path / "vg0-home", stat.S_IFBLK | 0o600, os.makedev(os.major(root), os.minor(root) + 7))
    numbers = running_numbers(layout, str(tmp_path))
    assert numbers == {"vg0/root": os.minor(root), "vg0/home": os.minor(root) + 7}
    plan = make_plan(layout, Wishes(numbers=numbers))
    edited = edit_fstab(f"/dev/dm-{os.minor(root) + 7} /home ext4 defaults 0 2\n", plan.alias_map())
    assert edited.startswith("UUID=uuid-home ")
    # On another machine, that repairs a disk say, the same numbers mean other volumes.
    (tmp_path / "vg0-root").unlink()
    assert running_numbers(layout, str(tmp_path)) == {}


def test_a_number_that_nobody_knows_is_told_with_its_symptom(tmp_path: Path) -> None:
    tree = copied("debian", "after", tmp_path / "tree")
    fstab = tree / "etc/fstab"
    fstab.write_text(fstab.read_text() + "/dev/dm-3 /data ext4 defaults 0 2\n# /dev/dm-4 was once here\n")
    system_files = guest(tree)
    (found,) = [each for each in file_findings(system_files, alias_map("debian")) if each.code == "BS1153"]
    assert (found.where, found.names, found.fatal) == ("/etc/fstab", ("/dev/dm-3",), True)
    assert "Timed out waiting for device" in found.symptom
    assert "UUID=" in found.symptom
    assert not [each for each in file_findings(system_files, alias_map("debian")) if each.code == "BS1130"]
    (line,) = unknown_numbers(system_files, alias_map("debian"))
    assert "/dev/dm-3" in line
    assert list(unknown_numbers(system_files, AliasMap((), "gpt")))


# -- disks ---------------------------------------------------------------------------------------------------------


def test_uuids_alone_in_fstab_and_a_volume_of_raw_data(tmp_path: Path) -> None:
    root, srv = fs_uuid(RECIPE, "lv-root"), "/dev/web-01-vg/vault /srv ext4 noauto 0 0\n"
    disk_path = system(tmp_path, f"UUID={root} / ext4 defaults 0 1\n{srv}")
    begin = (2 + RECIPE.boot_mib + 48 + 8) * MIB
    raw = os.urandom(16 * MIB)
    with disk_path.open("r+b") as file:
        file.seek(begin)
        file.write(raw)
    plan = api.plan_flatten([str(disk_path)])
    (vault,) = [copy for copy in plan.copies if copy.volume == "vault"]
    assert (vault.filesystem, vault.uuid) == ("", "")
    local(disk_path, tmp_path)
    target = tmp_path / "target.img"
    place = plan.slice(vault.to)
    assert target.read_bytes()[place.offset : place.offset + len(raw)] == raw
    assert "PARTUUID=" in read(target, "/etc/fstab")
    assert f"UUID={root} / " in read(target, "/etc/fstab")
    assert not fatal(target)


def test_a_target_one_sector_too_small_and_one_with_an_old_table(tmp_path: Path) -> None:
    disk_path = system(tmp_path, ROOT_LINE)
    needed = api.plan_flatten([str(disk_path)]).size
    target = image(tmp_path / "target.img", needed - 512)
    with pytest.raises(FlattenSpaceError) as caught:
        local(disk_path, tmp_path, create=False)
    assert caught.value.code == "BS1110"
    assert caught.value.remedy
    with pytest.raises(UsageError, match="no step fsatb"):
        local(disk_path, tmp_path, create=False, skip=("fsatb",))
    assert not any(target.read_bytes())
    # An old GPT's backup at the very end, where only the beginning was wiped.
    target.unlink()
    image(target, needed + 5 * MIB)
    subprocess.run(["sgdisk", "-n", "1:2048:4095", target], check=True, capture_output=True)
    with target.open("r+b") as file:
        file.write(bytes(MIB))
    local(disk_path, tmp_path, create=False, overwrite=True)
    said = run("wipefs", "--no-act", "--parsable", target)
    assert "gpt" not in said
    assert "BS1142" not in [each.code for each in api.check_flattened(str(target))]


def test_a_clone_of_the_root_with_its_uuid_does_not_take_its_place(tmp_path: Path) -> None:
    volumes = (*RECIPE.volumes, Lv(name="clone", where="/clone", kind="ext4", mib=48))
    recipe = dataclasses.replace(RECIPE, volumes=volumes)
    disk_path = system(tmp_path, ROOT_LINE, recipe)
    begin = (2 + recipe.boot_mib) * MIB
    with disk_path.open("r+b") as file:
        file.seek(begin)
        root = file.read(48 * MIB)
        file.seek(begin + (48 + 8 + 16) * MIB)
        file.write(root)
    plan = api.plan_flatten([str(disk_path)])
    uuids = {each.volume: each.uuid for each in plan.copies}
    assert uuids["lv-root"] == uuids["clone"]
    result = local(disk_path, tmp_path)
    assert result.root == next(copy.to for copy in plan.copies if copy.volume == "lv-root")
    target = tmp_path / "target.img"
    assert read(target, "/etc/fstab").startswith("PARTUUID=")
    assert "root=PARTUUID=" in read(target, "/boot/grub/grub.cfg")
    found = {each.code: each.fatal for each in api.check_flattened(str(target))}
    assert found["BS1143"] is False
    assert not fatal(target)
    # What means one of both by that UUID is told as fatal.
    tag = next(alias.tag for alias in plan.aliases if alias.volume == "lv-root")
    replace_bytes(target, f"{tag} / ".encode(), f"UUID={uuids['lv-root']} / ".encode())
    assert "BS1143" in fatal(target)


def test_a_hundred_volumes_are_told_to_a_receiver_in_one_plan(tmp_path: Path) -> None:
    volumes = [
        volume(f"data-{number:03d}", MIB, filesystem=Filesystem(kind="ext4", uuid=fs_uuid(RECIPE, str(number))))
        for number in range(100)
    ]
    plan = make_plan(bios_mbr(*volumes))
    said = record.to_json(plan)
    assert len(json.dumps(said)) > MAX_MESSAGE_BYTES
    with (
        receiving(tmp_path / "target.img", tmp_path, create=plan.size) as where,
        contextlib.closing(Reach(tmp_path / "sender", f"127.0.0.1:{where.control_port}", where.code)) as reach,
    ):
        wanted = DivideRequest(version=CONTROL_VERSION, slot="vm", replace=False, plan=said)
        assert reach.control.divide(wanted).anew
        with pytest.raises(BlocksyncError):  # what is larger is not read
            reach.control.divide(dataclasses.replace(wanted, plan={**said, "more": "x" * MAX_PLAN_BYTES}))
        assert not reach.control.divide(wanted).anew
    listed = run("sfdisk", "--dump", tmp_path / "target.img")
    assert listed.count("start=") == len(plan.slices) == 102


def test_a_group_that_fills_a_disk_and_holds_nothing_but_swap(tmp_path: Path) -> None:
    need_root()
    tree = copied("debian", "before", tmp_path / "tree")
    root = fs_uuid(RECIPE, "lv-root")
    (tree / "etc/fstab").write_text(f"UUID={root} / ext4 defaults 0 1\n/dev/vg-data/swap none swap sw 0 0\n")
    (tree / "etc/crypttab").unlink()
    (tree / "etc/grub.d/40_custom").unlink()
    (tree / "boot/grub/grub.cfg").write_text(f"linux /boot/vmlinuz root=UUID={root} ro resume=/dev/vg-data/swap\n")
    for unit in (tree / "etc/systemd/system").glob("*.swap"):
        unit.unlink()
    content = tmp_path / "root.ext4"
    run("mkfs.ext4", "-q", "-F", "-U", root, "-d", tree, image(content, 48 * MIB))
    first = image(tmp_path / "first.img", 50 * MIB)
    subprocess.run(["sfdisk", "-q", first], input="start=1MiB, size=48MiB, bootable\n", text=True, check=True)
    with first.open("r+b") as file:
        file.seek(MIB)
        file.write(content.read_bytes())
    second = data_disk(RECIPE, [Lv(name="swap", where="swap", kind="swap", mib=8)], tmp_path)
    target = tmp_path / "target.img"
    options = FlattenOptions(create=True, state_dir=tmp_path / "state")
    result = api.flatten([str(first), str(second)], str(target), options)
    assert [name for _, name in result.partitions] == ["disk 1 partition 1", "vg-data/swap"]
    swap = fs_uuid(RECIPE, "data/swap")
    assert f"UUID={swap} none swap" in read(target, "/etc/fstab")
    assert f"resume=UUID={swap}" in read(target, "/boot/grub/grub.cfg")
    assert not fatal(target)
    # The disk of the group alone holds no system: its content is copied, and the repair says what it lacks.
    with pytest.raises(GuestMountError) as caught:
        api.flatten([str(second)], str(tmp_path / "alone.img"), options)
    assert "--no-repair" in caught.value.remedy

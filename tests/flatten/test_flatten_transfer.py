"""Flatten on real disk images: locally and over TLS, again after changes, after cuts, and what stops it."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from pathlib import Path

import pytest
from flatten_trees import copied

from blocksync import api
from blocksync.engine.pace import Pace
from blocksync.errors import (
    FlattenChangedError,
    FlattenSpaceError,
    InterruptedTransferError,
    PeerError,
    TargetRefusedError,
    UsageError,
)
from blocksync.flatten.check import check_target
from blocksync.flatten.grow import grow_filesystem
from blocksync.flatten.mounts import mounted, privately
from blocksync.flatten.rules import RULES
from blocksync.flatten.system import Part, TargetDisk, assembled, look_at
from blocksync.limits import Limits, Schedule
from blocksync.options import FlattenOptions, SendOptions
from blocksync.results import Progress
from tests.devices import need_root
from tests.vm.systems import Lv, Recipe, disks_of
from tests.vm.wire import flattened, receiving

MIB = 1 << 20
RECIPE = Recipe(
    name="small",
    boot_mib=16,
    group="web-01-vg",
    disks=2,
    volumes=(
        Lv(name="lv-root", where="/", kind="ext4", mib=48, lies="split"),
        Lv(name="lv-swap", where="swap", kind="swap", mib=8, lies="striped"),
        Lv(name="vault", where="/srv", kind="ext4", mib=16),
    ),
)


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two disks with a Debian-like system on LVM."""
    need_root()
    folder = tmp_path_factory.mktemp("pristine")
    tree = copied("debian", "before", folder / "tree")
    (tree / "srv").mkdir()
    fstab = tree / "etc/fstab"
    fstab.write_text(fstab.read_text() + "/dev/web-01-vg/vault /srv ext4 defaults 0 2\n")
    (tree / "etc/crypttab").unlink()
    (tree / "boot/grub/device.map").write_text("(hd0) /dev/sda\n")
    (tree / "data").write_bytes(os.urandom(3 * MIB))
    return disks_of(RECIPE, tree, folder)


@pytest.fixture
def disks(pristine: list[Path], tmp_path: Path) -> list[Path]:
    return [Path(shutil.copy(disk, tmp_path / disk.name)) for disk in pristine]


def local(disks: list[Path], tmp_path: Path, **more: object) -> api.FlattenResult:
    facts: dict[str, object] = {"create": True, "state_dir": tmp_path / "state", **more}
    options = FlattenOptions(**facts)  # type: ignore[arg-type]
    return api.flatten([str(disk) for disk in disks], str(tmp_path / "target.img"), options)


def file_of(target: Path, path: str) -> bytes | None:
    """A file of the system on a target."""

    def read() -> bytes | None:
        with assembled(look_at(str(target)), None, write=False) as system:
            return system.guest.read(path, 64 * MIB)

    return privately(read)


def change_root(disks: list[Path], marker: bytes) -> None:
    """Production goes on: a file's bytes change where they lie in the root volume, on whichever disk that is."""
    old = b"# / was on /dev/mapper"
    for disk in disks:
        content = disk.read_bytes()
        at = content.find(old)
        if at >= 0:
            with disk.open("r+b") as file:
                file.seek(at)
                file.write(b"# " + marker[: len(old) - 2].ljust(len(old) - 2, b"."))
            return
    raise AssertionError("the file is not there")


def test_a_local_flatten_gives_partitions_without_old_names(disks: list[Path], tmp_path: Path) -> None:
    result = local(disks, tmp_path)
    assert [name for _, name in result.partitions] == [
        "disk 1 partition 1",
        "web-01-vg/lv-root",
        "web-01-vg/lv-swap",
        "web-01-vg/vault",
    ]
    target = tmp_path / "target.img"
    fstab = (file_of(target, "/etc/fstab") or b"").decode()
    assert "UUID=" in fstab
    assert check_target(str(target)) == []
    assert ("fstab", "/etc/fstab") in result.changed
    assert any("GRUB for BIOS rebuilt" in line for line in result.loaders)
    for number in (1, 2, 4):
        part = next(part for part in look_at(str(target)).parts if part.number == number)
        words = ["e2fsck", "-fn", f"{target}?offset={part.offset}"]
        checked = subprocess.run(words, capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stdout
    assert not subprocess.run(["losetup", "-j", target], capture_output=True, text=True, check=True).stdout


def test_the_plan_names_the_edits_that_the_repair_then_makes(
    disks: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = [disk.read_bytes() for disk in disks]
    with monkeypatch.context() as changed:
        changed.setattr(os, "geteuid", lambda: 1000)  # the root volume lies in pieces on two disks all the same
        plan = api.plan_flatten([str(disk) for disk in disks])
    assert [disk.read_bytes() for disk in disks] == before
    assert ("fstab", "/etc/fstab") in plan.edits
    assert ("grub.cfg", "/boot/grub/grub.cfg") in plan.edits
    assert sorted(plan.edits) == sorted(local(disks, tmp_path).changed)


@pytest.mark.parametrize(("kind", "options"), [("xfs", "defaults"), ("btrfs", "subvol=@")])
def test_roots_on_other_filesystems_are_found_and_repaired(kind: str, options: str, tmp_path: Path) -> None:
    need_root()
    root = Lv(name="root", where="/", kind=kind, mib=320)
    recipe = Recipe(name="other", table="gpt", group="system", volumes=(root,))
    tree = copied("suse", "before", tmp_path / "tree")
    (tree / "etc/fstab").write_text(f"/dev/system/root / {kind} {options} 0 0\n")
    config = tree / "boot/grub2/grub.cfg"
    lines = config.read_text().splitlines(keepends=True)
    config.write_text("".join(line for line in lines if "lvmid/" not in line))  # of another group
    target = str(tmp_path / "target.img")
    disks = [str(disk) for disk in disks_of(recipe, tree, tmp_path)]
    for kind_of_pass in ("full", "incremental"):
        result = api.flatten(disks, target, FlattenOptions(create=True, state_dir=tmp_path / "state"))
        done = result.group.disks[0].result
        assert done is not None
        assert done.kind == kind_of_pass
        assert check_target(target) == []
        where = "/@/boot/grub2" if kind == "btrfs" else "/boot/grub2"
        assert any(f"reading {where} on partition" in line for line in result.loaders)
    assert file_of(Path(target), "/etc/fstab") == f"UUID={_uuid_of(target)} / {kind} {options} 0 0\n".encode()


def _uuid_of(target: str) -> str:
    return next(part.uuid for part in look_at(target).parts if part.uuid)


def test_without_root_rights_the_repair_goes_through_debugfs(
    disks: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as changed:
        changed.setattr(os, "geteuid", lambda: 1000)
        result = local(disks, tmp_path)
    assert ("fstab", "/etc/fstab") in result.changed
    assert any("GRUB for BIOS rebuilt" in line for line in result.loaders)
    target = tmp_path / "target.img"
    assert check_target(str(target)) == []
    for number in (1, 2, 4):
        part = next(part for part in look_at(str(target)).parts if part.number == number)
        words = ["e2fsck", "-fn", f"{target}?offset={part.offset}"]
        assert subprocess.run(words, capture_output=True, text=True, check=False).returncode == 0


def test_a_second_pass_brings_what_changed_and_repairs_anew(disks: list[Path], tmp_path: Path) -> None:
    local(disks, tmp_path)
    change_root(disks, b"changed today")
    result = local(disks, tmp_path)
    kinds = {outcome.source.rpartition("#")[2]: outcome.result for outcome in result.group.disks}
    root = kinds["web-01-vg/lv-root"]
    assert root is not None
    assert (root.kind, root.generation) == ("incremental", 2)
    # What the repair had written, and the change: nothing else of 48 MiB.
    assert 0 < root.changed < 12 * MIB
    assert kinds["web-01-vg/vault"].changed == 0  # type: ignore[union-attr]
    target = tmp_path / "target.img"
    fstab = file_of(target, "/etc/fstab") or b""
    assert b"changed today" in fstab
    assert check_target(str(target)) == []
    assert file_of(target, "/etc/blocksync-flatten/original/etc/fstab") != fstab


@pytest.mark.parametrize("left_out", ["fstab", "grub.cfg", "resume", "stale", "loader"])
def test_what_is_left_out_is_predicted_and_mended_later(left_out: str, disks: list[Path], tmp_path: Path) -> None:
    local(disks, tmp_path, skip=(left_out,))
    target = str(tmp_path / "target.img")
    found = check_target(target)
    assert {each.rule for each in found} == {left_out}
    if left_out in [rule.name for rule in RULES]:
        assert found[0].symptom == next(rule.symptom for rule in RULES if rule.name == left_out)
    before = Path(target).read_bytes()
    dry = api.repair_flattened(target, dry_run=True)
    assert Path(target).read_bytes() == before
    assert bool(dry.diff) == (left_out != "loader")
    api.repair_flattened(target)
    assert check_target(target) == []


def test_what_fstab_has_on_other_disks_is_told(disks: list[Path], tmp_path: Path) -> None:
    local(disks, tmp_path)
    target = tmp_path / "target.img"
    content = target.read_bytes()
    old = b"/dev/sr0        /media/cdrom0   udf,iso9660 user,noauto     0       0"
    new = b"/dev/sdc1       /media/backup   ext4        defaults        0       0"
    assert len(old) == len(new)
    assert old in content
    target.write_bytes(content.replace(old, new))
    found = [each.where for each in check_target(str(target)) if each.code == "BS1146"]
    assert found == ["/etc/fstab: /media/backup"]


def test_another_loader_in_the_place_of_ours_is_noticed(disks: list[Path], tmp_path: Path) -> None:
    local(disks, tmp_path)
    target = tmp_path / "target.img"
    with target.open("r+b") as file:
        file.seek(512 * 20)
        file.write(b"another core")
    found = check_target(str(target))
    assert [each.code for each in found] == ["BS1145"]
    assert "grub rescue>" in found[0].symptom
    api.repair_flattened(str(target))
    assert check_target(str(target)) == []


def test_a_target_that_somebody_divided_or_wrote_to_is_noticed(disks: list[Path], tmp_path: Path) -> None:
    local(disks, tmp_path)
    target = tmp_path / "target.img"
    part = look_at(str(target)).parts[3]
    with target.open("r+b") as file:
        file.seek(part.offset + 5 * MIB)
        file.write(os.urandom(MIB))
    result = local(disks, tmp_path)
    vault = result.group.disks[3].result
    assert vault is not None
    assert vault.changed + vault.zero >= MIB
    with target.open("r+b") as file:
        file.seek(446)
        file.write(bytes(16))
    with pytest.raises(FlattenChangedError):
        local(disks, tmp_path)
    local(disks, tmp_path, replace=True)
    assert check_target(str(target)) == []


def test_unfit_targets_are_refused_untouched(disks: list[Path], tmp_path: Path) -> None:
    target = tmp_path / "target.img"
    target.write_bytes(b"precious" * (40 * MIB // 8))
    with pytest.raises(TargetRefusedError):
        local(disks, tmp_path, create=False)
    with pytest.raises(FlattenSpaceError):
        local(disks, tmp_path, create=False, overwrite=True)
    assert target.read_bytes() == b"precious" * (40 * MIB // 8)


def test_a_filesystem_whose_free_blocks_are_miscounted_is_grown(tmp_path: Path) -> None:
    """As a running system's are: they are written when it is unmounted."""
    need_root()
    path = tmp_path / "part.img"
    with path.open("wb") as file:
        file.truncate(32 * MIB)
    subprocess.run(["mkfs.ext4", "-q", "-F", path], check=True)
    words = ["debugfs", "-w", "-R", "set_super_value free_blocks_count 1", path]
    subprocess.run(words, check=True, capture_output=True)
    with path.open("r+b") as file:
        file.truncate(48 * MIB)
    part = Part(number=1, offset=0, size=48 * MIB, type_id="", partuuid="", kind="ext4")
    disk = TargetDisk(path=str(path), table="", size=48 * MIB, sector_bytes=512, parts=(part,), holds_lvm=False)
    assert grow_filesystem(disk, 1) == f"partition 1: its ext4 was grown to {48 * MIB} bytes"
    assert subprocess.run(["e2fsck", "-fn", path], check=False, capture_output=True).returncode == 0
    assert not subprocess.run(["losetup", "-j", path], capture_output=True, text=True, check=True).stdout


def test_growth_reaches_the_filesystem(disks: list[Path], tmp_path: Path) -> None:
    result = local(disks, tmp_path, grow=(("lv-root", 96 * MIB),))
    assert any("grown" in note for note in result.notes)
    part = look_at(str(tmp_path / "target.img")).parts[1]
    said = subprocess.run(
        ["dumpe2fs", "-h", f"{tmp_path / 'target.img'}?offset={part.offset}"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    blocks = int(next(line.split()[-1] for line in said.splitlines() if line.startswith("Block count:")))
    size = int(next(line.split()[-1] for line in said.splitlines() if line.startswith("Block size:")))
    assert blocks * size == 96 * MIB


# -- over TLS ------------------------------------------------------------------------------------------------------


def test_over_tls_with_verify_an_incremental_pass_and_a_restarted_receiver(
    disks: list[Path], tmp_path: Path
) -> None:
    target = tmp_path / "target.img"
    size = api.plan_flatten([str(disk) for disk in disks]).size
    with receiving(target, tmp_path, create=size) as where:
        first = flattened(disks, where, tmp_path, verify=True)
    assert all(outcome.result is not None and outcome.result.kind == "full" for outcome in first.group.disks)
    assert first.root == 2
    assert check_target(str(target)) == []
    change_root(disks, b"changed today")
    with receiving(target, tmp_path) as where:
        again = flattened(disks, where, tmp_path)
    assert all(outcome.result is not None and outcome.result.kind == "incremental" for outcome in again.group.disks)
    assert b"changed today" in (file_of(target, "/etc/fstab") or b"")
    assert check_target(str(target)) == []
    slots = {info.slot for info in api.manifests(tmp_path / "receiver")}
    assert {"vm.p1", "vm.p2", "vm.p3", "vm.p4"} <= slots


def test_an_interrupted_transfer_is_resumed_and_only_the_rest_is_sent(
    disks: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blocksync.engine.slot.CHECKPOINT_SECONDS", 0.2)
    target = tmp_path / "target.img"
    size = api.plan_flatten([str(disk) for disk in disks]).size
    stop = api.Cancel()
    durable = 0

    def watch(now: Progress) -> None:
        nonlocal durable
        if now.slot == "vm.p2" and now.durable and now.changed >= 2 * MIB and not stop.is_set():
            durable = now.durable
            stop.set()

    with receiving(target, tmp_path, create=size) as where:
        with pytest.raises(InterruptedTransferError):  # slow enough to be met in the middle of the root's 3 MiB
            flattened(disks, where, tmp_path, cancel=stop, progress=watch, limits=Limits(read=MIB // 2))
        done = flattened(disks, where, tmp_path)
    root = next(outcome.result for outcome in done.group.disks if outcome.slot == "vm.p2")
    assert root is not None
    assert 0 < durable <= root.resumed < root.size
    assert 0 < root.changed < 3 * MIB
    assert done.root == 2
    assert check_target(str(target)) == []


def test_a_plain_rate_limits_a_flattened_transfer(
    disks: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[tuple[int, int]] = []

    def wait(pace: Pace, size: int, _stop: threading.Event) -> None:
        waited.append((pace._rate(), size))

    monkeypatch.setattr(Pace, "wait", wait)
    target = tmp_path / "target.img"
    with receiving(target, tmp_path, create=api.plan_flatten([str(disk) for disk in disks]).size) as where:
        flattened(disks, where, tmp_path, bwlimit=4 * MIB)
        with pytest.raises(UsageError, match="both give a bandwidth"):
            flattened(disks, where, tmp_path, bwlimit=MIB, limits=Limits(bandwidth=Schedule(otherwise=MIB)))
    assert sum(size for rate, size in waited if rate == 4 * MIB) > 3 * MIB


@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_growth_reaches_xfs_and_btrfs_by_their_own_tools(kind: str, tmp_path: Path) -> None:
    need_root()
    recipe = Recipe(
        name="grown", table="gpt", group="system", volumes=(Lv(name="root", where="/", kind=kind, mib=320),)
    )
    tree = copied("suse", "before", tmp_path / "tree")
    options = "subvol=@" if kind == "btrfs" else "defaults"
    (tree / "etc/fstab").write_text(f"/dev/system/root / {kind} {options} 0 0\n")
    config = tree / "boot/grub2/grub.cfg"
    config.write_text("".join(x for x in config.read_text().splitlines(keepends=True) if "lvmid/" not in x))
    disks = disks_of(recipe, tree, tmp_path)
    result = local(disks, tmp_path, grow=(("root", 448 * MIB),))
    target = str(tmp_path / "target.img")
    part = next(part for part in look_at(target).parts if part.kind == kind)
    assert part.size == 448 * MIB
    assert any(f"its {kind} was grown to {448 * MIB} bytes" in note for note in result.notes)

    def total() -> int:
        with mounted(part.place(target), read_only=True) as (_, folder):
            seen = os.statvfs(folder)
            return seen.f_blocks * seen.f_frsize

    # XFS keeps its log for itself.
    assert 448 * MIB - 64 * MIB <= privately(total) <= 448 * MIB
    assert check_target(target) == []


def test_growth_that_cannot_be_done_says_so(disks: list[Path], tmp_path: Path) -> None:
    result = local(disks, tmp_path, grow=(("lv-swap", 16 * MIB),))
    assert any("is not grown; the rest of it stays free" in note for note in result.notes)
    assert check_target(str(tmp_path / "target.img")) == []


def test_a_slot_is_a_whole_disk_or_divided_and_changes_only_by_consent(disks: list[Path], tmp_path: Path) -> None:
    target = tmp_path / "target.img"
    size = max(api.plan_flatten([str(disk) for disk in disks]).size, disks[1].stat().st_size)
    with receiving(target, tmp_path, create=size) as where:
        flattened(disks, where, tmp_path)
        options = SendOptions(to=f"127.0.0.1:{where.control_port}", state_dir=tmp_path / "sender", slot="vm")
        with pytest.raises(PeerError, match="flattened"):
            api.send(str(disks[1]), options)
        replaced = SendOptions(
            to=f"127.0.0.1:{where.control_port}", state_dir=tmp_path / "sender", slot="vm", replace=True
        )
        api.send(str(disks[1]), replaced)
        assert target.read_bytes()[: disks[1].stat().st_size] == disks[1].read_bytes()
        with pytest.raises(PeerError, match="whole disk"):
            flattened(disks, where, tmp_path)
        flattened(disks, where, tmp_path, replace=True)
    assert check_target(str(target)) == []

"""Disks onto several targets, on real images: locally and over TLS, again after changes and cuts, and what stops it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from flatten_trees import copied

from blocksync import api
from blocksync.cli import main
from blocksync.engine.reach import Reach
from blocksync.errors import (
    FlattenChangedError,
    FlattenError,
    FlattenRefusedError,
    FlattenSpaceError,
    GuestMountError,
    InterruptedTransferError,
    PeerError,
    ProtocolError,
    TargetRefusedError,
    TrustError,
    UsageError,
)
from blocksync.flatten import record
from blocksync.flatten.check import check_target
from blocksync.flatten.mounts import privately
from blocksync.flatten.system import assembled, look_at
from blocksync.limits import Limits
from blocksync.options import FlattenOptions, TargetSpec
from blocksync.protocol.messages import CONTROL_VERSION, DivideRequest, FinishRequest
from blocksync.results import FlattenResult, Progress
from tests.devices import image, loop_device, need_root, replace_bytes
from tests.vm.apart import data_disk, fstab_lines
from tests.vm.systems import Lv, Recipe, disks_of
from tests.vm.wire import flattened, receiving

MIB = 1 << 20
RECIPE = Recipe(
    name="apart",
    boot_mib=16,
    group="web-01-vg",
    volumes=(
        Lv(name="lv-root", where="/", kind="ext4", mib=48),
        Lv(name="lv-swap", where="swap", kind="swap", mib=8),
    ),
)
DATA = (
    Lv(name="vault", where="/srv", kind="ext4", mib=24),
    Lv(name="mail", where="/var/mail", kind="ext4", mib=16),
)
ONTO = FlattenOptions(onto=("vm2",))


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A disk with a Debian-like system on LVM, and one with a volume group of data."""
    need_root()
    folder = tmp_path_factory.mktemp("pristine")
    tree = copied("debian", "before", folder / "tree")
    for where in ("srv", "var/mail"):
        (tree / where).mkdir(parents=True)
    fstab = tree / "etc/fstab"
    fstab.write_text(fstab.read_text() + fstab_lines(DATA))
    (tree / "etc/crypttab").unlink()
    (tree / "data").write_bytes(os.urandom(3 * MIB))
    return [*disks_of(RECIPE, tree, folder), data_disk(RECIPE, DATA, folder, extra=os.urandom(4 * MIB))]


@pytest.fixture
def disks(pristine: list[Path], tmp_path: Path) -> list[Path]:
    return [Path(shutil.copy(disk, tmp_path / disk.name)) for disk in pristine]


@pytest.fixture
def targets(tmp_path: Path) -> list[Path]:
    return [tmp_path / "first.img", tmp_path / "second.img"]


def local(disks: list[Path], targets: list[Path], **more: object) -> FlattenResult:
    facts: dict[str, object] = {
        "create": True, "state_dir": disks[0].parent / "state", "onto": (str(targets[1]),), **more
    }  # fmt: skip
    return api.flatten([str(disk) for disk in disks], str(targets[0]), FlattenOptions(**facts))  # type: ignore[arg-type]


def file_of(targets: list[Path], path: str) -> bytes | None:
    """A file of the system on some targets."""

    def read() -> bytes | None:
        with assembled(look_at(*map(str, targets)), None, write=False) as system:
            return system.guest.read(path, 64 * MIB)

    return privately(read)


def sizes(disks: list[Path]) -> list[int]:
    return [target.size for target in api.plan_flatten([str(disk) for disk in disks], targets=2).targets]


def offered(targets: list[Path], create: list[int]) -> list[TargetSpec]:
    return [TargetSpec(path=str(targets[1]), slot="vm2", create_size=create[1])]


def whole(targets: list[Path]) -> None:
    """All filesystems of the targets are sound, nothing names a volume, and no loop device stayed."""
    for target in targets:
        for part in look_at(str(target)).parts:
            if part.kind == "ext4":
                words = ["e2fsck", "-fn", f"{target}?offset={part.offset}"]
                checked = subprocess.run(words, capture_output=True, text=True, check=False)
                assert checked.returncode == 0, checked.stdout
        assert not subprocess.run(["losetup", "-j", target], capture_output=True, text=True, check=True).stdout
    assert check_target(*map(str, targets)) == []


def kinds(result: FlattenResult) -> set[str]:
    return {outcome.result.kind for outcome in result.group.disks if outcome.result is not None}


# -- locally -------------------------------------------------------------------------------------------------------


def test_each_disk_goes_to_its_own_target_and_the_system_knows_both(disks: list[Path], targets: list[Path]) -> None:
    result = local(disks, targets)
    assert list(zip(result.targets, result.partitions, strict=True)) == [
        (1, (1, "disk 1 partition 1")),
        (1, (2, "web-01-vg/lv-root")),
        (1, (3, "web-01-vg/lv-swap")),
        (2, (1, "vg-data/vault")),
        (2, (2, "vg-data/mail")),
    ]
    assert (result.tables, result.root, result.root_target) == (("mbr", "gpt"), 2, 1)
    assert [path.stat().st_size for path in targets] == sizes(disks)
    fstab = (file_of(targets, "/etc/fstab") or b"").decode()
    uuids = [part.uuid for part in look_at(str(targets[1])).parts]
    assert all(f"UUID={uuid}" in fstab for uuid in uuids)
    whole(targets)


def test_all_targets_of_a_system_are_looked_at_together_in_any_order(
    disks: list[Path], targets: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    local(disks, targets, skip=("fstab",))
    first, second = map(str, targets)
    assert [each.code for each in check_target(first, second)] == ["BS1130"]
    assert [each.code for each in check_target(second, first)] == ["BS1130"]
    for wrong in ([first], [first, second, str(disks[0])], [first, str(disks[1])]):
        with pytest.raises(FlattenError, match="lies on 2 targets"):
            check_target(*wrong)
    with pytest.raises(GuestMountError):
        check_target(second)
    assert main(["flatten", "--check", first, second, "--json"]) == 11
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["beside"] == [second]
    with pytest.raises(FlattenError, match="lies on 2 targets"):
        api.repair_flattened(first)
    dry = api.repair_flattened(second, beside=[first], dry_run=True)
    assert "+UUID=" in dry.diff
    assert main(["flatten", "--repair", second, "--onto", first]) == 0
    assert "is repaired" in capsys.readouterr().out
    whole(targets)


def test_the_plan_is_shown_for_each_target(disks: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    words = ["inspect", *map(str, disks), "--flatten", "--targets", "2"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "target 1: MBR" in said
    assert "target 2: GPT" in said
    assert main([*words, "--place", "mail=1", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out.splitlines()[-1])["flatten"]
    assert [copy["volume"] for copy in plan["beside"][0]["copies"]] == ["vault"]
    assert ["fstab", "/etc/fstab"] in plan["edits"]


def test_a_second_pass_brings_what_changed_on_each_disk_and_repairs_anew(
    disks: list[Path], targets: list[Path]
) -> None:
    local(disks, targets)
    replace_bytes(disks[0], b"# / was on /dev/mapper", b"# changed today")
    replace_bytes(disks[1], b"first\n\0\0", b"again\n\0\0")
    result = local(disks, targets)
    assert kinds(result) == {"incremental"}
    found = {name: outcome.result for (_, name), outcome in zip(result.partitions, result.group.disks, strict=True)}
    vault = found["vg-data/vault"]
    assert vault is not None
    assert 0 < vault.changed < MIB  # nothing of the second target was repaired
    assert b"changed today" in (file_of(targets, "/etc/fstab") or b"")
    assert b"again\n" in targets[1].read_bytes()
    whole(targets)


def test_a_volume_that_lies_on_two_disks_is_gathered_where_it_is_placed(
    pristine: list[Path], tmp_path: Path, targets: list[Path]
) -> None:
    del pristine
    volumes = (
        Lv(name="lv-root", where="/", kind="ext4", mib=48, lies="split"),
        Lv(name="lv-swap", where="swap", kind="swap", mib=8, lies="striped"),
    )
    recipe = Recipe(name="split", boot_mib=16, disks=2, group="web-01-vg", volumes=volumes)
    tree = copied("debian", "before", tmp_path / "tree")
    (tree / "etc/crypttab").unlink()
    disks = disks_of(recipe, tree, tmp_path)
    with pytest.raises(UsageError, match="nothing goes to target 2"):
        local(disks, targets)
    # The system on the second target, the boot loader on the first, which the firmware boots.
    result = local(disks, targets, place=(("lv-root", 2),))
    assert (result.root_target, result.root) == (2, 1)
    assert any("reading /grub on partition 1 (" in line for line in result.loaders)
    whole(targets)


def test_a_boot_folder_on_a_further_target_is_searched_for(
    pristine: list[Path], tmp_path: Path, targets: list[Path]
) -> None:
    del pristine
    recipe = dataclasses.replace(RECIPE, name="inside", table="gpt", boot_mib=0)
    tree = copied("debian", "before", tmp_path / "tree")
    (tree / "etc/crypttab").unlink()
    fstab = tree / "etc/fstab"
    fstab.write_text("".join(x for x in fstab.read_text().splitlines(keepends=True) if "/boot" not in x))
    disks = disks_of(recipe, tree, tmp_path)
    result = local(disks, targets, place=(("lv-root", 2),))
    assert any("reading /boot/grub on partition 1 of target 2 (" in line for line in result.loaders)
    whole(targets)
    # What the repair wrote is known to be no longer the source's, on whichever target it was.
    again = local(disks, targets, place=(("lv-root", 2),), repair=False)
    assert kinds(again) == {"incremental"}
    assert b"/dev/mapper/web--01--vg-lv--root /" in (file_of(targets, "/etc/fstab") or b"")


def test_unfit_targets_are_refused_before_any_is_written(disks: list[Path], targets: list[Path]) -> None:
    enough = sizes(disks)
    image(targets[0], enough[0])
    image(targets[1], enough[1] - MIB)
    with pytest.raises(FlattenSpaceError, match="target 2 has"):
        local(disks, targets, create=False)
    targets[1].write_bytes(b"precious" * (enough[1] // 8))
    with pytest.raises(TargetRefusedError):
        local(disks, targets)
    # Consent to one is not consent to the other.
    with pytest.raises(TargetRefusedError):
        local(disks, targets, overwrite=True)
    assert not any(targets[0].read_bytes())
    assert targets[1].read_bytes() == b"precious" * (enough[1] // 8)
    local(disks, targets, overwrite_onto=(str(targets[1]),))
    whole(targets)
    with pytest.raises(FlattenChangedError):
        local(disks, targets, place=(("mail", 1),))
    whole(targets)
    with pytest.raises(UsageError, match="twice"):
        local(disks, [targets[0], targets[0]])
    with pytest.raises(TargetRefusedError):
        local(disks, [targets[0], disks[1]], overwrite_onto=(str(disks[1]),))


def test_a_further_target_that_changed_keeps_the_first_one_as_it_is(disks: list[Path], targets: list[Path]) -> None:
    local(disks, targets)
    with targets[1].open("r+b") as file:
        file.seek(446)
        file.write(b"\1" * 16)
    before = targets[0].read_bytes()
    with pytest.raises(FlattenChangedError, match="second"):
        local(disks, targets)
    assert targets[0].read_bytes() == before
    third = image(targets[0].parent / "third.img", sizes(disks)[0])
    with pytest.raises(FlattenChangedError, match="second"):
        local(disks, [third, targets[1]])
    assert not any(third.read_bytes())
    local(disks, targets, replace=True)
    whole(targets)


def test_growth_reaches_a_filesystem_of_a_further_target(disks: list[Path], targets: list[Path]) -> None:
    result = local(disks, targets, grow=(("vault", 40 * MIB),))
    assert any(f"grown to {40 * MIB} bytes" in note for note in result.notes)
    whole(targets)


def test_devices_are_targets(disks: list[Path], targets: list[Path]) -> None:
    images = [image(path, size) for path, size in zip(targets, sizes(disks), strict=True)]
    with loop_device(images[0]) as first, loop_device(images[1]) as second:
        for kind in ("full", "incremental"):
            result = local(disks, [Path(first), Path(second)], create=False)
            assert kinds(result) == {kind}
        assert check_target(first, second) == []
    whole(targets)


def test_a_kill_in_the_middle_is_resumed(disks: list[Path], targets: list[Path]) -> None:
    replace_bytes(disks[1], b"first\n\0\0", b"other\n\0\0")
    words = [sys.executable, "-m", "blocksync", "flatten", *map(str, disks), str(targets[0])]
    words += ["--onto", str(targets[1]), "--create", "--state-dir", str(disks[0].parent / "state")]
    traced = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync"]
    killed = 0
    for at in (3, 9, 15, 21):
        done = subprocess.run(
            [*traced, "-e", f"inject=fdatasync:signal=SIGKILL:when={at}", *words],
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        killed += done.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL)
    assert killed >= 2
    last = subprocess.run([*words, "--json"], capture_output=True, text=True, check=False, timeout=300)
    assert last.returncode == 0, last.stderr
    assert b"other\n" in targets[1].read_bytes()
    whole(targets)


# -- over TLS ------------------------------------------------------------------------------------------------------


def test_over_tls_to_two_slots_with_verify_an_incremental_pass_and_a_restarted_receiver(
    disks: list[Path], targets: list[Path], tmp_path: Path
) -> None:
    needed = sizes(disks)
    with receiving(targets[0], tmp_path, create=needed[0], beside=offered(targets, needed)) as where:
        first = flattened(disks, where, tmp_path, ONTO, verify=True)
    assert kinds(first) == {"full"}
    assert [outcome.slot for outcome in first.group.disks] == ["vm.p1", "vm.p2", "vm.p3", "vm2.p1", "vm2.p2"]
    assert first.targets == (1, 1, 1, 2, 2)
    whole(targets)
    replace_bytes(disks[0], b"# / was on /dev/mapper", b"# changed today")
    replace_bytes(disks[1], b"first\n\0\0", b"again\n\0\0")
    with receiving(targets[0], tmp_path, beside=offered(targets, needed)) as where:
        again = flattened(disks, where, tmp_path, ONTO, slot="vm")
    assert kinds(again) == {"incremental"}
    assert b"changed today" in (file_of(targets, "/etc/fstab") or b"")
    assert b"again\n" in targets[1].read_bytes()
    whole(targets)


def test_an_interrupted_transfer_to_two_slots_is_resumed(
    disks: list[Path], targets: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blocksync.engine.slot.CHECKPOINT_SECONDS", 0.2)
    needed = sizes(disks)
    stop = api.Cancel()
    durable = 0

    def watch(now: Progress) -> None:
        nonlocal durable
        if now.slot == "vm2.p1" and now.durable and now.changed >= 2 * MIB and not stop.is_set():
            durable = now.durable
            stop.set()

    with receiving(targets[0], tmp_path, create=needed[0], beside=offered(targets, needed)) as where:
        with pytest.raises(InterruptedTransferError):
            flattened(disks, where, tmp_path, ONTO, cancel=stop, progress=watch, limits=Limits(read=MIB // 2))
        done = flattened(disks, where, tmp_path, ONTO)
    vault = next(outcome.result for outcome in done.group.disks if outcome.slot == "vm2.p1")
    assert vault is not None
    assert 0 < durable <= vault.resumed < vault.size
    whole(targets)


def test_excluded_files_go_from_the_volumes_of_both_targets(
    disks: list[Path], targets: list[Path], tmp_path: Path
) -> None:
    needed = sizes(disks)
    with receiving(targets[0], tmp_path, create=needed[0], beside=offered(targets, needed)) as where:
        done = flattened(disks, where, tmp_path, ONTO, exclude=("/data", "/extra"), remove_excluded=True)
    assert done.root == 2
    assert file_of(targets, "/data") is None
    vault = look_at(str(targets[1])).parts[0]
    shown = subprocess.run(
        ["debugfs", "-R", "ls -p /", f"{targets[1]}?offset={vault.offset}"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "/marker/" in shown
    assert "/extra/" not in shown
    whole(targets)


def test_slots_that_are_too_small_or_taken_are_refused_before_any_is_written(
    disks: list[Path], targets: list[Path], tmp_path: Path
) -> None:
    needed = sizes(disks)
    short = [needed[0], needed[1] - MIB]
    with receiving(targets[0], tmp_path, create=needed[0], beside=offered(targets, short)) as where:
        with pytest.raises(FlattenSpaceError, match="vm2 has"):
            flattened(disks, where, tmp_path, ONTO)
        assert not any(targets[0].read_bytes())
        assert not any(targets[1].read_bytes())
        with pytest.raises(UsageError, match="twice"):
            flattened(disks, where, tmp_path, ONTO, slot="vm2")
        with pytest.raises(TrustError, match="vm3"):
            flattened(disks, where, tmp_path, FlattenOptions(onto=("vm3",)))


def test_a_slot_that_holds_something_else_keeps_the_others_unwritten(
    disks: list[Path], targets: list[Path], tmp_path: Path
) -> None:
    needed = sizes(disks)
    room = [needed[0], needed[1] + MIB]  # a disk alone gets a place for a boot loader too
    with receiving(targets[0], tmp_path, create=room[0], beside=offered(targets, room)) as where:
        alone = FlattenOptions(repair=False)
        flattened(disks[1:], where, tmp_path, alone, slot="vm2")
        held = targets[1].read_bytes()
        with pytest.raises(FlattenChangedError, match="second"):
            flattened(disks, where, tmp_path, ONTO)
        assert not any(targets[0].read_bytes())
        assert targets[1].read_bytes() == held
        flattened(disks, where, tmp_path, ONTO, replace=True)
    whole(targets)


def test_more_volumes_than_a_plan_can_tell_are_refused_before_anything_is_written(
    disks: list[Path], targets: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blocksync.flatten.sending.MAX_PLAN_BYTES", 10 << 10)
    needed = sizes(disks)
    with (
        receiving(targets[0], tmp_path, create=needed[0], beside=offered(targets, needed)) as where,
        pytest.raises(FlattenRefusedError, match="5 volumes and partitions"),
    ):
        flattened(disks, where, tmp_path, ONTO)
    assert not any(targets[0].read_bytes())


def test_the_receiver_counts_slots_itself(disks: list[Path], targets: list[Path], tmp_path: Path) -> None:
    needed = sizes(disks)
    plan = record.to_json(api.plan_flatten([str(disk) for disk in disks], targets=2))
    del plan["edits"]

    def asked(reach: Reach, slot: str, beside: str) -> None:
        reach.control.divide(
            DivideRequest(version=CONTROL_VERSION, slot=slot, replace=False, plan=plan, beside=beside)
        )

    with (
        receiving(targets[0], tmp_path, create=needed[0], beside=offered(targets, needed)) as where,
        contextlib.closing(Reach(tmp_path / "sender", f"127.0.0.1:{where.control_port}", where.code)) as reach,
    ):
        flattened(disks, where, tmp_path, ONTO)
        wrongs: list[tuple[Callable[[], None], type[Exception]]] = [
            (lambda: asked(reach, "vm", ""), ProtocolError),
            (lambda: asked(reach, "vm", "vm2,vm2"), PeerError),
            (lambda: asked(reach, "vm", "vm"), PeerError),
            (lambda: asked(reach, "vm", "vm2.p1"), PeerError),
            (lambda: asked(reach, "vm", "nobody"), TrustError),
            (lambda: asked(reach, "vm2", "vm"), FlattenError),
        ]
        for wrong, expected in wrongs:
            with pytest.raises(expected):
                wrong()
        flattened(disks, where, tmp_path, ONTO)
        reach.control.finish(FinishRequest(version=CONTROL_VERSION, slot="vm", beside="vm2"))
    whole(targets)


# -- the command ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ["flatten", "a.img", "b.img", "--place", "home"],
        ["flatten", "a.img", "b.img", "--place", "=2"],
        ["flatten", "a.img", "b.img", "--place", "home=two"],
        ["flatten", "a.img", "b.img", "--place", "home=1", "--place", "home=2"],
        ["flatten", "a.img", "b.img", "--grow", "home=1G", "--grow", "home=2G"],
        ["send", "a.img", "--to", "host", "--flatten", "--grow", "home=1G", "--grow", "home=1G"],
        ["flatten", "a.img", "--onto", "c.img"],
        ["flatten", "--check", "--repair", "a.img"],
        ["flatten", "a.img", "b.img", "--onto", "c.img", "--overwrite", "d.img"],
        ["send", "a.img", "--to", "host", "--onto", "other"],
        ["send", "a.img", "--to", "host", "--place", "home=2"],
        ["inspect", "a.img", "--targets", "2"],
        ["inspect", "a.img", "--place", "home=2"],
    ],
)
def test_wrong_words_are_told(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert capsys.readouterr().err


def test_the_command_tells_each_target(
    disks: list[Path], targets: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = map(str, targets)
    words = ["flatten", *map(str, disks), first, "--onto", second, "--state-dir", str(disks[0].parent / "state")]
    targets[1].write_bytes(b"precious" * (sizes(disks)[1] // 8))
    assert main([*words, "--create", "--overwrite", second]) == 0
    said = capsys.readouterr().out
    assert f"{first} has 3 partitions (MBR)" in said
    assert f"{second} has 2 partitions (GPT)" in said
    whole(targets)

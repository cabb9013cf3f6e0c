"""Rule 9: each reason to refuse a target, with the real thing."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from blocksync.api import CopyOptions, FlattenOptions, copy, flatten
from blocksync.errors import TargetError, TargetRefusedError
from blocksync.platforms import sysfs
from blocksync.targets import open_target
from blocksync.targets.disk import create_image
from tests.devices import image, loop_device, need_root, run

MIB = 1 << 20
SIZE = 16 * MIB


def refused(path: str | Path, **more: object) -> str:
    """The reason why it is refused; asserts that there is a remedy and that nothing was written."""
    with pytest.raises(TargetRefusedError) as told:
        open_target(str(path), **more).close()  # type: ignore[arg-type]  # keywords of each test
    assert str(path) in told.value.message
    assert told.value.remedy
    return told.value.message


@pytest.fixture
def device(tmp_path: Path) -> Iterator[str]:
    need_root()
    with loop_device(image(tmp_path / "device.img", SIZE)) as made:
        yield made


@contextmanager
def mounted(device: str, place: Path) -> Iterator[None]:
    place.mkdir(exist_ok=True)
    run("mount", device, place)
    try:
        yield
    finally:
        run("umount", place)


def test_a_free_empty_device_is_taken(device: str) -> None:
    with open_target(device) as target:
        assert target.size == SIZE


def test_a_mounted_device(device: str, tmp_path: Path) -> None:
    run("mkfs.ext4", "-q", device)
    with mounted(device, tmp_path / "place"):
        assert "mounted at" in refused(device, overwrite=True)
    with open_target(device, overwrite=True) as target:
        assert target.size == SIZE


def test_a_disk_of_which_a_partition_is_mounted(tmp_path: Path) -> None:
    need_root()
    path = image(tmp_path / "disk.img", 64 * MIB)
    subprocess.run(["sfdisk", "-q", str(path)], input="label: gpt\n,32M\n,\n", text=True, check=True)
    with loop_device(path) as disk:
        run("partx", "--add", disk)
        try:
            run("mkfs.ext4", "-q", f"{disk}p1")
            with mounted(f"{disk}p1", tmp_path / "place"):
                assert "mounted at" in refused(disk, overwrite=True)
                assert "mounted at" in refused(f"{disk}p1", overwrite=True)
                # Its other partition is nobody's.
                open_target(f"{disk}p2", overwrite=True).close()
        finally:
            run("partx", "--delete", disk)


def test_a_device_used_as_swap(device: str) -> None:
    run("mkswap", "-q", device)
    run("swapon", device)
    try:
        assert "swap" in refused(device, overwrite=True)
    finally:
        run("swapoff", device)


def test_a_file_used_as_swap_is_found_by_its_inode(tmp_path: Path) -> None:
    need_root()
    path = tmp_path / "swap.img"
    path.write_bytes(bytes(4 * MIB))
    path.chmod(0o600)
    run("mkswap", "-q", path)
    if subprocess.run(["swapon", str(path)], check=False, capture_output=True).returncode:
        with loop_device(path) as device:  # a filesystem without swap files: through a device then
            assert "loop device" in refused(path, overwrite=True)
            assert device
        return
    try:
        assert "swap" in refused(path, overwrite=True)
    finally:
        run("swapoff", path)


def test_a_file_below_a_loop_device(tmp_path: Path) -> None:
    need_root()
    path = image(tmp_path / "disk.img", SIZE)
    with loop_device(path) as device:
        assert device in refused(path)
    open_target(str(path)).close()


def test_a_file_below_a_loop_device_that_knows_it_by_a_name_that_is_gone(tmp_path: Path) -> None:
    need_root()
    path = image(tmp_path / "disk.img", SIZE)
    os.link(path, tmp_path / "other.img")
    with loop_device(path) as device:
        path.unlink()
        image(path, SIZE)  # a new file of the old name is nobody's
        assert device in refused(tmp_path / "other.img")
        assert "lies on the source" in to_itself(tmp_path / "other.img", device, tmp_path / "state")
        open_target(str(path)).close()


def test_a_device_below_another_loop_device(device: str) -> None:
    with loop_device(Path(device)) as upper:
        assert upper in refused(device)


def test_a_device_that_another_process_holds(device: str) -> None:
    hold = (
        "import os, sys; os.open(sys.argv[1], os.O_RDWR | os.O_EXCL); print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", hold, device], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        refused(device)
        holder.communicate("")
    open_target(device).close()


def test_two_of_ours_do_not_write_one_image(tmp_path: Path) -> None:
    path = image(tmp_path / "disk.img", SIZE)
    with closing(open_target(str(path))):
        assert "another process" in refused(path)


def test_a_device_that_is_read_only(tmp_path: Path) -> None:
    need_root()
    path = image(tmp_path / "disk.img", SIZE)
    with loop_device(path, read_only=True) as device, pytest.raises(TargetError):
        open_target(device)


@pytest.mark.parametrize("offset", [0, 1080, SIZE - 512, SIZE // 2])
def test_a_file_that_is_not_empty(tmp_path: Path, offset: int) -> None:
    path = image(tmp_path / "disk.img", SIZE)
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"x")
    before = path.read_bytes()
    assert "not empty" in refused(path)
    assert path.read_bytes() == before
    open_target(str(path), overwrite=True).close()


@pytest.mark.parametrize(
    "tool", [("mkfs.ext4", "-q"), ("mkfs.xfs", "-q"), ("mkswap", "-q"), ("pvcreate", "-q"), ("mkfs.vfat",)]
)
def test_a_device_with_something_on_it(tmp_path: Path, tool: tuple[str, ...]) -> None:
    need_root()
    with loop_device(image(tmp_path / "disk.img", 320 * MIB)) as device:
        more = ["--config", 'devices{scan=["/dev"] use_devicesfile=0}'] if tool[0] == "pvcreate" else []
        run(*tool, *more, device)
        assert "not empty" in refused(device)


def test_a_device_with_a_partition_table(device: str) -> None:
    subprocess.run(["sfdisk", "-q", "--no-reread", device], input="label: gpt\n,\n", text=True, check=True)
    assert "not empty" in refused(device)


def test_state_on_the_target(device: str, tmp_path: Path) -> None:
    run("mkfs.ext4", "-q", device)
    place = tmp_path / "place"
    with mounted(device, place):
        (place / "state").mkdir()
        # The mount would refuse it as well, so the rule is asked by itself.
        from blocksync.targets.fitness import refuse_state_on_target

        with pytest.raises(TargetRefusedError, match="state folder"):
            refuse_state_on_target(device, os.stat(device), place / "state")
        refuse_state_on_target(device, os.stat(device), tmp_path)
        backing = tmp_path / "device.img"
        with pytest.raises(TargetRefusedError, match="state folder"):
            refuse_state_on_target(str(backing), os.stat(backing), place / "state")


@pytest.mark.parametrize("kind", ["folder", "character device", "pipe"])
def test_what_is_no_disk(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "it"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path = Path("/dev/null")
    assert "neither" in refused(path) or kind == "folder"


def test_a_missing_file_is_told_with_the_way_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(TargetError) as told:
        open_target(str(tmp_path / "missing.img"))
    assert "--create" in told.value.remedy


def test_a_file_of_no_size(tmp_path: Path) -> None:
    path = image(tmp_path / "disk.img", 0)
    assert "no size" in refused(path)


def test_creating_does_not_touch_what_is_there(tmp_path: Path) -> None:
    path = image(tmp_path / "disk.img", MIB, b"precious")
    refused(path, create_size=SIZE)
    assert path.read_bytes()[:8] == b"precious"
    assert path.stat().st_size == MIB


@pytest.mark.parametrize("size", [(1 << 63) - 512, 1 << 63, 10**30])
def test_an_image_larger_than_a_file_can_be_is_refused_and_nothing_of_it_is_left(tmp_path: Path, size: int) -> None:
    with pytest.raises(TargetError, match="cannot create"):
        create_image(str(tmp_path / "image"), size)
    assert not list(tmp_path.iterdir())


def test_a_created_image_is_sparse_and_private(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    with open_target(str(path), create_size=SIZE) as target:
        assert target.size == SIZE
        assert target.capabilities.fresh
    assert path.stat().st_blocks == 0
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_target_that_was_replaced_meanwhile_is_not_written_to(tmp_path: Path) -> None:
    path = image(tmp_path / "disk.img", SIZE)
    with open_target(str(path)) as target:
        path.rename(tmp_path / "old.img")
        image(path, SIZE)
        with pytest.raises(TargetRefusedError, match="replaced"):
            target.reopen()


def test_a_full_filesystem_is_told_as_such(tmp_path: Path) -> None:
    need_root()
    place = tmp_path / "small"
    place.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place)
    try:
        with open_target(str(place / "disk.img"), create_size=4 * MIB) as target:
            with pytest.raises(TargetError) as told:
                target.write(0, memoryview(b"x" * 4 * MIB))
            assert told.value.code == "BS0503"
            assert "free space" in told.value.remedy
    finally:
        run("umount", place)


def test_a_file_below_a_loop_device_is_found_whatever_bytes_its_name_has(tmp_path: Path) -> None:
    need_root()
    path = image(tmp_path / os.fsdecode(b"dis\xff k\xc3\xa9.img"), SIZE)
    with loop_device(path):
        assert "loop device" in refused(path)


def test_a_swap_file_is_found_whatever_bytes_its_name_has(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = image(tmp_path / os.fsdecode(b"swa\xff p\xc3\xa9.img"), SIZE)
    listed = str(path).replace(" ", "\\040")
    real = sysfs.text_of

    def swapped(asked: Path) -> str:
        if asked == Path("/proc/swaps"):
            return f"Filename Type Size Used Priority\n{listed} file 1 0 -2"
        return real(asked)

    monkeypatch.setattr(sysfs, "text_of", swapped)
    assert "used as swap" in refused(path)


def to_itself(source: str | Path, target: str | Path, state: Path) -> str:
    """The reason why a copy and a flattening, both with consent, are refused."""
    told = set()
    for attempt in (
        lambda: copy(str(source), str(target), CopyOptions(overwrite=True, state_dir=state)),
        lambda: flatten([str(source)], str(target), FlattenOptions(overwrite=True, state_dir=state)),
    ):
        with pytest.raises(TargetRefusedError) as refusal:
            attempt()
        assert refusal.value.remedy
        told.add(refusal.value.message)
    (message,) = told
    return message


def test_a_disk_is_not_copied_onto_itself(tmp_path: Path) -> None:
    disk = image(tmp_path / "disk.img", SIZE)
    os.link(disk, tmp_path / "hard.img")
    (tmp_path / "soft.img").symlink_to(disk)
    for other in (disk, tmp_path / "hard.img", tmp_path / "soft.img"):
        assert "lies on the source" in to_itself(disk, other, tmp_path / "state")


def test_a_disk_is_not_copied_onto_what_it_stands_on(device: str, tmp_path: Path) -> None:
    backing = tmp_path / "device.img"
    assert "lies on the source" in to_itself(backing, device, tmp_path / "state")
    assert "lies on the source" in to_itself(device, backing, tmp_path / "state")
    with loop_device(backing) as second:
        assert "lies on the source" in to_itself(device, second, tmp_path / "state")


@contextmanager
def partitions(device: str) -> Iterator[None]:
    """Let the kernel know of the partitions on a device, which not every kernel looks for by itself."""
    run("partx", "--add", device)
    try:
        yield
    finally:
        run("partx", "--delete", device)


def test_partitions_of_one_disk_are_copied_to_each_other(tmp_path: Path) -> None:
    need_root()
    disk = image(tmp_path / "disk.img", SIZE)
    run("sfdisk", "--quiet", disk, text="label: dos\n,4M\n,4M\n")
    with loop_device(disk) as whole, partitions(whole):
        first, second = f"{whole}p1", f"{whole}p2"
        assert "lies on the source" in to_itself(first, whole, tmp_path / "state")
        assert "lies on the source" in to_itself(whole, first, tmp_path / "state")
        wanted = CopyOptions(overwrite=True, state_dir=tmp_path / "state")
        with pytest.raises(TargetRefusedError, match="lies on the source"):
            copy(f"{disk}#2", first, wanted)
        done = copy(first, second, wanted)
        assert done.size == 4 * MIB


def test_a_devices_mark_changes_with_each_write_and_discard_and_with_no_flush(device: str) -> None:
    with open_target(device) as target:
        target.write(0, memoryview(b"x" * 4096))
        target.sync()
        first = target.write_mark()
        assert first
        for _ in range(3):
            target.sync()  # as a verify begins
        assert target.write_mark() == first
        with open(device, "r+b") as other:
            other.write(b"y" * 4096)
            other.flush()
            os.fsync(other.fileno())
        second = target.write_mark()
        run("blkdiscard", "--force", "--offset", str(MIB), "--length", str(MIB), device)
        assert len({first, second, target.write_mark()}) == 3

"""Used blocks only: what no file uses costs nothing, and every copy passes its filesystem's check all the same."""

from __future__ import annotations

import os
import random
import subprocess
from pathlib import Path

import pytest
from engine_used import MIB, SIZE, fill, sums, used_disk

from blocksync.api import CopyOptions, SendResult, copy
from blocksync.control.service import Peer
from blocksync.engine.allocation import AllocatedSource, allocated
from blocksync.engine.cancel import Cancel
from blocksync.engine.port import PeerPort
from blocksync.engine.receiver import Receiver
from blocksync.engine.slot import Slot
from blocksync.engine.verify import Verifier
from blocksync.errors import SourceError, UsageError
from blocksync.extents import ExtentKind
from blocksync.manifest.folder import OsFolder
from blocksync.results import VerifyResult
from blocksync.sources import open_source
from blocksync.targets import open_target
from tests.devices import image, loop_device, mounted, need_root, run


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    return used_disk(tmp_path)


def junk(path: Path) -> Path:
    path.write_bytes(random.Random(9).randbytes(SIZE))
    return path


def passed(disk: Path | str, target: Path, *, all_blocks: bool = False) -> SendResult:
    new = not target.exists()
    options = CopyOptions(create=new, overwrite=not new, state_dir=target.parent / "state", all_blocks=all_blocks)
    return copy(str(disk), str(target), options)


def check(made: Path, disk: Path, tmp_path: Path) -> None:
    """On a second copy: mounting writes, which the next pass would take for somebody else's."""
    target = tmp_path / "looked-at.img"
    run("cp", "--sparse=always", made, target)
    done = subprocess.run(["e2fsck", "-fn", target], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    with mounted(disk, tmp_path / "there", read_only=True) as folder:
        expected = sums(folder)
    with mounted(target, tmp_path / "here") as folder:
        assert sums(folder) == expected
    assert expected


def compare(disk: Path, target: Path, tmp_path: Path, *, all_blocks: bool) -> VerifyResult:
    there = open_target(str(target), overwrite=True, state_dir=tmp_path / "state")
    receiver = Receiver({"a": Slot("a", there, OsFolder(tmp_path / "slot"))}, lambda _p, _s: True, lambda _p: None)
    try:
        with open_source(str(disk)) as source:
            port = PeerPort(receiver, Peer(fingerprint=bytes(32), name="us"))
            return Verifier(source, port, "a", None, Cancel(), all_blocks=all_blocks).run()
    finally:
        receiver.close()


def test_a_new_target_gets_what_is_used_and_nothing_else(disk: Path, tmp_path: Path) -> None:
    target = tmp_path / "target.img"
    result = passed(disk, target)
    assert result.unused > 40 * MIB
    assert result.read + result.zero + result.unused == SIZE or result.read < SIZE - result.unused + MIB
    assert result.notes == ()
    assert target.stat().st_blocks * 512 < SIZE - result.unused + MIB
    check(target, disk, tmp_path)


def test_old_data_on_a_target_become_zeros_where_nothing_is_used(disk: Path, tmp_path: Path) -> None:
    target = junk(tmp_path / "target.img")
    result = passed(disk, target)
    assert result.unused > 40 * MIB
    assert result.zero >= result.unused
    with open_source(str(disk)) as source:
        wrapped = allocated(source, all_blocks=False).source
        free = [extent for extent in wrapped.extents() if extent.kind is ExtentKind.UNUSED]
    content = target.read_bytes()
    for extent in free:
        start, end = -(-extent.offset // 65536) * 65536, extent.end // 65536 * 65536
        assert not any(content[start:end])
    check(target, disk, tmp_path)


@pytest.mark.parametrize("old", [False, True])
def test_later_passes_follow_the_filesystem(disk: Path, tmp_path: Path, old: bool) -> None:
    target = junk(tmp_path / "target.img") if old else tmp_path / "target.img"
    passed(disk, target)
    for seed in (2, 3):
        with mounted(disk, tmp_path / "there") as folder:
            for path in random.Random(seed).sample(sorted(folder.glob("s*f*")), 12):
                path.unlink()
            fill(folder, seed)
        result = passed(disk, target)
        assert result.kind == "incremental"
        check(target, disk, tmp_path)
    assert passed(disk, target).changed == 0
    whole = passed(disk, target, all_blocks=True)
    assert whole.unused == 0
    assert target.read_bytes() == disk.read_bytes()


def test_a_verify_looks_at_what_is_used_unless_asked_for_all(disk: Path, tmp_path: Path) -> None:
    target = tmp_path / "target.img"
    passed(disk, target)
    good = compare(disk, target, tmp_path, all_blocks=False)
    assert good.identical
    assert good.unused > 40 * MIB
    whole = compare(disk, target, tmp_path, all_blocks=True)
    assert not whole.identical
    assert whole.unused == 0
    content = disk.read_bytes()
    with open_source(str(disk)) as source:
        wrapped = allocated(source, all_blocks=False).source
        used = next(e for e in wrapped.extents() if e.kind is ExtentKind.DATA and e.offset > 20 * MIB)
    with target.open("r+b") as file:
        file.seek(used.offset + 77)
        file.write(bytes([content[used.offset + 77] ^ 1]))
    bad = compare(disk, target, tmp_path, all_blocks=False)
    assert bad.differing == ((used.offset // 4096 * 4096, 4096),)


def test_what_is_mounted_is_read_whole_and_that_is_said(disk: Path, tmp_path: Path) -> None:
    target = tmp_path / "target.img"
    with mounted(disk, tmp_path / "there"):
        result = passed(disk, target)
    assert result.unused == 0
    assert "mounted at" in result.notes[0]
    hold = (
        "import fcntl, sys; f = open(sys.argv[1], 'r+'); fcntl.lockf(f, fcntl.LOCK_EX); print(flush=True); input()"
    )
    done = subprocess.Popen(["python3", "-c", hold, disk], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with done:
        assert done.stdout is not None
        done.stdout.readline()
        with open_source(str(disk)) as source:
            assert "lock" in source.in_use()
        done.communicate(b"\n")
    with open_source(str(disk)) as source:
        assert source.in_use() == ""


@pytest.mark.parametrize("kind", ["btrfs", "ext4"])
@pytest.mark.parametrize("through", ["device", "file"])
def test_a_mount_that_the_list_of_mounts_does_not_show_is_seen(tmp_path: Path, kind: str, through: str) -> None:
    """btrfs mounts by numbers of its own, and another namespace's mounts are not listed in ours."""
    need_root()
    path = image(tmp_path / "disk.img", 128 * MIB)
    run(f"mkfs.{kind}", "-q", path)
    place = tmp_path / "there"
    place.mkdir()
    with loop_device(path) as device:
        words = [
            "unshare",
            "--mount",
            "sh",
            "-c",
            f"mount {device} {place} && echo mounted && read x; umount {place}",
        ]
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
            assert other.stdout is not None
            assert other.stdout.readline() == b"mounted\n"
            with open_source(device if through == "device" else str(path)) as source:
                assert "the system holds" in source.in_use()
            other.communicate(b"\n")
        with open_source(device if through == "device" else str(path)) as source:
            assert source.in_use() == ""


def test_a_filesystem_that_is_mounted_meanwhile_is_noticed_before_the_commit(disk: Path, tmp_path: Path) -> None:
    with open_source(str(disk)) as base:
        source = allocated(base, all_blocks=False).source
        assert isinstance(source, AllocatedSource)
        source.check()
        with mounted(disk, tmp_path / "there"):
            with pytest.raises(SourceError, match="mounted at") as caught:
                source.check()
            assert "--all-blocks" in caught.value.remedy
        with pytest.raises(SourceError, match="mounted or changed"):
            source.check()


def test_the_map_of_a_disk_is_that_of_its_parts(tmp_path: Path) -> None:
    need_root()
    path = image(tmp_path / "disk.img", 200 * MIB)
    script = "label: gpt\nstart=2048, size=163840\nsize=40960, type=S\nsize=20480\n"
    run("sfdisk", "-q", path, text=script)
    run("mkfs.ext4", "-q", "-F", "-E", f"offset={MIB}", path, "80m")
    with path.open("r+b") as file:
        swap = image(tmp_path / "swap", 20 * MIB)
        run("mkswap", swap)
        file.seek(81 * MIB)
        file.write(swap.read_bytes()[:4096])
        file.write(random.Random(2).randbytes(8 * MIB))  # what was swapped out once
    with open_source(str(path)) as base:
        view = allocated(base, all_blocks=False)
        kinds = [(e.offset, e.end) for e in view.source.extents() if e.kind is ExtentKind.UNUSED]
    assert view.notes == ("partition 3 holds nothing that is recognised: all of it is read",)
    assert all(start > MIB and end <= 101 * MIB for start, end in kinds)
    assert (81 * MIB + 4096, 101 * MIB) in kinds
    assert sum(end - start for start, end in kinds) > 80 * MIB


def test_excluded_files_cost_nothing_and_are_listed(tmp_path: Path) -> None:
    need_root()
    disk = image(tmp_path / "disk.img", SIZE)
    run("mkfs.ext4", "-q", "-F", disk)
    with mounted(disk, tmp_path / "there") as folder:
        (folder / "var").mkdir()
        for name in ("var/big.iso", "kept"):
            (folder / name).write_bytes(os.urandom(16 * MIB))
        expected = sums(folder)
    target = tmp_path / "target.img"
    options = CopyOptions(create=True, state_dir=tmp_path / "state", exclude=("/var/*.iso",))
    result = copy(str(disk), str(target), options)
    assert (result.excluded, result.excluded_files) == ((("/var/big.iso", 16 * MIB),), 1)
    assert result.excluded_bytes == 16 * MIB
    assert result.notes == ()
    assert 16 * MIB < result.changed < 18 * MIB
    assert subprocess.run(["e2fsck", "-fn", target], capture_output=True, check=False).returncode == 0
    with mounted(target, tmp_path / "here") as folder:
        assert sums(folder)["kept"] == expected["kept"]
        # Blocks at its edges hold something else too, and went over whole.
        assert (folder / "var/big.iso").read_bytes().count(0) > 15 * MIB
    with pytest.raises(UsageError, match="one of both"):
        copy(str(disk), str(target), CopyOptions(state_dir=tmp_path / "state", exclude=("*",), all_blocks=True))
    # As where /srv is a filesystem of its own: its paths do not begin with it.
    with open_source(str(disk)) as base:
        view = allocated(base, all_blocks=False, exclude=("/srv/var/",))
        assert (view.excluded_names, len(view.notes)) == ((), 1)
        assert "no file that can be left out matches" in view.notes[0]
        assert allocated(base, all_blocks=False, exclude=("+ /var/",)).notes == ()

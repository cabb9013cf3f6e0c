"""Names of excluded files are removed from a real target, and nothing else changes; the next pass is still right."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from blocksync.api import (
    CopyOptions,
    DiskSpec,
    Listening,
    Removal,
    SendOptions,
    SendResult,
    TransferOptions,
    TransferResult,
    copy,
    transfer,
)
from blocksync.cli.cutover import MOST_NAMES_SHOWN, facts_of
from blocksync.control.service import Peer
from blocksync.engine.port import PeerPort
from blocksync.engine.receiver import Receiver
from blocksync.engine.slot import Slot
from blocksync.errors import GuestMountError, PeerError, ProtocolError
from blocksync.flatten import attaching, mounts, removal
from blocksync.flatten.dividing import Dividing
from blocksync.manifest.folder import OsFolder
from blocksync.protocol.messages import CONTROL_VERSION, RemovalRequest
from blocksync.targets import open_target
from blocksync.volumes import files
from tests.devices import image, mounted, need_root, run
from tests.vm.wire import receiving

MIB = 1 << 20
PEER = Peer(fingerprint=bytes(32), name="peer")
SIZES = {"ext4": 64 * MIB, "xfs": 320 * MIB, "ntfs": 64 * MIB}
MAKE = {"ext4": ("mkfs.ext4", "-q", "-F"), "xfs": ("mkfs.xfs", "-q"), "ntfs": ("mkfs.ntfs", "-q", "-F", "-f")}
EXCLUDE = ("/var/log/*.gz", "/cache/", "*.tmp")
KEPT = ["cache-not", "etc/passwd", "var/log/kept.log"]


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


@pytest.fixture(params=list(SIZES))
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A filesystem with files that are kept, and others that are excluded."""
    need_root()
    path = image(tmp_path / "disk.img", SIZES[request.param])
    run(*MAKE[request.param], path)
    with mounted(path, tmp_path / "there") as folder:
        for name in (*KEPT, "var/log/old.gz", "var/log/older.gz", "cache/deep/er/data", "cache/top", "etc/x.tmp"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(os.urandom(MIB // 2))
        (folder / "cache/link").symlink_to("/etc/passwd")
        os.mkfifo(folder / "cache/pipe")
    return path


def passed(disk: Path, target: Path, *, remove: bool = True) -> SendResult:
    options = CopyOptions(
        create=not target.exists(), state_dir=target.parent / "state", exclude=EXCLUDE, remove_excluded=remove
    )
    return copy(str(disk), str(target), options)


def sound(target: Path) -> None:
    checks = {b"XFSB": ["xfs_repair", "-n"], b"\xebR\x90N": ["ntfsfix", "-n"]}
    words = [*checks.get(target.read_bytes()[:4], ["e2fsck", "-fn"]), target]
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_names_go_and_all_else_stays(disk: Path, tmp_path: Path) -> None:
    target = tmp_path / "target.img"
    result = passed(disk, target)
    assert sorted(result.excluded_names) == ["/cache", "/etc/x.tmp", "/var/log/old.gz", "/var/log/older.gz"]
    # Below /cache: data, top, link, pipe and three folders with itself.
    assert result.removal is not None
    assert (result.removal.removed, result.removal.remaining) == (10, ())
    sound(target)
    with mounted(disk, tmp_path / "there") as folder:
        before = contents(folder)
        assert (folder / "cache/link").is_symlink()
    with mounted(target, tmp_path / "here") as folder:
        assert contents(folder) == {name: before[name] for name in KEPT}
        assert sorted(each.name for each in folder.iterdir() if each.name != "lost+found") == [
            "cache-not",
            "etc",
            "var",
        ]
    assert not run("losetup", "-j", target)


def test_the_next_pass_trusts_no_claim_that_the_removal_broke(disk: Path, tmp_path: Path) -> None:
    target = tmp_path / "target.img"
    passed(disk, target)
    with mounted(disk, tmp_path / "there") as folder:
        (folder / "etc/new").write_bytes(b"new")
    again = passed(disk, target, remove=False)
    assert again.kind == "incremental"
    sound(target)
    with mounted(disk, tmp_path / "there") as folder:
        before = contents(folder)
    with mounted(target, tmp_path / "here") as folder:
        there = contents(folder)
        # The names are back, since the source has them; what is kept is what the source has.
        assert there.keys() == before.keys()
        assert {name: there[name] for name in (*KEPT, "etc/new")} == {
            name: before[name] for name in (*KEPT, "etc/new")
        }
        # Blocks at its edges hold something else too, and went over whole.
        assert (folder / "cache/top").read_bytes().count(0) > MIB // 4
    assert passed(disk, target).removal is not None
    sound(target)
    with mounted(target, tmp_path / "here") as folder:
        assert contents(folder).keys() == {*KEPT, "etc/new"}


def test_killed_in_the_middle_of_it_the_same_command_ends_it(disk: Path, tmp_path: Path) -> None:
    target = tmp_path / "target.img"
    program = (
        "import os, sys\n"
        "from blocksync.api import CopyOptions, copy\n"
        "from blocksync.flatten import removal\n"
        "plain, left = removal._remove, [4]\n"
        "def remove(folder, name, depth, done):\n"
        "    left[0] -= 1\n"
        "    if not left[0]:\n"
        "        os.sync()\n"
        "        os.kill(os.getpid(), 9)\n"
        "    plain(folder, name, depth, done)\n"
        "removal._remove = remove\n"
        "disk, target, state, *exclude = sys.argv[1:]\n"
        "from pathlib import Path\n"
        "options = CopyOptions(create=True, state_dir=Path(state), exclude=tuple(exclude), remove_excluded=True)\n"
        "copy(disk, target, options)\n"
    )
    words = [sys.executable, "-c", program, str(disk), str(target), str(tmp_path / "state"), *EXCLUDE]
    assert subprocess.run(words, check=False).returncode == -9
    released_target(target)
    done = passed(disk, target)
    assert done.removal is not None
    assert not done.removal.remaining
    sound(target)
    with mounted(disk, tmp_path / "there") as folder:
        before = contents(folder)
    with mounted(target, tmp_path / "here") as folder:
        assert contents(folder) == {name: before[name] for name in KEPT}


def released_target(target: Path) -> None:
    """The mount's loop device goes with the process that was killed, in its own time."""
    for _ in range(200):
        if not run("losetup", "-j", target):
            return
        subprocess.run(["sleep", "0.05"], check=True)
    raise AssertionError("the loop device stays")


def test_a_volume_in_a_partition_is_found(tmp_path: Path) -> None:
    need_root()
    disk = image(tmp_path / "disk.img", 96 * MIB)
    run("sfdisk", "-q", disk, text="label: gpt\nstart=2048, size=81920\nstart=83968, size=81920\n")
    for start, name in ((1, "one"), (41, "two")):
        part = image(tmp_path / name, 40 * MIB)
        run("mkfs.ext4", "-q", "-F", part)
        with mounted(part, tmp_path / "there") as folder:
            (folder / "big.iso").write_bytes(os.urandom(2 * MIB))
        with disk.open("r+b") as file:
            file.seek(start * MIB)
            file.write(part.read_bytes())
    options = CopyOptions(create=True, state_dir=tmp_path / "state", exclude=("#2:*.iso",), remove_excluded=True)
    result = copy(str(disk), str(tmp_path / "target.img"), options)
    assert result.excluded_names == ("#2:/big.iso",)
    assert result.removal is not None
    assert (result.removal.removed, result.removal.remaining) == (1, ())
    for start, expected in ((1, {"big.iso"}), (41, set())):
        part = tmp_path / "part"
        with (tmp_path / "target.img").open("rb") as file:
            file.seek(start * MIB)
            part.write_bytes(file.read(40 * MIB))
        sound(part)
        with mounted(part, tmp_path / "here") as folder:
            assert contents(folder).keys() == expected


def test_more_names_than_one_request_holds_go_in_several(tmp_path: Path) -> None:
    need_root()
    disk, target = image(tmp_path / "disk.img", 64 * MIB), tmp_path / "target.img"
    run("mkfs.ext4", "-q", "-F", "-N", "16384", disk)
    with mounted(disk, tmp_path / "there") as folder:
        for number in range(6000):
            (folder / f"{number}.tmp").touch()
        (folder / "cache").mkdir()  # a folder without anything in it
        (folder / "kept").write_text("kept")
    result = passed(disk, target)
    assert (len(result.excluded_names), result.unnamed) == (6001, 0)
    assert result.removal == Removal(slot=result.slot, removed=6001)
    sound(target)
    with mounted(target, tmp_path / "here") as folder:
        assert contents(folder).keys() == {"kept"}
    # A line of JSON stays one that can be read.
    facts = facts_of(result)
    assert (len(facts["excluded_names"]), facts["unnamed"]) == (MOST_NAMES_SHOWN, 6001 - MOST_NAMES_SHOWN)


def test_names_that_are_too_many_are_counted() -> None:
    room = files.Room(names=4, characters=10)
    found = [files.Excluded(room=room) for _ in range(2)]  # two filesystems of one disk
    for name in ("/a", "/bcde", "/fghijk"):
        found[0].match(name)
    for name in ("/l", "/m"):
        found[1].match(name)
    assert [(each.matched, each.unmatched) for each in found] == [(["/a", "/bcde"], 1), (["/l"], 1)]


def test_a_volume_in_pieces_is_joined_or_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need_root()
    path = image(tmp_path / "disk.img", 8 * MIB)
    asked: list[tuple[list[str], str]] = []
    plain = attaching.run_tool

    def run_tool(words: list[str], *more: Any, stdin: str = "", **others: Any) -> Any:
        if words[0] != "dmsetup":
            return plain(words, *more, stdin=stdin, **others)
        asked.append((words, stdin))
        raise GuestMountError("no device-mapper here")

    monkeypatch.setattr(attaching, "run_tool", run_tool)
    pieces = [
        attaching.Piece(length=MIB, offsets=(MIB,)),
        attaching.Piece(length=2 * MIB, offsets=(4 * MIB, 6 * MIB), stripe_bytes=16 << 10),
    ]
    with pytest.raises(GuestMountError, match="no device-mapper"), attaching.joined(str(path), pieces):
        raise AssertionError("it is joined")
    (linear, striped) = [line.split() for line in asked[0][1].splitlines()]
    # Each range is a loop device of its own: one over all of the disk would show LVM what lies on it.
    assert linear[:3] + linear[4:] == ["0", "2048", "linear", "0"]
    assert striped[:5] + striped[6::2] == ["2048", "4096", "striped", "2", "32", "0", "0"]
    assert len({linear[3], *striped[5::2]}) == 3
    assert not run("losetup", "-j", path)


def test_an_ntfs_of_a_windows_that_was_not_shut_down_is_left_alone(tmp_path: Path) -> None:
    need_root()
    path = image(tmp_path / "target.img", 64 * MIB)
    run(*MAKE["ntfs"], path)
    with mounted(path, tmp_path / "there") as folder:
        (folder / "hiberfil.sys").write_bytes(b"hibr" + bytes(MIB))
        (folder / "file").write_text("x")
    before = path.read_bytes()
    with open_target(str(path), overwrite=True) as target:
        said = removal.remove_names(target, {"names": ["/file"]})
    assert said["removed"] == 0
    assert "Windows" in said["remaining"][0] or "hibernated" in said["remaining"][0]
    assert path.read_bytes() == before
    assert not run("losetup", "-j", path)


def test_after_a_final_pass_it_is_done_unasked_and_the_receipt_says_so(disk: Path, tmp_path: Path) -> None:
    target, receipt = tmp_path / "target.img", tmp_path / "receipt.json"

    def sent(where: Listening, **more: Any) -> TransferResult:
        send = SendOptions(
            to=f"127.0.0.1:{where.control_port}", code=where.code, state_dir=tmp_path / "sender", exclude=EXCLUDE
        )
        return transfer([DiskSpec(source=str(disk), slot="vm")], TransferOptions(send=send, **more))

    with receiving(target, tmp_path, create=SIZES["xfs"]) as where:
        assert sent(where).removals == ()
        result = sent(where, final=True, verify=True, receipt=receipt)
    assert result.verified == {"vm": True}
    assert result.removals == (Removal(slot="vm", removed=10),)
    told = json.loads(receipt.read_text())["sender"]["disks"][0]
    # On NTFS the pipe and the link are files.
    files_left_out = 7 if disk.read_bytes()[3:7] == b"NTFS" else 5
    assert told["excluded_files"] == files_left_out
    assert (told["excluded_bytes"], told["removed_names"]) == (5 * MIB // 2, 10)
    with mounted(disk, tmp_path / "there") as folder:
        before = contents(folder)
    with mounted(target, tmp_path / "here") as folder:
        assert contents(folder) == {name: before[name] for name in KEPT}


def test_a_receiver_that_shall_mount_nothing_does_not(
    disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mounts_nothing(*_given: object) -> None:
        raise AssertionError("it mounts")

    monkeypatch.setattr(removal, "privately", mounts_nothing)
    with (
        OsFolder(tmp_path / "slot") as folder,
        contextlib.closing(Slot("vm", open_target(str(disk), overwrite=True), folder)) as slot,
    ):
        said = Dividing(tmp_path, mend=False).remove_names(slot, {"names": ["/cache"]})
    assert said["removed"] == 0
    assert "--no-repair" in said["remaining"][0]


def test_nothing_is_removed_before_a_pass_is_committed(disk: Path, tmp_path: Path) -> None:
    with (
        OsFolder(tmp_path / "slot") as folder,
        contextlib.closing(Slot("vm", open_target(str(disk), overwrite=True), folder)) as slot,
    ):
        port = PeerPort(Receiver({"vm": slot}, lambda *_: True, lambda _: None, division=Dividing(tmp_path)), PEER)
        request = RemovalRequest(version=CONTROL_VERSION, slot="vm", wanted={"names": ["/cache"]})
        with pytest.raises(PeerError, match="not committed"):
            port.remove_names(request)
    with mounted(disk, tmp_path / "there") as there:
        assert (there / "cache/top").exists()


@pytest.mark.parametrize(
    "wanted",
    [
        {},
        {"names": "/etc"},
        {"names": [7]},
        {"names": ["/a/../b"]},
        {"names": ["a"]},
        {"names": ["/"]},
        {"names": ["#2:"]},
        {"names": ["/a\0b"]},
        {"names": ["/" + "a" * 5000]},
        {"names": ["/a"] * 5001},
    ],
    ids=str,
)
def test_names_that_are_none_are_refused(wanted: dict[str, Any], tmp_path: Path) -> None:
    with open_target(str(tmp_path / "target.img"), create_size=MIB) as target, pytest.raises(ProtocolError):
        removal.remove_names(target, wanted)


def test_names_lead_nowhere_else(tmp_path: Path) -> None:
    """A peer's names and links in its filesystem reach nothing of the host, and no folder beside."""
    need_root()
    host = tmp_path / "host"
    host.mkdir()
    (host / "precious").write_text("kept")
    path = image(tmp_path / "target.img", 64 * MIB)
    run("mkfs.ext4", "-q", "-F", path)
    with mounted(path, tmp_path / "there") as folder:
        (folder / "out").symlink_to(host)
        (folder / "loose").mkdir()
        (folder / "loose/out").symlink_to(host)
        (folder / "file").write_text("x")
    with open_target(str(path), overwrite=True) as target:
        wanted = {"names": ["/out/precious", "/file/below", "/loose", "/absent/x", "#7:/x", "#vg/lv:/x"]}
        said = removal.remove_names(target, wanted)
    assert said["removed"] == 2
    assert [line.split(":")[0] for line in said["remaining"]] == [
        "/out/precious",
        "/file/below",
        "in 7",
        "in vg/lv",
    ]
    assert (host / "precious").read_text() == "kept"
    with mounted(path, tmp_path / "there") as folder:
        assert sorted(each.name for each in folder.iterdir()) == ["file", "lost+found", "out"]


def test_where_nothing_can_be_mounted_it_is_told(
    disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise GuestMountError("cannot make a mount namespace: Operation not permitted")

    monkeypatch.setattr(mounts, "_leave_host", refuse)
    target = tmp_path / "target.img"
    result = passed(disk, target)
    assert result.removal is not None
    assert result.removal.removed == 0
    assert result.removal.remaining == ("cannot make a mount namespace: Operation not permitted",)
    with mounted(target, tmp_path / "here") as folder:
        assert (folder / "var/log/old.gz").stat().st_size == MIB // 2

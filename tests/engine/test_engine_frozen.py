"""Transfers of what is mounted: read whole while somebody may write, by its map while it is frozen; verify agrees."""

from __future__ import annotations

from pathlib import Path

from engine_used import SIZE, fill, used_disk

from blocksync import api
from blocksync.api import Cancel, DiskSpec, Limits, SendOptions, TransferOptions
from blocksync.engine.governor import Governed, LiveLimits
from blocksync.flatten.sources import _Borrowed
from blocksync.sources.memory import MemorySource
from tests.devices import image, loop_device, need_root, run
from tests.vm.wire import receiving


class Busy(MemorySource):
    """A source that says who uses it."""

    def in_use(self) -> str:
        return "it is mounted at /mnt"


def test_limits_hide_nobody_who_uses_a_source() -> None:
    source = Busy(4096)
    source.told = {}
    for frozen, said in ((False, "it is mounted at /mnt"), (True, "")):
        governed = Governed(source, LiveLimits(Limits()), Cancel(), None, frozen=frozen)
        assert (governed.in_use(), governed.told) == (said, source.told)
    borrowed = _Borrowed(source)
    assert (borrowed.in_use(), borrowed.told) == ("it is mounted at /mnt", source.told)


def test_a_frozen_filesystem_is_sent_by_its_map_and_found_identical(tmp_path: Path) -> None:
    disk = used_disk(tmp_path)
    with receiving(tmp_path / "target.img", tmp_path, create=SIZE) as where, loop_device(disk) as device:
        send = SendOptions(
            to=f"127.0.0.1:{where.control_port}", code=where.code, state_dir=tmp_path / "sender", snapshot="none"
        )
        disks = [DiskSpec(source=device, slot="vm")]
        quiet = api.transfer(disks, TransferOptions(send=send)).disks[0].result
        assert quiet is not None
        assert quiet.unused > 0
        folder = tmp_path / "there"
        run("mount", device, folder)
        fill(folder, 2)
        last = api.transfer(disks, TransferOptions(send=send, final=True, verify=True))
        run("umount", folder)
    frozen = last.disks[0].result
    assert frozen is not None
    assert frozen.unused > 0
    assert (last.consistency, last.verified) == ("crash", {"vm": True})


def test_what_is_mounted_has_no_map_in_a_transfer_either(tmp_path: Path) -> None:
    need_root()
    path = image(tmp_path / "disk.img", 8 << 20)
    run("mkfs.ext2", "-q", "-F", path)
    with receiving(tmp_path / "target.img", tmp_path, create=8 << 20) as where, loop_device(path) as device:
        (tmp_path / "there").mkdir()
        # On the disk it stays clean; it can be made writable at any time.
        run("mount", "-o", "ro", device, tmp_path / "there")
        send = SendOptions(
            to=f"127.0.0.1:{where.control_port}", code=where.code, state_dir=tmp_path / "sender", snapshot="none"
        )
        live = api.transfer([DiskSpec(source=device, slot="vm")], TransferOptions(send=send)).disks[0].result
        run("umount", tmp_path / "there")
    assert live is not None
    assert live.unused == 0
    assert "mounted at" in live.notes[0]

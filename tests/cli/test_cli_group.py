"""``send`` of several disks."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_processes import MIB, command, fails, make_disk, receiver

from blocksync.cli.sending import disk_specs
from blocksync.errors import BlocksyncError


def test_two_disks_and_one_result(folder: Path, disk: Path) -> None:
    other = make_disk(folder / "other.img", 3 * MIB, seed=2)
    with receiver(folder, "--target", f"two={folder / 'two.img'}") as there:
        near = ("--to", there.to, "--state-dir", folder / "s")
        sent = command("send", disk, other, *near, "--code", there.code, "--json")
        assert sent.code == 0, sent
        assert [each["type"] for each in sent.objects if each["type"] in ("disk", "pass", "result")] == [
            "pass",
            "disk",
            "disk",
            "result",
        ]
        assert [(each["slot"], each["result"]["generation"]) for each in sent.last["disks"]] == [
            ("disk", 1),
            ("two", 1),
        ]
        assert (folder / "two.img").read_bytes()[: 3 * MIB] == other.read_bytes()
        words = command("send", f"{disk}=disk", f"{other}=two", *near)
        assert words.code == 0
        assert "2 disks committed in" in words.out
        assert f"{other}: incremental pass to slot two committed as generation 2" in words.out
        too_big = make_disk(folder / "big.img", 8 * MIB, data=0)
        partly = command("send", f"{disk}=disk", f"{too_big}=two", *near, "--replace", "--json")
        fails(partly, 3, "1 of 2 disks failed", str(too_big))
        told = [each for each in partly.objects if each["type"] == "disk"]
        assert [(each["slot"], each["result"] and each["result"]["generation"]) for each in told] == [
            ("disk", 3),
            ("two", None),
        ]
        unmatched = command("send", disk, *near, "--slot", "two", f"{other}=disk", "--json")
        fails(unmatched, 2, "--slot")


def test_sources_as_they_are_typed(folder: Path) -> None:
    odd = folder / "a=b.img"
    odd.touch()
    typed = (str(odd), f"{odd}=b", "/dev/sda=root", "/dev/sdb", "nbd://host/x?y=z", "/a=/b.img")
    assert [(disk.source, disk.slot) for disk in disk_specs(typed, "")] == [
        (str(odd), ""),
        (str(odd), "b"),
        ("/dev/sda", "root"),
        ("/dev/sdb", ""),
        ("nbd://host/x?y=z", ""),
        ("/a=/b.img", ""),
    ]
    assert disk_specs(("x",), "s")[0].slot == "s"
    for wrong in (("x=..",), ("x=a b",)):
        with pytest.raises(BlocksyncError):
            disk_specs(wrong, "")

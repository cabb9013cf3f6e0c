"""Snapshots and change tracking on a real device-mapper: a machine is booted once, and each test has its own volumes.

What counts is the target's content, read anew from both sides; what the result says comes second.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.vm.guest import BLOCKS, KIB64, SIZE, Guest
from tests.vm.package import COMMAND


def small(result: dict[str, Any], blocks: int = BLOCKS) -> bool:
    """Whether at most twice as much was read as so many blocks, which were written; with the sample of the others."""
    return blocks * KIB64 <= int(result["read"]) <= 2 * blocks * KIB64


def tracked(guest: Guest, slot: str, provider: str, *, passes: int) -> None:
    """A first pass, and further ones after random writes."""
    device = guest.create(slot, thin=slot == "thin")
    first, said = guest.send(f"{device} --slot {slot} --track")
    assert (first["kind"], first["consistency"], first["tracker"]) == ("full", "crash", ""), (first, said)
    for _ in range(passes):
        guest.run(f"python3 scatter.py {device}")
        result, said = guest.send(f"{device} --slot {slot} --track")
        assert (result["kind"], result["tracker"]) == ("incremental", provider), said
        assert small(result), result["read"]
        assert guest.same(device, slot)
        assert len(guest.kept()) == 1


def test_a_volume_is_tracked_and_nothing_is_missed(guest: Guest) -> None:
    tracked(guest, "classic", "lvm-snapshot", passes=2)
    # What was kept is gone: said, and everything is compared.
    guest.run("lvremove -q -f @blocksync.kept; python3 scatter.py /dev/vg0/classic")
    result, said = guest.send("/dev/vg0/classic --slot classic --track")
    assert "that was kept is gone" in said
    assert (result["tracker"], result["read"]) == ("", SIZE)
    assert guest.same("/dev/vg0/classic", "classic")
    guest.remove("classic")


def test_a_thin_volume_is_tracked_and_nothing_is_missed(guest: Guest) -> None:
    tracked(guest, "thin", "lvm-thin", passes=1)
    guest.remove("thin")


def test_volumes_of_a_group_are_of_one_instant(guest: Guest) -> None:
    devices = [guest.create("one"), guest.create("two"), guest.create("three", thin=True)]
    group = "/dev/vg0/one=one /dev/vg0/two=two /dev/vg0/three=three --track"
    guest.run(f"setsid python3 count.py {' '.join(devices)} </dev/null >/dev/null 2>&1 & echo $! > counting")
    counted = [0]
    for number in range(2):
        result, said = guest.send(group)
        assert result["consistency"] == "crash-group", (result, said)
        results = [disk["result"] for disk in result["disks"]]
        providers = ["lvm-snapshot", "lvm-snapshot", "lvm-thin"] if number else ["", "", ""]
        assert [each["tracker"] for each in results] == providers, said
        # One block was written of each; the sample is sixteen.
        assert all(int(each["read"]) <= 18 * KIB64 for each in results) or not number
        before = counted
        counted = [int(guest.run(f"od -A n -t u8 -N 8 {slot}.img")) for slot in ("one", "two", "three")]
        # In the order of writing, each is at most one behind the one before it.
        assert counted == sorted(counted, reverse=True)
        assert counted[0] - counted[-1] <= 1
        assert counted[-1] > before[0]
    assert len(guest.kept()) == 3, said
    assert guest.kept()[-1].count("thin") == 1, "the pool keeps one snapshot, not one of each pass"
    guest.run(f"kill $(cat counting); {COMMAND} check --clean --kept")
    assert guest.kept() == []
    guest.remove("one", "two", "three")


def test_a_filesystem_that_is_written_to_arrives_clean(guest: Guest) -> None:
    device = guest.create("files")
    guest.run(f"mkfs.ext4 -q {device} && mkdir -p /mnt/files && mount {device} /mnt/files")
    guest.run("setsid python3 files.py /mnt/files </dev/null >/dev/null 2>&1 & echo $! > writing")
    guest.run("until [ -e /mnt/files/1 ]; do sleep 0.1; done")
    result, said = guest.send(f"{device} --slot files")
    assert result["consistency"] == "crash", (result, said)
    guest.run("kill $(cat writing); umount /mnt/files; e2fsck -fn files.img")
    guest.run("mount -o ro,noload,loop files.img /mnt/files")
    assert "whole" in guest.run("python3 whole.py /mnt/files")
    guest.run("umount /mnt/files")
    guest.remove("files")


def test_a_snapshot_that_overflows_commits_nothing(guest: Guest) -> None:
    device = guest.create("small")
    write = f"dd if=/dev/urandom of={device} bs=1M count=8 oflag=direct 2>&1"
    result, _ = guest.send(f"{device} --slot small --snapshot-size 4M --read-limit 4M", beside=write)
    assert (result["code"], result["exit_code"]) == ("BS1402", 4)
    assert guest.kept() == []
    # The next pass is still the first one, and a whole one.
    result, _ = guest.send(f"{device} --slot small --snapshot-size 4M --track")
    assert result["generation"] == 1
    assert guest.same(device, "small")
    # One that is kept overflows between two passes.
    guest.run(write)
    result, said = guest.send(f"{device} --slot small --track")
    assert "the snapshot that was kept has overflowed" in said
    assert result["tracker"] == ""
    assert guest.same(device, "small")
    guest.remove("small")


def test_what_a_killed_sender_leaves_is_undone(guest: Guest) -> None:
    device = guest.create("killed")
    other = guest.create("other", thin=True)
    guest.send(f"{device} --slot killed --read-limit 1M", beside="kill -9 $sender")
    assert len(guest.kept()) == 1
    assert "removed the snapshot vg0/blocksync_" in guest.run(f"{COMMAND} check --clean")
    assert guest.kept() == []
    both = guest.words(f"{device}=killed {other}=three")
    # The watcher is left: it resumes at once.
    guest.run(f"python3 kill.py vg0-killed sender {both}")
    guest.run("while dmsetup info -c --noheadings -o suspended | grep -q Suspended; do sleep 0.1; done")
    # Nobody is left: the volumes wait until somebody cleans up.
    guest.run(f"python3 kill.py vg0-other both {both}")
    assert guest.suspended()
    assert "resumed the suspended device vg0-other" in guest.run(f"{COMMAND} check --clean")
    assert not guest.suspended()
    assert guest.kept() == []
    guest.run(f"dd if=/dev/zero of={other} bs=4096 count=1 oflag=direct 2>&1")
    guest.remove("killed", "other")


def test_a_device_that_counts_eras_is_asked(guest: Guest) -> None:
    origin = guest.create("origin")
    guest.run("lvcreate -q -L 4M -n eras vg0 && dd if=/dev/zero of=/dev/vg0/eras bs=1M count=4 oflag=direct 2>&1")
    table = f"0 {SIZE // 512} era /dev/vg0/eras {origin} 128"
    guest.run(f"dmsetup create counted --uuid test-counted --table '{table}'")
    device = "/dev/mapper/counted"
    guest.send(f"{device} --slot era --track")
    guest.run(f"python3 scatter.py {device}")
    result, said = guest.send(f"{device} --slot era --track")
    assert result["tracker"] == "dm-era", said
    assert small(result), result["read"]
    assert guest.same(device, "era")
    # Begun anew, it counts from 1, and after some time its number looks like one that follows the last pass.
    guest.run("dmsetup remove counted; dd if=/dev/zero of=/dev/vg0/eras bs=1M count=4 oflag=direct 2>&1")
    guest.run(f"dmsetup create counted --uuid test-counted --table '{table}'; python3 scatter.py {device}")
    guest.run("for number in {1..20}; do dmsetup message counted 0 checkpoint; done")
    result, said = guest.send(f"{device} --slot era --track")
    assert "activated anew" in said
    assert (result["tracker"], result["read"]) == ("", SIZE), said
    assert guest.same(device, "era")
    guest.run("dmsetup remove counted")
    guest.remove("origin", "eras")


@pytest.mark.parametrize("slot", ["gone", "gonethin"])
def test_a_transfer_that_is_forgotten_leaves_no_snapshot(guest: Guest, slot: str) -> None:
    device = guest.create("forgotten", thin=slot == "gonethin")
    result, said = guest.send(f"{device} --slot {slot} --track")
    assert result["type"] == "result", said
    assert guest.kept()
    guest.run(f"env {COMMAND} delete {device}")
    assert guest.kept() == []
    guest.remove("forgotten")


def test_an_estimate_asks_a_device_that_counts_eras_what_changes(guest: Guest) -> None:
    origin = guest.create("watched")
    guest.run("lvcreate -q -L 4M -n marks vg0 && dd if=/dev/zero of=/dev/vg0/marks bs=1M count=4 oflag=direct 2>&1")
    table = f"0 {SIZE // 512} era /dev/vg0/marks {origin} 128"
    guest.run(f"dmsetup create watching --uuid test-watching --table '{table}'")
    device = "/dev/mapper/watching"
    guest.run(
        f"env {COMMAND} estimate {device} --watch 6s --json > estimate.log 2>&1 & estimate=$!\n"
        f"while kill -0 $estimate 2>/dev/null; do python3 scatter.py {device}; sleep 0.5; done; wait $estimate"
    )
    events = [json.loads(line) for line in guest.run("cat estimate.log").splitlines()]
    found = events[-1]["changes"]
    assert found["tracker"] == "dm-era", events
    seen = [changed for _, changed in found["points"]]
    # Each round of writes touches some pages in as many blocks of 64 KiB; of what is named a part differs.
    assert 0 < seen[0] <= seen[-1] <= SIZE
    assert found["rate"] > 0
    # Nothing is left held of what was asked.
    assert guest.run("dmsetup status watching").split()[-1] == "-"
    guest.run("dmsetup remove watching")
    guest.remove("watched", "marks")

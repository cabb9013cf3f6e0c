"""Busy filesystems of a machine go to a receiver outside of it, over its network, and arrive whole.

The source is written to all the time. ext4 and XFS, on classic and on thin volumes; each alone and all of one instant.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from tests.devices import mounted, need_root, run
from tests.vm.guest import Guest

MIB = 1 << 20
SIZE = 304 * MIB  # mkfs.xfs makes nothing below 300 MiB
SLOTS = ("ext4", "xfs", "ext4-thin", "xfs-thin")
STILL = 30
# Files that nobody writes to any more: each arrives as it is.
STAND = f"""
import os, random, sys
for folder in sys.argv[1:]:
    for number in range({STILL}):
        with open(f"{{folder}}/still-{{number}}", "wb") as file:
            file.write(os.urandom(random.randrange(1, 60000)))
"""


class Host:
    """A receiver on this host's loopback, which the machine reaches by its gateway."""

    def __init__(self, folder: Path, output: IO[str]) -> None:
        self.folder = folder
        event = json.loads(output.readline())
        assert event["type"] == "listening", event
        self.port = event["control_port"]

    def target(self, slot: str) -> Path:
        return self.folder / f"{slot}.img"


@contextmanager
def hosting(folder: Path) -> Iterator[Host]:
    targets = [word for slot in SLOTS for word in ("--target", f"{slot}={folder / slot}.img")]
    words = ["recv", *targets, "--create", str(SIZE), "--json", "--listen", "127.0.0.1", "--control-port", "0"]
    words += ["--data-port", "0", "--state-dir", str(folder / "state"), "--code-file", str(folder / "code")]
    with (folder / "said").open("wb") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "blocksync", *words], stdout=subprocess.PIPE, stderr=said, text=True
        )
    assert process.stdout is not None
    try:
        yield Host(folder, process.stdout)
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def sound(target: Path, kind: str, sums: str, folder: Path) -> int:
    """Check a target and its files; returns the highest number that its writer had come to."""
    copy = folder / "copy.img"
    run("cp", "--sparse=always", target, copy)
    if kind == "ext4":
        # A snapshot's journal is empty: nothing has to be replayed.
        run("e2fsck", "-fn", copy)
    numbers = []
    # Mounted for writing: that replays the log of an XFS.
    with mounted(copy, folder / "mounted") as tree:
        run("sh", "-c", 'cd "$1" && sha256sum --quiet --strict -c', "sh", tree, text=sums)
        for name in (name for name in os.listdir(tree) if name.isdigit()):
            content = (tree / name).read_bytes()
            assert len(content) == 16384, name
            assert content == content[:16] * 1024, name
            numbers.append(int(content[:16]))
    run("e2fsck", "-fn", copy) if kind == "ext4" else run("xfs_repair", "-n", copy)
    copy.unlink()
    return max(numbers)


def make(guest: Guest, slots: Sequence[str]) -> dict[str, str]:
    """Volumes with filesystems that a program writes to; what holds of the files that nobody writes to."""
    for slot in slots:
        kind = slot.partition("-")[0]
        volume = guest.create(slot, thin=slot != kind, size=SIZE)
        guest.run(f"mkfs.{kind} -q {volume} && mkdir -p /mnt/{slot} && mount {volume} /mnt/{slot}")
    folders = " ".join(f"/mnt/{slot}" for slot in slots)
    guest.run(f"python3 - {folders} <<'END'\n{STAND}\nEND")
    sums = {slot: guest.run(f"cd /mnt/{slot} && sha256sum still-*") for slot in slots}
    guest.run(f"setsid python3 files.py {folders} </dev/null >/dev/null 2>&1 & echo $! > writing")
    guest.run(f"until [ -e /mnt/{slots[-1]}/1 ]; do sleep 0.1; done")
    return sums


def test_busy_filesystems_arrive_whole_over_the_network(guest: Guest, tmp_path: Path) -> None:
    need_root()
    sums = make(guest, SLOTS)
    with hosting(tmp_path) as host:
        to = f"10.0.2.2:{host.port} --code-file host-code"
        guest.put(tmp_path / "code", "/root/host-code")
        result, said = guest.send("/dev/vg0/xfs-thin --slot xfs-thin", to=to)
        assert (result.get("consistency"), result.get("notes")) == ("crash", []), (result, said)
        assert sound(host.target("xfs-thin"), "xfs", sums["xfs-thin"], tmp_path) > 0
        result, said = guest.send(" ".join(f"/dev/vg0/{slot}={slot}" for slot in SLOTS), to=to)
        assert result.get("consistency") == "crash-group", (result, said)
        # What no file uses is not read: the maps were taken from snapshots of filesystems in use.
        assert all(disk["result"]["read"] < SIZE // 2 and not disk["result"]["notes"] for disk in result["disks"])
        counted = [sound(host.target(slot), slot.partition("-")[0], sums[slot], tmp_path) for slot in SLOTS]
        # In the order of writing, each is at most one behind the one before it.
        assert counted == sorted(counted, reverse=True)
        assert counted[0] - counted[-1] <= 1
    assert guest.kept() == []
    guest.run("kill $(cat writing); " + "; ".join(f"umount /mnt/{slot}" for slot in SLOTS))
    guest.remove(*SLOTS)

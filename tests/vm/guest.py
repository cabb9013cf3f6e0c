"""The machine that snapshots are tried in: a volume group, a thin pool, a receiver, and programs that write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.vm.machine import Machine
from tests.vm.package import COMMAND

MIB = 1 << 20
KIB64 = 64 << 10
SIZE = 16 * MIB
SLOTS = ("classic", "thin", "one", "two", "three", "files", "small", "killed", "era", "gone", "gonethin")
SLOTS += ("step", "step-thin", "alone-thin")
# Whole blocks of a volume are written, and random places, a few sectors each, so that each touches two blocks at most.
BLOCKS, WRITES = 40, 8
SCATTER = f"""
import os, random, sys
disk = os.open(sys.argv[1], os.O_RDWR)
for block in random.sample(range({SIZE // KIB64}), {BLOCKS}):
    os.pwrite(disk, os.urandom({KIB64}), block * {KIB64})
for _ in range({WRITES}):
    at = random.randrange({SIZE} // 512 - 16) * 512
    os.pwrite(disk, os.urandom(random.randrange(1, 16) * 512), at)
os.fsync(disk)
"""
# The same number to each device in turn, past the page cache: what is counted on the second was counted on the first.
COUNT = """
import mmap, os, struct, sys, time
disks = [os.open(path, os.O_RDWR | os.O_DIRECT) for path in sys.argv[1:]]
page, number = mmap.mmap(-1, 4096), 0
while True:
    number += 1
    page[:8] = struct.pack("<Q", number)
    for disk in disks:
        os.pwrite(disk, page, 0)
    time.sleep(0.002)  # the sender needs the processor too
"""
# Files that hold one number over and over, in each folder in turn; a rename makes them seen.
FILES = """
import os, sys, time
number = 0
while True:
    number += 1
    for folder in sys.argv[1:]:
        path = f"{folder}/{number % 40}"
        with open(path + ".new", "wb") as file:
            file.write(str(number).encode().ljust(16) * 1024)
            file.flush()
            os.fsync(file.fileno())
        os.rename(path + ".new", path)
    time.sleep(0.005)
"""
WHOLE = """
import os, sys
names = [name for name in os.listdir(sys.argv[1]) if name.isdigit()]
assert names
for name in names:
    content = open(f"{sys.argv[1]}/{name}", "rb").read()
    assert len(content) == 16384 and content == content[:16] * 1024, name
print("whole")
"""
# Kills a sender at the moment that a device is suspended; with the process that would resume it, or without.
KILL = """
import os, signal, subprocess, sys, time
sys.path.insert(0, "/opt/blocksync")
from blocksync.platforms import devicemapper
device, both = sys.argv[1], sys.argv[2] == "both"
sender = subprocess.Popen(sys.argv[3:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
while not devicemapper.is_suspended(device):
    assert sender.poll() is None, "it ended and nothing was suspended"
    time.sleep(0.01)
children = open(f"/proc/{sender.pid}/task/{sender.pid}/children").read().split()
watchers = [child for child in children if "watcher" in open(f"/proc/{child}/cmdline").read()]
assert len(watchers) == 1, children
for pid in [int(watchers[0])] * both + [sender.pid]:
    os.kill(pid, signal.SIGKILL)
sender.wait()
"""


class Guest:
    """The machine with a receiver in it that has a slot for each test."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        programs = {"scatter": SCATTER, "count": COUNT, "files": FILES, "whole": WHOLE, "kill": KILL}
        for name, text in programs.items():
            self.run(f"cat > {name}.py <<'END'\n{text}\nEND")
        targets = " ".join(f"--target {slot}=/root/{slot}.img" for slot in SLOTS)
        self.run(
            f"setsid env {COMMAND} recv {targets} --create {SIZE >> 20}M --code-file code --listen 127.0.0.1 "
            "--control-port 9001 --data-port 9002 --state-dir received </dev/null >recv.log 2>&1 &\n"
            "until [ -s code ]; do kill -0 $! || { cat recv.log; exit 1; }; sleep 0.1; done",
        )

    def run(self, command: str, *, check: bool = True, timeout: float = 600) -> str:
        return self._machine.run(command, timeout=timeout, check=check)

    def words(self, what: str, to: str = "127.0.0.1:9001 --code-file code") -> str:
        """The command line of a send."""
        return f"env {COMMAND} send {what} --to {to} --json"

    def send(self, what: str, *, beside: str = "", to: str = "") -> tuple[dict[str, Any], str]:
        """Send; returns the last event, and what was said to people.

        Args:
            what: of the command line.
            beside: runs at the same time once a snapshot stands that no earlier pass has kept.
            to: another receiver, and the words that pair with it.
        """
        command = f"{self.words(what, to) if to else self.words(what)} > out 2>&1"
        if beside:
            taken = "lvs --noheadings -o lv_name,lv_tags vg0 | grep blocksync_ | grep -qv kept"
            stands = f"until {taken}; do kill -0 $sender || break; sleep 0.1; done"
            command = f"{command} & sender=$!\n{stands}\n{beside}\nwait $sender"
        self.run(command, check=False)
        events = [json.loads(line) for line in self.run("cat out").splitlines()]
        said = "\n".join(event["message"] for event in events if event["type"] == "progress" and event["message"])
        return events[-1], said

    def same(self, device: str, slot: str) -> bool:
        """Whether a target holds what a volume holds now, on the media."""
        command = f"sync; echo 3 > /proc/sys/vm/drop_caches; sha256sum < {device}; sha256sum < {slot}.img"
        source, target = self.run(command).split("\n")[:2]
        assert len(source) > 64
        return source == target

    def kept(self) -> list[str]:
        """Tags and names of what is kept, or was left, in the volume group."""
        words = self.run("lvs --noheadings --separator / -o lv_name,origin,lv_tags vg0").split()
        return [word for word in words if "blocksync" in word]

    def suspended(self) -> bool:
        return "Suspended" in self.run("dmsetup info -c --noheadings -o suspended")

    def create(self, name: str, *, thin: bool = False, size: int = 0) -> str:
        """A volume: of ``size`` bytes and empty, or small with something in its first half."""
        place = f"-V {size or SIZE}b -T vg0/pool" if thin else f"-L {size or SIZE}b -W n vg0"
        self.run(f"lvcreate -q -n {name} {place}")
        if not size:
            self.run(f"dd if=/dev/urandom of=/dev/vg0/{name} bs=1M count=8 oflag=direct 2>&1")
        return f"/dev/vg0/{name}"

    def put(self, here: Path, there: str) -> None:
        """Copy a file of the host into the machine."""
        self._machine.push(here, there)

    def remove(self, *names: str) -> None:
        """Remove volumes, with the snapshots that are kept of them."""
        origins = " ".join(f"vg0/{name}" for name in names)
        self.run(f"lvremove -q -f @blocksync.kept; lvremove -q -f {origins}")

"""Systems whose volumes are in use are sent with ``--flatten`` out of snapshots, twice, and boot.

In a machine with a real device-mapper the volumes of a system are active, its root and ``/boot`` mounted and written
to, while the command itself sends them to a receiver in the same machine. Each pass takes its own snapshots, and the
second one goes by what the first one kept. With a final pass the root is frozen, and both ends are compared.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blocksync import api
from tests.devices import image
from tests.vm.flattening import booted, faults, row
from tests.vm.machine import Machine
from tests.vm.package import COMMAND, package_disk, unpack
from tests.vm.systems import RECIPES, Recipe, cached, working_copy

MIB = 1 << 20
_SECONDS = 2400.0
_SPARE_BYTES = 256 * MIB
_BOOT = "vm.p1"
# Files of two lines that are equal; a rename makes each seen. A copy of no one instant tears some.
_WRITER = """
n=0
while :; do
    n=$((n+1)); file=/mnt/live/$((n%20))
    printf '%s\\n%s\\n' $n $n > $file.new; mv $file.new $file; sleep 0.5
done
"""
_WHOLE = """
count=0
for file in /arrived/live/*; do
    case $file in *.new) continue;; esac
    { read -r one; read -r two; } < $file; count=$((count+1))
    [ -n "$one" ] && [ "$one" = "$two" ] || echo torn $file
done
echo files $count; echo marker $(cat /arrived/etc/marker)
"""
_RECEIVER = (
    f"setsid env {COMMAND} recv --target vm=/dev/vdd --code-file code --listen 127.0.0.1 --control-port 9001 "
    "--data-port 9002 --state-dir /root/received </dev/null >recv.log 2>&1 &\n"
    "until [ -s code ]; do kill -0 $! || { cat recv.log; exit 1; }; sleep 0.1; done"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """A system in use.

    Args:
        system: name of its recipe.
        provider: what keeps track of its volumes.
        spare: a further disk makes room for snapshots in the group.
        cut: the sender of the first pass is killed on its way.
        final: a third pass freezes what is mounted, and is compared.
    """

    system: str
    provider: str
    spare: bool = False
    cut: bool = False
    final: bool = False


LIVE = {
    "live": Live(system="bios-mbr", provider="lvm-snapshot", spare=True, cut=True),
    "live-thin": Live(system="thin", provider="lvm-thin", final=True),
}


class _Sending:
    """The machine, with a receiver in it and what a sender said so far."""

    def __init__(self, machine: Machine, live: Live, root_offset: int) -> None:
        self._machine = machine
        self._live = live
        self._offset = root_offset
        self.wrong: list[str] = []
        self.said: list[str] = []

    def start(self, group: str) -> None:
        """Unpack, offer the target, bring the volumes up, mount them and begin to write."""
        run = self._machine.run
        run(unpack("/dev/vdc"))
        run(_RECEIVER, timeout=_SECONDS)
        if self._live.spare:
            run(f"pvcreate -q /dev/vde && vgextend -q {group} /dev/vde")
        run(f"vgchange -q -ay {group} && mkdir -p /mnt /arrived && mount /dev/{group}/root /mnt")
        run("mount /dev/vdb1 /mnt/boot && mkdir /mnt/live")
        run(f"cat > writer <<'END'\n{_WRITER}\nEND\nsetsid bash writer </dev/null >/dev/null 2>&1 & echo $! > pid")
        run("until [ -e /mnt/live/0 ]; do sleep 0.5; done")

    def _command(self, words: str) -> str:
        disks = "/dev/vdb /dev/vde" if self._live.spare else "/dev/vdb"
        return f"env {COMMAND} send {disks} --flatten {words} --to 127.0.0.1:9001 --code-file code --json"

    def cut(self, words: str) -> None:
        """A pass whose sender is killed on its way; its snapshots are left."""
        stands = (
            "until lvs --noheadings -o lv_name | grep -q blocksync_; do kill -0 $sender || break; sleep 0.5; done"
        )
        command = f"{self._command(words)} --read-limit 10M >cut.log 2>&1 & sender=$!"
        killed = f"{command}\n{stands}\nsleep 30; kill -9 $sender && echo killed || tail -c 2000 cut.log"
        said = self._machine.run(killed, timeout=_SECONDS, check=False)
        self.wrong += [] if "killed" in said.split() else [f"the sender that was to be killed: {said[-2000:]}"]

    def send(self, kind: str, tracker: str, words: str, *, resumed: bool = False) -> None:
        """One pass; what is not as it should be is noted."""
        said = self._machine.run(f"{self._command(words)} 2>&1", timeout=_SECONDS, check=False).splitlines()
        self.said = said[-4:]
        try:
            result: dict[str, Any] = json.loads(said[-1])
        except (IndexError, ValueError):
            result = {}
        if result.get("type") != "result":
            self.wrong.append(f"{words}: no result")
            return
        passes = {disk["slot"]: disk["result"] for disk in result["disks"]}
        # What a pass that was cut had committed is the smallest of them.
        found = {each["kind"] for each in passes.values()} - ({"incremental"} if resumed else set())
        self._expect(words, "kinds", found, {kind})
        if resumed and not any(each["resumed"] for each in passes.values()):
            self.wrong.append("nothing of the pass that was cut was taken up again")
        # /boot is a partition, no volume: it is read as it is, and nothing keeps track of it.
        plain = passes.pop(_BOOT)
        still = "crash" if "--final" in words else "live"
        self._expect(words, "the transfer's consistency", {result["consistency"]}, {still})
        self._expect(words, "/boot's tracker", {plain["tracker"]}, {""})
        trackers = {each["tracker"] for each in passes.values()} - ({self._live.provider} if resumed else set())
        self._expect(words, "trackers", trackers, {tracker})
        if "--final" not in words:
            instant = "crash-group" if len(passes) > 1 else "crash"
            self._expect(words, "consistency", {each["consistency"] for each in passes.values()}, {instant})
        if "--verify" in words:
            self._expect(words, "identical", {str(each) for each in result["verified"].values()}, {"True"})

    def arrived(self, marker: str) -> None:
        """What the target's root holds, which was written to while it was sent: whole files, and a marker."""
        # Through a loop device: the receiver holds the target, whose partitions the kernel therefore does not know.
        mount = f"mount -o ro,noload,loop,offset={self._offset} /dev/vdd /arrived"
        told = self._machine.run(f"{mount} && {{ {_WHOLE}\n}}; umount /arrived").split("\n")
        counts = [int(line.split()[1]) for line in told if line.startswith("files ")]
        self.wrong += [line for line in told if line.startswith("torn ")]
        self.wrong += [] if counts and counts[0] == 20 else [f"files on the target: {counts}"]
        self._expect(
            "the target's root", "marker", {line for line in told if "marker" in line}, {f"marker {marker}"}
        )

    def left(self, group: str, kept: int) -> None:
        """Snapshots that stand after a pass: those that are kept to track by, and nothing else."""
        tags = self._machine.run(f"lvs --noheadings -o lv_tags {group}").split()
        ours = [tag for tag in tags if "blocksync" in tag]
        if len(ours) != kept or not all("kept" in tag for tag in ours):
            self.wrong.append(f"snapshots that were left: {ours}")
        if "Suspended" in self._machine.run("dmsetup info -c --noheadings -o suspended"):
            self.wrong.append("a device was left suspended")

    def _expect(self, words: str, what: str, found: set[str], wanted: set[str]) -> None:
        if found != wanted:
            self.wrong.append(f"{words}: {what} {sorted(found)}, not {sorted(wanted)}")


def _passes(sending: _Sending, machine: Machine, live: Live, recipe: Recipe) -> None:
    """Two passes out of snapshots, and a final one where that is wanted."""
    words = "--snapshot lvm --track" + (" --snapshot-size 48M" if live.spare else "")
    sending.start(recipe.group)
    if live.cut:
        sending.cut(words)
    sending.send("full", "", words, resumed=live.cut)
    sending.arrived(recipe.marker)
    sending.left(recipe.group, len(recipe.volumes))
    machine.run("echo again > /mnt/etc/marker")
    sending.send("incremental", live.provider, words)
    sending.arrived("again")
    sending.left(recipe.group, len(recipe.volumes))
    if live.final:
        machine.run("echo final > /mnt/etc/marker")
        sending.send("incremental", live.provider, "--track --final --verify")
        sending.arrived("final")
    machine.run("kill $(cat pid)")


def live(name: str) -> dict[str, object]:
    """Send one system while it is in use, and boot what arrived; the facts for a table."""
    case = LIVE[name]
    recipe = RECIPES[case.system]
    with tempfile.TemporaryDirectory(prefix="flattening-") as folder_name:
        folder = Path(folder_name)
        disk = working_copy(cached(recipe), folder)[0]
        plan = api.plan_flatten([str(disk)])
        root = next(copy.to for copy in plan.copies if copy.volume == "root")
        target = image(folder / "target.img", plan.size)
        disks = [disk, package_disk(folder / "package.img"), target]
        disks += [image(folder / "spare.img", _SPARE_BYTES)] if case.spare else []
        began = time.monotonic()
        with Machine(disks, memory_mib=1024) as machine:
            sending = _Sending(machine, case, plan.slice(root).offset)
            try:
                _passes(sending, machine, case, recipe)
            except AssertionError as error:
                sending.wrong.append(str(error)[-1500:])
        taken = time.monotonic()
        if sending.wrong:
            return {"system": name, "ok": False, "faults": sending.wrong, "said": sending.said}
        left = [f"{each.code} {each.where}" for each in api.check_flattened(str(target))]
        marker = "final" if case.final else "again"
        report, told = booted(target, recipe, folder / "boot")
        wrong = faults(dataclasses.replace(recipe, marker=marker), report, told)
    return row(name, wrong, left, report, told, taken - began)

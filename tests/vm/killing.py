"""Runs inside the test machine: kills a sender at each step of its snapshots, cleans up, and looks what is left.

    python3 killing.py SECONDS WAYS PAIR... -- WORDS...

Kills are tried in a random order for SECONDS; 0 is until all are done. A step is a run of one of LVM's or
device-mapper's tools. Scripts stand before these tools on PATH; they number the steps of a pass, and the one whose
turn it is kills whoever has started it. WAYS are of:

* ``before``: the sender dies, and the tool does not run;
* ``during``: the sender dies, and the tool runs to its end, with nobody to read what it prints;
* ``all``: where volumes are suspended, the process that would resume them dies too, and then the tool runs.

Tools that only look are killed ``before`` alone. After each kill ``blocksync check --clean`` runs, and nothing but what
is kept for the next pass may be left. PAIR is ``DEVICE=FILE``, a source and the target that it is compared with after
the pass that nobody kills. The processes are forked from one that has imported everything: starting Python takes
seconds here.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

FOLDER = Path("/run/killing")
STEPS, TOOLS, SAID, MODULES = FOLDER / "steps", FOLDER / "tools", FOLDER / "said", FOLDER / "modules"
RECORDS = Path("/run/blocksync")
NAMES = ("lvs", "lvcreate", "lvremove", "lvchange", "dmsetup", "thin_delta")
LOOKS = re.compile(r"(lvs|thin_delta|dmsetup (status|info|table))\b")
# Built-in words of the shell only, but for the kill itself: a step must not take long.
WRAPPER = """#!/bin/sh
number=1
set -C
until {{ true > {steps}/$number; }} 2>/dev/null; do number=$((number + 1)); done
set +C
held=; line=; for record in {records}/*.json; do
    read -r line < "$record"
    case $line in *'"suspended": ["'*) held=held;; esac
done 2>/dev/null
echo "$held {name} $*" > {steps}/$number
if [ "$number" != "$KILL_STEP" ]; then exec {path} "$@"; fi
[ "$KILL_WAY" != all ] || for child in $(cat /proc/$PPID/task/*/children); do [ $child = $$ ] || kill -9 $child; done
kill -9 $PPID
[ "$KILL_WAY" = before ] || {path} "$@"
: > {steps}/killed
"""


def forked(words: list[str], *, step: int = 0, way: str = "") -> int:
    """Run the command in a process of its own; its exit code, negative where it was killed."""
    process = os.fork()
    if not process:
        os.environ.update(KILL_STEP=str(step), KILL_WAY=way, PATH=f"{TOOLS}:{os.environ['PATH']}")
        output = os.open(SAID, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        code = 70
        with contextlib.suppress(BaseException):
            from blocksync.cli import main

            code = main(words)
        MODULES.write_text("\n".join(sys.modules))
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def look(*words: str) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def prepare() -> None:
    for folder in (STEPS, TOOLS):
        folder.mkdir(parents=True, exist_ok=True)
    for name in NAMES:
        path = shutil.which(name)
        assert path, name
        (TOOLS / name).write_text(WRAPPER.format(steps=STEPS, records=RECORDS, name=name, path=path))
        (TOOLS / name).chmod(0o755)


def clear() -> None:
    for path in STEPS.iterdir():
        path.unlink()


def scatter(devices: list[str]) -> None:
    """Change a few blocks of each."""
    for device in devices:
        disk = os.open(device, os.O_RDWR)
        size = os.lseek(disk, 0, os.SEEK_END)
        for _ in range(4):
            os.pwrite(disk, os.urandom(4096), random.randrange(size // 4096) * 4096)
        os.fsync(disk)
        os.close(disk)


def suspended() -> list[str]:
    said = look("dmsetup", "info", "-c", "--noheadings", "--separator", " ", "-o", "name,suspended")
    return [line.split()[0] for line in said.splitlines() if "Suspended" in line]


def left() -> list[str]:
    """What is there of blocksync, and is not kept for the next pass."""
    found = [f"suspended {name}" for name in suspended()]
    said = json.loads(look("lvs", "-a", "--reportformat", "json", "-o", "lv_name,lv_tags,origin,pool_lv,vg_name"))
    rows = said["report"][0]["lv"]
    tags = {tag for row in rows for tag in row["lv_tags"].split(",") if tag}
    kept = {tag.rpartition(".")[2] for tag in tags if tag.startswith("blocksync.kept-")}
    found += [f"tag {tag}" for tag in tags if tag.startswith("blocksync.") and not tag.startswith("blocksync.kept")]
    for row in rows:
        if row["lv_name"].strip("[]").startswith("blocksync_") and "blocksync.kept" not in row["lv_tags"]:
            found.append(f"snapshot {row['lv_name']}")
    for line in look("dmsetup", "ls").splitlines():
        name = line.split()[0]
        if name.startswith("blocksync-") and name.rpartition("-")[2] not in kept:
            found.append(f"device {name}")
    for line in look("dmsetup", "status", "--target", "thin-pool").splitlines():
        if line.split()[7] != "-":
            found.append(f"metadata snapshot {line}")
    return found + [f"record {path.name}" for path in RECORDS.glob("*.json")]


def unknown_numbers() -> list[str]:
    """Volumes in the pool that neither LVM nor a tag knows."""
    look("dmsetup", "message", "vg0-pool-tpool", "0", "reserve_metadata_snap")
    try:
        said = look("thin_ls", "--no-headers", "-m", "-o", "DEV", "/dev/mapper/vg0-pool_tmeta")
    finally:
        look("dmsetup", "message", "vg0-pool-tpool", "0", "release_metadata_snap")
    known = set(look("lvs", "-a", "--noheadings", "-o", "thin_id").split())
    known |= set(re.findall(r"\.thin\.([0-9]+)", look("lvs", "-a", "--noheadings", "-o", "lv_tags")))
    return sorted(set(said.split()) - known)


def steps() -> list[str]:
    """What the steps of the last pass were; ``held`` stands before those that ran while volumes were suspended."""
    return [(STEPS / str(number + 1)).read_text().strip() for number in range(len(list(STEPS.iterdir())))]


def plan(said: list[str], ways: list[str]) -> list[tuple[int, str]]:
    wanted = []
    for number, step in enumerate(said, 1):
        for way in ways:
            held = step.startswith("held ")
            changes = not LOOKS.match(step.removeprefix("held "))
            if way == "before" or (changes and (way == "during" or held)):
                wanted.append((number, way))
    return wanted


def killed(words: list[str], number: int, way: str) -> str:
    """One kill, and what is left after it; empty for nothing."""
    clear()
    code = forked(words, step=number, way=way)
    if code != -9:
        return "" if code == 0 else f"ended with {code}: {SAID.read_text()[-2000:]}"
    deadline = time.monotonic() + 60
    while not (STEPS / "killed").exists():
        assert time.monotonic() < deadline, "the tool does not end"
        time.sleep(0.02)
    if way != "all":
        # The process that watches resumes them, unasked.
        while suspended():
            assert time.monotonic() < deadline, "nobody resumes"
            time.sleep(0.02)
    code = forked(["check", "--clean", "--json"])
    if code:
        return f"check --clean ended with {code}: {SAID.read_text()[-2000:]}"
    return ", ".join(left())


def main() -> int:
    limit, ways, *rest = sys.argv[1:]
    pairs, words = [pair.split("=") for pair in rest[: rest.index("--")]], rest[rest.index("--") + 1 :]
    devices = [device for device, _ in pairs]
    prepare()
    clear()
    assert forked(words) == 0, SAID.read_text()
    for name in MODULES.read_text().split():
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    # The next one goes by what the first has kept.
    scatter(devices)
    clear()
    assert forked(words) == 0, SAID.read_text()
    said = steps()
    wanted = plan(said, ways.split(","))
    random.shuffle(wanted)
    wrong, kills = [], 0
    began = time.monotonic()
    for number, way in wanted:
        if float(limit) and time.monotonic() - began > float(limit):
            break
        scatter(devices)
        found = killed(words, number, way)
        kills += (STEPS / "killed").exists()
        note = f"{way} step {number}, {said[number - 1]}: {found}"
        sys.stderr.write(f"{time.monotonic() - began:.1f} s {note}\n")
        if found:
            wrong.append(note)
    code = forked(words)
    if code or left():
        wrong.append(f"the pass after all kills ended with {code} and left {left()}: {SAID.read_text()[-2000:]}")
    look("sync")
    Path("/proc/sys/vm/drop_caches").write_text("3")
    wrong += [f"{device} and {file} differ" for device, file in pairs if not same(device, file)]
    if forked(["check", "--clean", "--kept", "--json"]) or "blocksync" in look(
        "lvs", "-a", "-o", "lv_name,lv_tags"
    ):
        wrong.append(f"something is kept: {look('lvs', '-a', '-o', 'lv_name,lv_tags')}")
    wrong += [f"the pool knows number {number}" for number in unknown_numbers()]
    facts = {"steps": said, "kills": kills, "of": len(wanted), "wrong": wrong}
    sys.stdout.write(json.dumps(facts) + "\n")
    return 0


def same(device: str, file: str) -> bool:
    return subprocess.run(["cmp", "-s", device, file], check=False).returncode == 0


if __name__ == "__main__":
    sys.exit(main())

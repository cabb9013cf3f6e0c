"""The campaign of flatten: systems with their root on LVM are flattened, looked at and booted.

``python -m tests.vm.flattening [--local | --rebuild | --negative] [--results FILE] [SYSTEM…]`` runs all that are
named, or all there are (then also ``data-disk``, ``bios-mbr`` with a disk of data that fstab names by device, two that
rebuild their initramfs, those of ``APART``, which go onto two targets, ``live`` and ``live-thin``, which are in use
while they are sent, ``twin``, with a clone of its root beside it, and ``secure``, with Secure Boot on), and writes a
line of JSON each. Without ``--local`` a system goes over TLS on loopback, as ``blocksync send --flatten`` sends it.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from blocksync import api
from blocksync.flatten.bootloader import located_boot, located_core
from blocksync.flatten.bootsigns import plain
from blocksync.flatten.boottest import BootReport, boot_test
from blocksync.options import FlattenOptions
from tests.devices import replace_bytes
from tests.vm.apart import with_data
from tests.vm.base import run as run_tool
from tests.vm.systems import (
    PV_START_BYTES,
    RECIPES,
    Lv,
    Recipe,
    boot_place,
    cached,
    fs_uuid,
    working_copy,
)
from tests.vm.wire import sent, sent_apart

BOOT_SECONDS = 1500.0
MIB = 1 << 20
_END = "REPORT-END"


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a booted system told of itself."""

    mounts: dict[str, tuple[str, str]]
    swaps: tuple[str, ...]
    failed: str
    volumes: str
    volumes_code: str
    physical: str
    command_line: str
    markers: dict[str, str]


def booted(
    target: Path, recipe: Recipe, folder: Path, *, beside: Sequence[Path] = ()
) -> tuple[BootReport, Seen | None]:
    """Boot a target, with those beside it, until it has reported."""
    report = boot_test(
        str(target),
        firmware="uefi" if recipe.uefi else "bios",
        folder=folder,
        seconds=BOOT_SECONDS,
        until=_END,
        beside=[str(path) for path in beside],
    )
    text = plain(Path(report.console).read_bytes())
    return report, seen(text) if _END in text else None


def seen(text: str) -> Seen:
    """Parse a report; lines of the kernel may stand between its own."""
    mounts: dict[str, tuple[str, str]] = {}
    markers: dict[str, str] = {}
    swaps: list[str] = []
    said = {"FAILED": "", "LVS": "", "LVSCODE": "", "PVS": "", "CMDLINE": ""}
    for line in text[text.index("REPORT-BEGIN") :].splitlines():
        for word in ("MOUNT ", "SWAP ", "MARKER ", *(f"{name} " for name in said)):
            at = line.find(word)
            if at < 0:
                continue
            rest = line[at + len(word) :].split()
            if word == "MOUNT ":
                mounts[rest[0]] = (rest[1], rest[2])
            elif word == "MARKER ":
                markers[rest[0]] = rest[1]
            elif word == "SWAP ":
                swaps.append(rest[0])
            else:
                said[word.strip()] = " ".join(rest)
            break
    return Seen(
        mounts=mounts,
        swaps=tuple(swaps),
        failed=said["FAILED"],
        volumes=said["LVS"],
        volumes_code=said["LVSCODE"],
        physical=said["PVS"],
        command_line=said["CMDLINE"],
        markers=markers,
    )


def faults(
    recipe: Recipe, report: BootReport, told: Seen | None, *, second: frozenset[str] = frozenset()
) -> list[str]:
    """What is not as it should be; nothing where the system came up whole from standard partitions.

    Args:
        second: what is mounted from the second disk; all else is from the first.
    """
    if told is None:
        return [f"no report: {report.verdict}: {report.seen}", *report.notices]
    found = list(report.notices)
    wanted = {volume.where for volume in recipe.volumes if volume.where != "swap"}
    wanted |= {"/boot"} if recipe.boot_mib else set()
    wanted |= {"/boot/efi"} if recipe.uefi else set()
    for where in sorted(wanted):
        device = told.mounts.get(where, ("nothing", ""))[0]
        if not device.startswith("/dev/vdb" if where in second else "/dev/vda"):
            found.append(f"{where} is mounted from {device}")
    swaps = sum(volume.where == "swap" for volume in recipe.volumes)
    if len([swap for swap in told.swaps if swap.startswith("/dev/vda")]) != swaps:
        found.append(f"swap on {told.swaps}")
    found += [f"failed units: {told.failed}"] if told.failed else []
    found += [f"lvs finds {told.volumes}"] if told.volumes else []
    found += [f"pvs finds {told.physical}"] if told.physical else []
    # An lvs that could not look finds nothing either.
    found += [f"lvs ended with {told.volumes_code or 'nothing'}"] if told.volumes_code != "0" else []
    if any(marker != recipe.marker for marker in told.markers.values()) or "/etc/marker" not in told.markers:
        found.append(f"markers {told.markers}")
    return found


def data_disk(recipe: Recipe, folder: Path) -> tuple[Recipe, list[Path]]:
    """Copies of a system's disks, and a disk of data beside them, which its fstab names by device."""
    disks = working_copy(cached(recipe), folder)
    disk, content, tree = folder / "data.img", folder / "data.ext4", folder / "data"
    tree.mkdir()
    (tree / "marker").write_text(recipe.marker + "\n")
    with content.open("wb") as file:
        file.truncate(32 * MIB)
    run_tool("mkfs.ext4", "-q", "-F", "-d", tree, content)
    with disk.open("wb") as file:
        file.truncate(34 * MIB)
    subprocess.run(["sfdisk", "-q", disk], input="start=1MiB, size=32MiB\n", text=True, check=True)
    with disk.open("r+b") as file:
        file.seek(MIB)
        file.write(content.read_bytes())
    # The root volume is one run behind /boot: its files can be changed where they lie.
    root = f"{disks[0]}?offset={boot_place(recipe) + recipe.boot_mib * MIB + PV_START_BYTES}"
    fstab = folder / "fstab"
    run_tool("debugfs", "-R", f"dump /etc/fstab {fstab}", root)
    assert "/dev/mapper/" in fstab.read_text()
    fstab.write_text(fstab.read_text() + "/dev/sdb1\t/data\text4\tdefaults\t0\t2\n")
    for words in ("rm /etc/fstab", f"write {fstab} /etc/fstab", "mkdir /data"):
        run_tool("debugfs", "-w", "-R", words, root)
    data = Lv(name="data", where="/data", kind="ext4", mib=32)
    return dataclasses.replace(recipe, name="data-disk", volumes=(*recipe.volumes, data)), [*disks, disk]


def row(
    system: str, wrong: list[str], left: list[str], report: BootReport, told: Seen | None, flatten_seconds: float
) -> dict[str, object]:
    """What a table tells of a system that was flattened and booted."""
    return {
        "system": system,
        "ok": not wrong and not left,
        "faults": wrong,
        "leftovers": left,
        "verdict": report.verdict,
        "mounts": told.mounts if told else {},
        "flatten_seconds": round(flatten_seconds, 1),
        "boot_seconds": report.seconds,
        "accelerated": report.accelerated,
    }


def run(recipe: Recipe, *, local: bool, rebuild: bool = False, data: bool = False) -> dict[str, object]:
    """Flatten, look and boot one system; the facts for a table."""
    began = time.monotonic()
    disks = cached(recipe)
    built = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="flattening-") as name:
        folder = Path(name)
        if data:
            recipe, disks = data_disk(recipe, folder)
        target = folder / "target.img"
        if local:
            options = FlattenOptions(create=True, state_dir=folder / "state", rebuild_initramfs=rebuild)
            api.flatten([str(disk) for disk in disks], str(target), options)
        else:
            sent(disks, target, folder)
        copied = time.monotonic()
        left = [f"{each.code} {each.where}" for each in api.check_flattened(str(target))]
        report, told = booted(target, recipe, folder / "boot")
        wrong = faults(recipe, report, told)
    way = "rebuilt" if rebuild else "local" if local else "TLS"
    return {
        **row(recipe.name, wrong, left, report, told, copied - built),
        "way": way,
        "build_seconds": round(built - began),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Apart:
    """A system with a second disk of data, which goes onto two targets.

    Args:
        base: its recipe.
        place: as ``--place`` has it.
        second: what is then mounted from the second target.
    """

    base: str
    second: frozenset[str]
    place: tuple[tuple[str, int], ...] = ()


_DATA = (
    Lv(name="home", where="/data", kind="xfs", mib=320),
    Lv(name="db-1", where="/srv", kind="ext4", mib=64),
)
APART = {
    # As it was: the system on the first disk, the data on the second.
    "apart": Apart(base="bios-mbr", second=frozenset({"/data", "/srv"})),
    "apart-uefi": Apart(base="uefi", second=frozenset({"/data", "/srv"})),
    # The root volume, with /boot in it, on the second: GRUB's core on the first has to look for it.
    "crossed": Apart(base="bios-gpt", place=(("root", 2), ("home", 1)), second=frozenset({"/", "/srv"})),
}


def run_apart(name: str, *, local: bool) -> dict[str, object]:
    """Flatten a system of two disks onto two targets, look and boot."""
    case = APART[name]
    with tempfile.TemporaryDirectory(prefix="flattening-") as folder_name:
        folder = Path(folder_name)
        recipe, disks = with_data(RECIPES[case.base], _DATA, folder)
        targets = [folder / "first.img", folder / "second.img"]
        began = time.monotonic()
        if local:
            options = FlattenOptions(
                create=True, state_dir=folder / "state", onto=(str(targets[1]),), place=case.place
            )
            api.flatten([str(disk) for disk in disks], str(targets[0]), options)
        else:
            sent_apart(disks, targets, folder, FlattenOptions(onto=("vm2",), place=case.place))
        copied = time.monotonic()
        found = api.check_flattened(str(targets[0]), beside=[str(targets[1])])
        report, told = booted(targets[0], recipe, folder / "boot", beside=targets[1:])
        wrong = faults(recipe, report, told, second=case.second)
    left = [f"{each.code} {each.where}" for each in found]
    return {**row(name, wrong, left, report, told, copied - began), "way": "local" if local else "TLS"}


REBUILT = ("bios-mbr", "dracut")  # one of each kind of initramfs
NEGATIVES = (
    # system, step that is left out, what --check says, what the boot shows
    ("many", "fstab", "BS1130", "emergency"),
    ("many", "resume=", "BS1138", "login"),
    ("bios-mbr", "grub.cfg", "BS1133", "initramfs"),
    ("bios-mbr", "loader", "BS1145", "no-loader"),
    ("bios-gpt", "prefix", "BS1145", "grub-rescue"),
    ("dracut", "rd.lvm=0", "BS1147", "dracut"),
)


_SYMPTOMS = {  # the words of the facts, as each of these systems writes them
    "fstab": "Timed out waiting for device",
    "resume=": "Gave up waiting for suspend/resume device",
    "grub.cfg": "does not exist",
    "loader": "Booting from Hard Disk",
    "prefix": "error: disk `lvmid/",
    "rd.lvm=0": "dracut-initqueue",
}


def negative(name: str, step: str, code: str, verdict: str) -> dict[str, object]:
    """Leave one step out: the check predicts, and the boot shows, what the facts say."""
    disks = cached(RECIPES[name])
    with tempfile.TemporaryDirectory(prefix="flattening-") as folder_name:
        folder = Path(folder_name)
        target = folder / "target.img"
        skip = () if step in ("prefix", "rd.lvm=0", "resume=") else (step,)
        options = FlattenOptions(create=True, state_dir=folder / "state", skip=skip)
        api.flatten([str(disk) for disk in disks], str(target), options)
        if step == "prefix":
            _old_loader(disks, target)
        elif step == "rd.lvm=0":
            replace_bytes(target, b" rd.lvm=0", b"")
        elif step == "resume=":
            replace_bytes(target, f" resume=UUID={fs_uuid(RECIPES[name], 'swap')}".encode(), b"")
        codes = sorted({each.code for each in api.check_flattened(str(target))})
        # Firmware that hands over to nothing says no more: that verdict comes when the time is over.
        seconds = 120.0 if step == "loader" else BOOT_SECONDS
        report = boot_test(str(target), firmware="bios", folder=folder / "boot", seconds=seconds)
        symptom = _SYMPTOMS[step] in plain(Path(report.console).read_bytes()) + report.seen
    return {
        "system": name,
        "left out": step,
        "ok": code in codes and report.verdict == verdict and symptom,
        "symptom": _SYMPTOMS[step] if symptom else "",
        "predicted": codes,
        "verdict": report.verdict,
        "seen": report.seen,
        "notices": report.notices,
        "boot_seconds": report.seconds,
    }


def _old_loader(disks: list[Path], target: Path) -> None:
    """Put a GRUB there as grub-install makes it: a small core, with all else in a prefix on the old volume."""
    root = next(
        alias for alias in api.plan_flatten([str(disk) for disk in disks]).aliases if alias.volume == "root"
    )
    modules = Path("/usr/lib/grub/i386-pc")
    with tempfile.TemporaryDirectory(prefix="flattening-") as folder:
        image = Path(folder) / "image"
        names = ["biosdisk", "part_gpt", "part_msdos", "ext2", "lvm"]
        run_tool("grub-mkimage", "-O", "i386-pc", "-p", f"({root.grub_names[0]})/boot/grub", "-o", image, *names)
        core = image.read_bytes()
    first = MIB // 512
    with target.open("r+b") as file:
        file.write(located_boot((modules / "boot.img").read_bytes(), first))
        file.seek(first * 512)
        file.write(located_core(core, first, -(-len(core) // 512)))


Job = tuple[str, Callable[[], dict[str, object]]]


def jobs_of(words: list[str], *, local: bool, rebuild: bool) -> list[Job]:
    """What the words of the command line ask for, by name."""
    from tests.vm.live import LIVE, live
    from tests.vm.secure import CASES, secure
    from tests.vm.twin import twin

    every = [*RECIPES, "data-disk", *APART, *([] if local else (*LIVE, "secure", "twin"))]
    named = [name for name in (*every, *LIVE, "secure", "twin") if name in words]
    chosen = named or every
    if "--negative" in words:
        return [(case[0], functools.partial(negative, *case)) for case in NEGATIVES if case[0] in chosen]
    systems = [name for name in RECIPES if name in chosen]
    jobs: list[Job] = [
        (name, functools.partial(run, RECIPES[name], local=local, rebuild=rebuild)) for name in systems
    ]
    if "data-disk" in chosen:
        jobs.append(("data-disk", functools.partial(run, RECIPES["bios-mbr"], local=local, data=True)))
    if not rebuild:
        jobs += [(name, functools.partial(run_apart, name, local=local)) for name in APART if name in chosen]
    if not local and not named:
        jobs += [(name, functools.partial(run, RECIPES[name], local=True, rebuild=True)) for name in REBUILT]
    jobs += [(name, functools.partial(live, name)) for name in LIVE if name in chosen]
    jobs += [("twin", twin)] if "twin" in chosen else []
    jobs += [(f"secure-{case}", functools.partial(secure, case)) for case in CASES if "secure" in chosen]
    return jobs


def main(words: list[str]) -> int:
    rebuild = "--rebuild" in words
    results = Path(words[words.index("--results") + 1]) if "--results" in words else None
    jobs = jobs_of(words, local=rebuild or "--local" in words, rebuild=rebuild)
    good = True
    for name, job in jobs:
        try:
            facts = job()
        except Exception as error:  # noqa: BLE001 - the others are run all the same
            facts = {"system": name, "ok": False, "faults": [f"{type(error).__name__}: {error}"]}
        good = good and bool(facts["ok"])
        line = json.dumps(facts)
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
        if results is not None:
            with results.open("a") as file:
                file.write(line + "\n")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

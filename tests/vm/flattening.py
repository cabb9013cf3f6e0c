"""The campaign of flatten: systems with their root on LVM are flattened, looked at and booted.

``python -m tests.vm.flattening [--local] [--results FILE] [SYSTEM…]`` runs all that are named, or all there are, and
writes a line of JSON each. Without ``--local`` a system goes over TLS on loopback, as ``blocksync send --flatten``
sends it.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from blocksync import api
from blocksync.flatten.boottest import BootReport, boot_test, plain
from blocksync.options import FlattenOptions
from tests.vm.systems import RECIPES, Recipe, cached

BOOT_SECONDS = 1500.0
_END = "REPORT-END"


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a booted system told of itself."""

    mounts: dict[str, tuple[str, str]]
    swaps: tuple[str, ...]
    failed: str
    volumes: str
    command_line: str
    markers: dict[str, str]


def booted(target: Path, recipe: Recipe, folder: Path) -> tuple[BootReport, Seen | None]:
    """Boot a target until it has reported."""
    report = boot_test(
        str(target),
        firmware="uefi" if recipe.uefi else "bios",
        folder=folder,
        seconds=BOOT_SECONDS,
        until=_END,
    )
    text = plain(Path(report.console).read_bytes())
    return report, seen(text) if _END in text else None


def seen(text: str) -> Seen:
    """Parse a report; lines of the kernel may stand between its own."""
    mounts: dict[str, tuple[str, str]] = {}
    markers: dict[str, str] = {}
    swaps: list[str] = []
    said = {"FAILED": "", "LVS": "", "CMDLINE": ""}
    for line in text[text.index("REPORT-BEGIN") :].splitlines():
        for word in ("MOUNT ", "SWAP ", "FAILED ", "LVS ", "CMDLINE ", "MARKER "):
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
        command_line=said["CMDLINE"],
        markers=markers,
    )


def faults(recipe: Recipe, report: BootReport, told: Seen | None) -> list[str]:
    """What is not as it should be; nothing where the system came up whole from standard partitions."""
    if told is None:
        return [f"no report: {report.verdict}: {report.seen}", *report.notices]
    found = list(report.notices)
    wanted = {volume.where for volume in recipe.volumes if volume.where != "swap"}
    wanted |= {"/boot"} if recipe.boot_mib else set()
    wanted |= {"/boot/efi"} if recipe.uefi else set()
    for where in sorted(wanted):
        device = told.mounts.get(where, ("nothing", ""))[0]
        if not device.startswith("/dev/vda"):
            found.append(f"{where} is mounted from {device}")
    swaps = sum(volume.where == "swap" for volume in recipe.volumes)
    if len([swap for swap in told.swaps if swap.startswith("/dev/vda")]) != swaps:
        found.append(f"swap on {told.swaps}")
    found += [f"failed units: {told.failed}"] if told.failed else []
    found += [f"lvs finds {told.volumes}"] if told.volumes else []
    if any(marker != recipe.marker for marker in told.markers.values()) or "/etc/marker" not in told.markers:
        found.append(f"markers {told.markers}")
    return found


def run(recipe: Recipe, *, local: bool) -> dict[str, object]:
    """Flatten, look and boot one system; the facts for a table."""
    began = time.monotonic()
    disks = cached(recipe)
    built = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="flattening-") as name:
        folder = Path(name)
        target = folder / "target.img"
        if local:
            options = FlattenOptions(create=True, state_dir=folder / "state")
            api.flatten([str(disk) for disk in disks], str(target), options)
        else:
            from tests.vm.wire import sent

            sent(disks, target, folder)
        copied = time.monotonic()
        left = [f"{each.code} {each.where}" for each in api.check_flattened(str(target))]
        report, told = booted(target, recipe, folder / "boot")
        wrong = faults(recipe, report, told)
    return {
        "system": recipe.name,
        "way": "local" if local else "TLS",
        "ok": not wrong and not left,
        "faults": wrong,
        "leftovers": left,
        "verdict": report.verdict,
        "mounts": told.mounts if told else {},
        "build_seconds": round(built - began),
        "flatten_seconds": round(copied - built, 1),
        "boot_seconds": report.seconds,
        "accelerated": report.accelerated,
    }


def main(words: list[str]) -> int:
    local = "--local" in words
    results = Path(words[words.index("--results") + 1]) if "--results" in words else None
    names = [word for word in words if word in RECIPES] or list(RECIPES)
    good = True
    for name in names:
        try:
            facts = run(RECIPES[name], local=local)
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

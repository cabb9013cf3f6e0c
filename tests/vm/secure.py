"""Secure Boot: a flattened system whose signed chain is whole boots with it on, and an unsigned GRUB is refused.

The system ``uefi`` gets Debian's own shim at both places, and beside each a GRUB as grub-install leaves it on LVM: not
signed, its prefix on the volume. The firmware is OVMF with Microsoft's keys; nothing but emulation is needed.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from blocksync import api
from blocksync.flatten.boottest import boot_test
from blocksync.options import FlattenOptions
from tests.vm.base import cache_folder, made_once, run
from tests.vm.flattening import BOOT_SECONDS
from tests.vm.systems import PV_START_BYTES, RECIPES, Recipe, boot_place, cached, working_copy

MIB = 1 << 20
_END = "REPORT-END"
_SHIM, _GRUB = "usr/lib/shim/shimx64.efi.signed", "usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed"
# case: (the system keeps a signed GRUB, steps left out, what --check says, firmware and what the boot shows)
CASES: dict[str, tuple[bool, tuple[str, ...], list[str], dict[str, str]]] = {
    "signed": (True, (), [], {"uefi-secure": "login"}),
    "unsigned": (False, (), ["BS1150", "BS1150"], {"uefi-secure": "secure-boot", "uefi": "login"}),
    "left": (False, ("loader",), ["BS1145", "BS1145"], {"uefi-secure": "secure-boot", "uefi": "grub-rescue"}),
}


def secure(case: str) -> dict[str, object]:
    """Flatten one case and boot it; the facts for a table."""
    kept, skip, predicted, boots = CASES[case]
    recipe = RECIPES["uefi"]
    with tempfile.TemporaryDirectory(prefix="flattening-") as name:
        folder = Path(name)
        disk = working_copy(cached(recipe), folder)[0]
        _equip(recipe, disk, folder, kept=kept)
        target = folder / "target.img"
        options = FlattenOptions(create=True, state_dir=folder / "state", skip=skip)
        result = api.flatten([str(disk)], str(target), options)
        codes = sorted(each.code for each in api.check_flattened(str(target)))
        shown: dict[str, tuple[str, str, float]] = {}
        for firmware, verdict in boots.items():
            until = _END if verdict == "login" else ""
            report = boot_test(
                str(target), firmware=firmware, folder=folder / firmware, seconds=BOOT_SECONDS, until=until
            )
            shown[firmware] = (report.verdict, report.seen, report.seconds)
    verdicts = {firmware: found[0] for firmware, found in shown.items()}
    return {
        "system": f"secure-{case}",
        "ok": codes == predicted and verdicts == boots,
        "predicted": codes,
        "shown": shown,
        "loaders": result.loaders,
        "notes": result.notes,
    }


def _loaders() -> Path:
    """Debian's signed shim and GRUB, downloaded once."""
    with made_once("signed-loaders") as (folder, empty):
        if empty:
            run("sh", "-c", f"cd '{folder}' && apt-get download -q shim-signed grub-efi-amd64-signed")
            for package in sorted(folder.glob("*.deb")):
                run("dpkg-deb", "-x", package, folder)
    return cache_folder() / "signed-loaders"


def _equip(recipe: Recipe, disk: Path, folder: Path, *, kept: bool) -> None:
    """Put a shim and an unsigned GRUB of old on the EFI system partition; in the system, the signed one."""
    loaders = _loaders()
    plan = api.plan_flatten([str(disk)])
    root = next(alias for alias in plan.aliases if alias.volume == "root")
    old = folder / "old.efi"
    run("grub-mkimage", "-O", "x86_64-efi", "-p", f"({root.grub_names[0]})/boot/grub", "-o", old, "part_gpt", "lvm")
    esp = f"{disk}@@{MIB}"
    for place, content in {
        "EFI/BOOT/BOOTX64.EFI": loaders / _SHIM,
        "EFI/BOOT/grubx64.efi": old,
        "EFI/debian/shimx64.efi": loaders / _SHIM,
        "EFI/debian/grubx64.efi": old,
    }.items():
        run("mcopy", "-o", "-i", esp, content, f"::/{place}")
    if kept:
        # The root volume is one run behind /boot: its files can be changed where they lie.
        volume = f"{disk}?offset={boot_place(recipe) + recipe.boot_mib * MIB + PV_START_BYTES}"
        for words in (f"mkdir /{_GRUB.rpartition('/')[0]}", f"write {loaders / _GRUB} /{_GRUB}"):
            run("debugfs", "-w", "-R", words, volume)

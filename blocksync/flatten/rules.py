"""Which files of a system are edited, by whom, and what happens to a system where that was left undone.

One table for three uses: the repair applies it, ``--check`` looks for names that it would have changed and tells the
symptom, and a test leaves out one rule after the other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from blocksync.flatten import configuration, grubfiles
from blocksync.flatten.aliases import AliasMap

Editor = Callable[[str, AliasMap, tuple[str, ...]], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One kind of file.

    Args:
        name: stays the same; options and findings name it.
        code: of the finding where a name is left.
        patterns: paths below the system's root; ``*`` stands for anything within one part.
        edit: gets the text, the aliases, and the words that a kernel's command line needs.
        symptom: what happens at the next boot where it was left undone.
        fatal: whether the system then fails to come up whole.
        links: whether a symlink is followed to what it means, inside the system.
    """

    name: str
    code: str
    patterns: tuple[str, ...]
    edit: Editor
    symptom: str
    fatal: bool = True
    links: bool = True


def _plain(edit: Callable[[str, AliasMap], str]) -> Editor:
    return lambda text, aliases, _words: edit(text, aliases)


def _kernel(edit: Callable[..., str]) -> Editor:
    return lambda text, aliases, words: edit(text, aliases, words=words)


_ROOT_SYMPTOM = (
    "the kernel is told of a root that is gone: 'ALERT! /dev/mapper/… does not exist. Dropping to a shell!' "
    "(initramfs-tools), or a hang in dracut-initqueue"
)
_LATER = "the next run of the system's own tool brings the old names back"

ESPS = ("boot/efi", "boot", "efi")
"""Where the EFI system partition may be mounted."""

RESUMES = ("etc/initramfs-tools/conf.d/*", "etc/initramfs-tools/initramfs.conf")
"""Where initramfs-tools is told of the swap to resume from."""

RULES = (
    Rule(
        name="fstab",
        code="BS1130",
        patterns=("etc/fstab", "etc/fstab.d/*"),
        edit=_plain(configuration.edit_fstab),
        symptom="'Timed out waiting for device', then emergency mode after 90 s",
    ),
    Rule(
        name="crypttab",
        code="BS1131",
        patterns=("etc/crypttab",),
        edit=_plain(configuration.edit_crypttab),
        symptom="the encrypted volume is not opened, and what is on it not mounted: emergency mode after 90 s",
    ),
    Rule(
        name="units",
        code="BS1132",
        patterns=tuple(
            f"etc/systemd/system/{folder}*.{kind}"
            for folder in ("", "*.d/", "*.wants/", "*.requires/")
            for kind in ("mount", "swap", "automount", "service", "conf", "device")
        ),
        edit=_plain(configuration.edit_unit),
        links=False,  # they lead to the distribution's own units
        symptom="the unit waits 90 s for a device that is gone, then fails",
    ),
    Rule(
        name="grub.cfg",
        code="BS1133",
        patterns=(
            "boot/grub/grub.cfg",
            "boot/grub2/grub.cfg",
            *(f"{esp}/EFI/*/{name}.cfg" for esp in ESPS for name in ("grub", "custom")),
            "boot/grub/custom.cfg",
            "boot/grub2/custom.cfg",
            "boot/grub2/user.cfg",
            "etc/grub.d/40_custom",
            "etc/grub.d/41_custom",
            "boot/extlinux/extlinux.conf",
            # GRUB legacy, which is not rebuilt; its command lines are the same.
            "boot/grub/menu.lst",
            "boot/grub/grub.conf",
        ),
        edit=_kernel(grubfiles.edit_grub_cfg),
        symptom=_ROOT_SYMPTOM,
    ),
    Rule(
        name="grubenv",
        code="BS1134",
        patterns=("boot/grub/grubenv", "boot/grub2/grubenv", *(f"{esp}/EFI/*/grubenv" for esp in ESPS)),
        edit=_kernel(grubfiles.edit_environment),
        symptom=_ROOT_SYMPTOM,
    ),
    Rule(
        name="entries",
        code="BS1135",
        patterns=tuple(f"{esp}/loader/entries/*.conf" for esp in ESPS),
        edit=_kernel(grubfiles.edit_entry),
        symptom=_ROOT_SYMPTOM,
    ),
    Rule(
        name="cmdline",
        code="BS1136",
        patterns=("etc/kernel/cmdline",),
        edit=_kernel(configuration.edit_command_line),
        symptom=f"the next kernel gets the old root: {_ROOT_SYMPTOM}",
        fatal=False,
    ),
    Rule(
        name="default-grub",
        code="BS1137",
        patterns=("etc/default/grub",),
        edit=_kernel(configuration.edit_default_grub),
        symptom=_LATER,
        fatal=False,
    ),
    Rule(
        name="default-grub-parts",
        code="BS1137",
        patterns=("etc/default/grub.d/*.cfg",),
        edit=_plain(configuration.edit_default_grub_part),
        symptom=_LATER,
        fatal=False,
    ),
    Rule(
        name="resume",
        code="BS1138",
        patterns=RESUMES,
        edit=_plain(configuration.edit_resume),
        symptom="'Gave up waiting for suspend/resume device' after 30 s, then the system boots",
        fatal=False,
    ),
    Rule(
        name="dracut",
        code="BS1139",
        patterns=("etc/dracut.conf", "etc/dracut.conf.d/*.conf"),
        edit=_plain(configuration.edit_dracut),
        symptom="the next initramfs waits for the old volumes in dracut-initqueue",
        fatal=False,
    ),
    Rule(
        name="kdump",
        code="BS1140",
        patterns=("etc/kdump.conf",),
        edit=_plain(configuration.edit_kdump),
        symptom="kdump.service fails, and a crash leaves no dump",
        fatal=False,
    ),
    Rule(
        name="sysconfig",
        code="BS1141",
        patterns=("etc/sysconfig/bootloader", "etc/sysconfig/kdump", "etc/default/kdump-tools"),
        edit=_plain(configuration.edit_sysconfig),
        symptom=_LATER,
        fatal=False,
    ),
)

STEPS = frozenset({*(rule.name for rule in RULES), "unit-names", "stale", "archive", "relabel", "loader"})
"""Names of all steps of the repair."""

REMOVED = (
    "etc/lvm/devices/system.devices",
    "etc/lvm/cache/.cache",
    "etc/lvm/.cache",
    "boot/grub/device.map",
    "boot/grub2/device.map",
)
"""LVM's memory of devices, and GRUB's names of the old machine's disks: neither is true any more. Kept as backups."""

ARCHIVED = ("etc/lvm/backup", "etc/lvm/archive")
"""Folders whose files are moved to the backups: ``vgcfgrestore`` must not find them."""

UNIT_FOLDERS = ("etc/systemd/system",)
"""Where names of files and links may themselves be names of devices."""

"""``blocksync flatten --check``: what on a target still names the old volumes, and what will happen because of it.

The same table of rules that the repair uses tells where to look; a file counts as left undone where its rule would
still change it, or where a line that counts (no comment) still names a volume that is gone. Names that belong to no
known volume are told apart by their form (``/dev/mapper/…``, ``lvmid/…``, ``rd.lvm.lv=``).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

from blocksync.errors import FlattenError
from blocksync.flatten.aliases import AliasMap
from blocksync.flatten.bootloader import SEAL, bios_place, find_esp, grub_folder, names_volume
from blocksync.flatten.changes import RECORD, found_files, kernel_words, misnamed_units, needs_labels
from blocksync.flatten.initrd import InitrdFacts, read_initrd
from blocksync.flatten.mounts import privately
from blocksync.flatten.plan import Plan
from blocksync.flatten.repair import recorded_plan
from blocksync.flatten.rules import ARCHIVED, REMOVED, RULES
from blocksync.flatten.system import System, TargetDisk, assembled, fstab_entries, look_at
from blocksync.flatten.tree import Guest

_FORMS = re.compile(
    r"/dev/mapper/(?!control\b)[A-Za-z0-9+_.]+(?:--[A-Za-z0-9+_.]+)*-[A-Za-z0-9+_.-]+"
    r"|/dev/disk/by-id/(?:dm-name-|dm-uuid-LVM-|lvm-pv-uuid-)[\w+.-]+"
    r"|/dev/dm-\d+|\blvmid/[\w/-]+|\(lvm/[^)\s]+\)|\brd\.lvm\.[lv][vg]=\S+|\brd_LVM_[LV][VG]=\S+"
)
_DISK = re.compile(r"/dev/(?:[shv]d|xvd|nvme|mmcblk|md)")
_COMMENT = re.compile(r"^\s*[#;]")
_MOST_IMAGE_BYTES = 64 << 20
_MOST_FSTAB_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftover:
    """Something that was left undone.

    Args:
        code: of the catalogue.
        rule: the step of the repair that mends it.
        where: a path of the system, or a part of the target.
        names: what was found there.
        symptom: what will happen at the next boot.
        fatal: the system then does not come up whole.
    """

    code: str
    rule: str
    where: str
    names: tuple[str, ...]
    symptom: str
    fatal: bool


def check_target(path: str, plan: Plan | None = None) -> list[Leftover]:
    """Look at a target; nothing is written.

    Args:
        plan: of the flatten; None takes the one that the repair left in the system, if any.

    Raises:
        FlattenError: there is no system, or it cannot be reached.
    """
    return privately(lambda: _check(path, plan)) if os.geteuid() == 0 else _check(path, plan)


def _check(path: str, plan: Plan | None) -> list[Leftover]:
    disk = look_at(path)
    known = plan
    if known is None:
        with assembled(disk, None, write=False) as system:
            known = recorded_plan(system.guest)
    aliases = known.alias_map() if known is not None else AliasMap((), disk.table or "gpt")
    with assembled(disk, aliases, write=False) as system:
        return [*_disk_findings(disk), *file_findings(system.guest, aliases), *_boot_findings(system, aliases)]


def _disk_findings(disk: TargetDisk) -> Iterator[Leftover]:
    if disk.holds_lvm:
        yield Leftover(
            code="BS1142",
            rule="copy",
            where="partition table",
            names=("LVM physical volume",),
            symptom="the system's LVM activates volumes of this disk beside the partitions",
            fatal=False,
        )
    uuids = [part.uuid for part in disk.parts if part.uuid]
    twice = sorted({uuid for uuid in uuids if uuids.count(uuid) > 1})
    if twice:
        yield Leftover(
            code="BS1143",
            rule="copy",
            where="filesystems",
            names=tuple(twice),
            symptom="duplicate UUIDs: the wrong filesystem may be mounted, and XFS refuses the second",
            fatal=True,
        )


def file_findings(guest: Guest, aliases: AliasMap) -> Iterator[Leftover]:
    """What a system's files still name."""
    words = kernel_words(guest, aliases)
    told: set[str] = set()
    for rule in RULES:
        for path, text in found_files(guest, rule):
            if path in told:
                continue
            try:
                changed = rule.edit(text, aliases, words) != text
            except FlattenError:
                changed = True
            names = leftovers(text, aliases)
            if changed or names:
                told.add(path)
                symptom = _boot_symptom(rule.symptom, text, names)
                yield Leftover(
                    code=rule.code,
                    rule=rule.name,
                    where=path,
                    names=tuple(names),
                    symptom=symptom,
                    fatal=rule.fatal,
                )
    for path in misnamed_units(guest, aliases):
        yield Leftover(
            code="BS1132",
            rule="unit-names",
            where=path,
            names=(path.rpartition("/")[2],),
            symptom="the unit's name and its What= differ: systemd refuses to load it, and what it mounts is missing",
            fatal=True,
        )
    yield from _stale_findings(guest)


def _stale_findings(guest: Guest) -> Iterator[Leftover]:
    kept = [(f"{folder}/{name}", "archive") for folder in ARCHIVED for name in guest.names(f"/{folder}")]
    for name, rule in [*((name, "stale") for name in REMOVED), *kept]:
        if guest.kind(f"/{name}") == "file":
            yield Leftover(
                code="BS1144",
                rule=rule,
                where=f"/{name}",
                names=(),
                symptom="LVM, or the next grub-install, believes in the old machine's disks",
                fatal=False,
            )
    if guest.kind(RECORD) and needs_labels(guest):
        # Whether it has booted and relabelled since cannot be seen from outside: told, and not fatal.
        yield Leftover(
            code="BS1149",
            rule="relabel",
            where="/.autorelabel",
            names=(),
            symptom="unless it has booted since: files that the repair wrote have no label, and SELinux may deny them",
            fatal=False,
        )


def _boot_symptom(symptom: str, text: str, names: list[str]) -> str:
    if not names and "rd.lvm=0" not in text and "root=" in text:
        return "dracut's initramfs may wait for the old volumes: a hang in dracut-initqueue"
    return symptom


def leftovers(text: str, aliases: AliasMap) -> list[str]:
    """Names of volumes in the lines that count."""
    lines = [line for line in text.splitlines() if not _COMMENT.match(line)]
    counted = "\n".join(lines)
    found = dict.fromkeys(aliases.leftovers(counted))
    found.update(dict.fromkeys(hit[0] for hit in _FORMS.finditer(counted)))
    return list(found)


# -- what boots -------------------------------------------------------------------------------------------------------


def _boot_findings(system: System, aliases: AliasMap) -> Iterator[Leftover]:
    yield from _loader_findings(system)
    yield from _mount_findings(system, aliases)
    lines = _command_lines(system)
    for path in sorted(system.guest.find("boot/initr*")):
        if system.guest.kind(path) == "file" and "rescue" not in path and "kdump" not in path:
            facts = read_initrd(system.guest, path)
            if facts is not None:
                yield from _initrd_findings(path, facts, lines, aliases)


def _loader_findings(system: System) -> Iterator[Leftover]:
    folder = grub_folder(system.guest)
    esp = find_esp(system)
    symptom = "'error: disk 'lvmid/…' not found.' and the prompt 'grub rescue>'"
    if esp is not None:
        fallback = f"{esp}/EFI/BOOT/BOOTX64.EFI"
        image = system.guest.read(fallback, _MOST_IMAGE_BYTES)
        if image is None:
            yield _loader(fallback, (), "firmware without an entry for it finds nothing to boot")
        elif names_volume(image):
            yield _loader(fallback, ("(lvmid/…)",), symptom)
        return
    place = bios_place(system)
    if folder is None or place is None:
        yield _loader("boot sector", (), "there is no place for a boot loader: 'No bootable device'")
        return
    core = _core_prefix(system)
    if core != "ok":
        yield _loader("boot sector", (core,), symptom if core == "elsewhere" else "'No bootable device'")


def _loader(where: str, names: tuple[str, ...], symptom: str) -> Leftover:
    return Leftover(code="BS1145", rule="loader", where=where, names=names, symptom=symptom, fatal=True)


def _core_prefix(system: System) -> str:
    """Whether GRUB's boot sector leads to a core where ours is put: ``ok``, ``none`` or ``elsewhere``."""
    place = bios_place(system)
    assert place is not None
    with open(system.disk.path, "rb") as file:
        sector = file.read(512)
        file.seek(place[0])
        core = file.read(512)
    if not any(sector[:440]) or not any(core):
        return "none"
    seal = _seal(system)
    if seal is not None and seal != _digest(system.disk.path, seal[0], seal[1]):
        return "elsewhere"
    where = int.from_bytes(sector[0x5C:0x64], "little")
    rest = int.from_bytes(core[0x1F4:0x1FC], "little")
    return "ok" if where * 512 == place[0] and rest == where + 1 else "elsewhere"


def _seal(system: System) -> tuple[int, int, str] | None:
    """Where the repair put GRUB's core, how long it is, and its digest; None where nothing usable is written down."""
    content = system.guest.read(SEAL, _MOST_FSTAB_BYTES)
    try:
        said = json.loads(content or b"{}")
        seal = int(said["offset"]), int(said["length"]), str(said["sha256"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return seal if 0 < seal[0] < system.disk.size and 0 < seal[1] <= _MOST_IMAGE_BYTES else None


def _digest(path: str, offset: int, length: int) -> tuple[int, int, str]:
    with open(path, "rb") as file:
        file.seek(offset)
        return offset, length, hashlib.sha256(file.read(length)).hexdigest()


def _mount_findings(system: System, aliases: AliasMap) -> Iterator[Leftover]:
    """fstab entries whose UUID or label is on no partition of the target."""
    text = system.guest.read("/etc/fstab", _MOST_FSTAB_BYTES) or b""
    known = {
        value.lower() for part in system.disk.parts for value in (part.uuid, part.partuuid, part.label, part.name)
    }
    for device, where, options in fstab_entries(text):
        tag, equals, value = device.partition("=")
        value = value.strip('"')
        tagged = bool(equals) and tag in ("UUID", "PARTUUID", "LABEL", "PARTLABEL")
        if (not tagged and not _DISK.match(device)) or (tagged and value.lower() in known):
            continue
        if aliases.find(device) is None and not {"nofail", "noauto"} & set(options.split(",")):
            yield Leftover(
                code="BS1146",
                rule="fstab",
                where=f"/etc/fstab: {where}",
                names=(device,),
                symptom="it is on another disk: where that is not attached, emergency mode after 90 s",
                fatal=False,
            )


def _command_lines(system: System) -> str:
    """All that the kernel may be told."""
    found: list[str] = []
    for rule in RULES:
        if rule.name in ("grub.cfg", "grubenv", "entries"):
            found += [text for _, text in found_files(system.guest, rule)]
    return "\n".join(found)


def _initrd_findings(path: str, facts: InitrdFacts, lines: str, aliases: AliasMap) -> Iterator[Leftover]:
    asks = re.findall(r"rd\.lvm\.[lv][vg]=\S+", facts.command_line)
    if asks and "rd.lvm=0" not in lines:
        yield Leftover(
            code="BS1147",
            rule="grub.cfg",
            where=path,
            names=tuple(asks),
            symptom="host-only dracut waits for the old volumes: a hang in dracut-initqueue",
            fatal=True,
        )
    resume = aliases.leftovers(facts.resume)
    if resume and not re.search(r"\bresume=", lines):
        yield Leftover(
            code="BS1138",
            rule="initramfs",
            where=path,
            names=tuple(resume),
            symptom="'Gave up waiting for suspend/resume device' after 30 s, then the system boots",
            fatal=False,
        )
    if facts.complete and not facts.virtio:
        yield Leftover(
            code="BS1148",
            rule="initramfs",
            where=path,
            names=("virtio_blk", "virtio_scsi"),
            symptom="on a virtio disk the root never appears (no harm where the disk is SATA or NVMe)",
            fatal=False,
        )

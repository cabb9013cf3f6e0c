"""``blocksync flatten --check``: what on a target still names the old volumes, and what will happen because of it.

The files are looked at in :mod:`~blocksync.flatten.leftovers`; here the disk, its loaders, fstab and the initramfs.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

from blocksync.flatten.aliases import AliasMap
from blocksync.flatten.bootloader import SEAL, bios_place, find_esp, grub_folder
from blocksync.flatten.changes import found_files
from blocksync.flatten.initrd import InitrdFacts, read_initrd
from blocksync.flatten.leftovers import Leftover, file_findings, looks_like_volume, opened_names
from blocksync.flatten.mounts import privately
from blocksync.flatten.plan import Plan
from blocksync.flatten.repair import in_order, recorded_plan
from blocksync.flatten.rules import RULES
from blocksync.flatten.system import System, TargetDisk, assembled, fstab_entries, look_at
from blocksync.flatten.uefi import RESCUE, faults

_DISK = re.compile(r"/dev/(?:[shv]d|xvd|nvme|mmcblk|md)")
BY_UUID = Path("/dev/disk/by-uuid")
_MOST_IMAGE_BYTES = 64 << 20
_MOST_FSTAB_BYTES = 1 << 20


def check_target(path: str, *beside: str, plan: Plan | None = None) -> list[Leftover]:
    """Look at a target, with those beside it that hold the same system; nothing is written.

    Args:
        plan: of the flatten; None takes the one that the repair left in the system, if any.

    Raises:
        FlattenError: there is no system, or it cannot be reached.
    """
    paths = (path, *beside)
    return privately(lambda: _check(paths, plan)) if os.geteuid() == 0 else _check(paths, plan)


def _check(paths: tuple[str, ...], plan: Plan | None) -> list[Leftover]:
    disk = look_at(*paths)
    known = plan
    if known is None:
        with assembled(disk, None, write=False) as system:
            known = recorded_plan(system.guest)
        disk = in_order(disk, known) if known is not None else disk
    aliases = known.alias_map() if known is not None else AliasMap((), disk.table or "gpt")
    with assembled(disk, aliases, write=False) as system:
        return [*_disk_findings(disk), *file_findings(system.guest, aliases), *_boot_findings(system, aliases)]


def _disk_findings(disk: TargetDisk) -> Iterator[Leftover]:
    for index, each in enumerate(disk.disks):
        if not each.holds_lvm:
            continue
        yield Leftover(
            code="BS1142",
            rule="copy",
            where="partition table" + (f" of target {index + 1}" if index else ""),
            names=("LVM physical volume",),
            symptom="the system's LVM activates volumes of this disk beside the partitions",
            fatal=False,
        )
    attached = _attached(disk)
    if attached:
        yield Leftover(
            code="BS1152",
            rule="copy",
            where=f"this machine: {', '.join(sorted(set(attached.values())))}",
            names=tuple(attached),
            symptom="with both disks attached the wrong one may be mounted, and XFS refuses the second: boot with one",
            fatal=False,
        )


def _attached(disk: TargetDisk) -> dict[str, str]:
    """Other devices of this machine that bear the UUIDs of a target's filesystems: the source, most likely."""
    own = {os.path.basename(os.path.realpath(each.path)) for each in disk.disks if each.path.startswith("/dev/")}
    found: dict[str, str] = {}
    for part in disk.all_parts:
        device = os.path.realpath(BY_UUID / part.uuid) if part.uuid else ""
        name = os.path.basename(device)
        # A loop device is the target itself, while somebody looks into it.
        if not device or not (BY_UUID / part.uuid).is_symlink() or name.startswith("loop"):
            continue
        if own.isdisjoint((name, Path("/sys/class/block", name).resolve().parent.name)):
            found[part.uuid] = device
    return found


def _twin_findings(system: System) -> Iterator[Leftover]:
    """UUIDs that several filesystems bear; it does harm where something means one of them by that."""
    uuids = [part.uuid for part in system.disk.all_parts if part.uuid]
    twice = sorted({uuid for uuid in uuids if uuids.count(uuid) > 1})
    if not twice:
        return
    texts = [system.guest.read(path, _MOST_FSTAB_BYTES) or b"" for path in ("/etc/fstab", "/etc/crypttab")]
    said = [line for text in texts for line in text.decode("utf-8", "surrogateescape").splitlines()]
    # GRUB looks at the partition of a hint first.
    said += [line for line in _command_lines(system).splitlines() if "--hint" not in line]
    meant = [line for line in said if not line.lstrip().startswith("#")]
    yield Leftover(
        code="BS1143",
        rule="copy",
        where="filesystems",
        names=tuple(twice),
        symptom="duplicate UUIDs: the wrong filesystem may be mounted, and XFS refuses the second; give the copy a "
        "new one on the source: tune2fs -U random, xfs_admin -U generate, swaplabel -U $(uuidgen)",
        fatal=any(uuid in line for uuid in twice for line in meant),
    )


# -- what boots -------------------------------------------------------------------------------------------------------


def _boot_findings(system: System, aliases: AliasMap) -> Iterator[Leftover]:
    yield from loader_findings(system)
    yield from _twin_findings(system)
    yield from _mount_findings(system, aliases)
    lines = _command_lines(system)
    for path in sorted(system.guest.find("boot/initr*")):
        if system.guest.kind(path) == "file" and "rescue" not in path and "kdump" not in path:
            facts = read_initrd(system.guest, path)
            if facts is not None:
                yield from _initrd_findings(path, facts, lines, aliases)


def loader_findings(system: System) -> Iterator[Leftover]:
    """What will go wrong before the kernel starts."""
    folder = grub_folder(system.guest)
    esp = find_esp(system)
    if esp is not None:
        for each in faults(system.guest, esp):
            code = "BS1145" if each.fatal else "BS1150"
            yield Leftover(
                code=code,
                rule="loader",
                where=each.path,
                names=each.names,
                symptom=each.symptom,
                fatal=each.fatal,
            )
        return
    place = bios_place(system)
    if folder is None or place is None:
        yield _loader("boot sector", (), "there is no place for a boot loader: 'No bootable device'")
        return
    core = _core_prefix(system)
    if core != "ok":
        yield _loader("boot sector", (core,), RESCUE if core == "elsewhere" else "'No bootable device'")


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
        value.lower()
        for part in system.disk.all_parts
        for value in (part.uuid, part.partuuid, part.label, part.name)
    }
    opened = opened_names(system.guest)
    for device, where, options in fstab_entries(text):
        tag, equals, value = device.partition("=")
        value = value.strip('"')
        tagged = bool(equals) and tag in ("UUID", "PARTUUID", "LABEL", "PARTLABEL")
        # Where no volume is known, a name that looks like one is taken for one that was flattened.
        foreign = bool(aliases.aliases) and looks_like_volume(device) and device not in opened
        if (not tagged and not _DISK.match(device) and not foreign) or (tagged and value.lower() in known):
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

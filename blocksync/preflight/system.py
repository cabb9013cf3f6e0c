"""The system on a source, as its files tell: fstab, initramfs, boot loader, SELinux, cloud-init.

Reads through :class:`~blocksync.flatten.tree.Guest`, so that nothing in a stranger's system (a symlink, a device node,
an endless file) leads out of it or holds us up. Nothing is started and nothing is written.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator

from blocksync.errors import BlocksyncError, LayoutError
from blocksync.flatten.tree import Guest
from blocksync.preflight import findings
from blocksync.preflight.findings import Finding, found
from blocksync.preflight.initramfs import file_names

MAX_TEXT_BYTES = 1 << 20
MAX_INITRAMFS_BYTES = 384 << 20
MAX_BUILTIN_BYTES = 4 << 20
MOST_NAMED = 5
# The newest kernels are the ones that are booted; distributions keep two or three.
MOST_KERNELS = 4

# Names that the kernel gives in the order in which it finds disks, and names made of where or what a disk is.
_BY_NAME = re.compile(
    r"/dev/(?:[shv]d[a-z]+\d*|xvd[a-z]+\d*|nvme\d+n\d+(?:p\d+)?|mmcblk\d+(?:p\d+)?|md\d+|dm-\d+"
    r"|disk/by-(?:id|path|diskseq)/\S+)"
)
_VIRTIO = {"disk": ("virtio_blk", "virtio_scsi"), "bus": ("virtio_pci",)}
_INITRAMFS = ("boot/initrd.img-{}", "boot/initramfs-{}.img", "boot/initrd-{}", "boot/initramfs-{}")


def system_findings(guest: Guest, *, initramfs: bool = True) -> Iterator[Finding]:
    """Look at a system.

    Args:
        guest: its files.
        initramfs: also unpack each initramfs, which takes seconds.
    """
    for look in (fstab, boot_loader, selinux, cloud_init, *((virtio,) if initramfs else ())):
        try:
            yield from look(guest)
        except BlocksyncError as error:
            yield found(findings.SYSTEM_UNSEEN, f"a part of the system could not be looked into: {error.message}")


def is_system(guest: Guest) -> bool:
    """Whether there is a Linux system at all."""
    return any(guest.kind(path) == "file" for path in ("etc/fstab", "etc/os-release", "usr/lib/os-release"))


def text_of(guest: Guest, path: str) -> str:
    """A configuration file; empty where there is none."""
    raw = guest.read(path, MAX_TEXT_BYTES)
    return "" if raw is None else raw.decode("utf-8", "replace")


def fstab(guest: Guest) -> Iterator[Finding]:
    """Lines whose device has another name on another machine."""
    lines = []
    for number, line in enumerate(text_of(guest, "etc/fstab").splitlines(), 1):
        fields = line.split()
        if fields and not fields[0].startswith("#") and _BY_NAME.fullmatch(fields[0]):
            lines.append(f"line {number} {fields[0]}")
    if lines:
        more = f" and {len(lines) - MOST_NAMED} more" if len(lines) > MOST_NAMED else ""
        named = ", ".join(lines[:MOST_NAMED])
        yield found(
            findings.FSTAB_NAMES, f"/etc/fstab names devices that other machines call otherwise: {named}{more}"
        )


def boot_loader(guest: Guest) -> Iterator[Finding]:
    """GRUB and its kind."""
    images = guest.find("boot/efi/EFI/*/grub*.efi") + guest.find("efi/EFI/*/grub*.efi")
    modules = [folder for folder in ("boot/grub", "boot/grub2") if guest.kind(folder) == "folder"]
    configured = [folder for folder in modules if guest.kind(f"{folder}/grub.cfg") == "file"]
    entries = [name for name in guest.names("boot/loader/entries") if name.endswith(".conf")]
    if not configured and not images:
        other = "; systemd-boot is there" if guest.find("boot/efi/EFI/systemd/*.efi") else ""
        yield found(findings.NO_BOOT_LOADER, f"no GRUB was found in /boot or on the EFI partition{other}")
        return
    kinds = []
    if any(guest.kind(f"{folder}/i386-pc") == "folder" for folder in modules):
        kinds.append("BIOS")
    if images or any(guest.find(f"{folder}/*-efi") for folder in modules):
        kinds.append("UEFI")
    said = " and ".join(kinds) or "of an unknown platform"
    entry = f", {len(entries)} loader entries (BLS)" if entries else ""
    yield found(findings.BOOT_LOADER, f"GRUB for {said} in /{(configured or modules or ['boot/efi'])[0]}{entry}")


def selinux(guest: Guest) -> Iterator[Finding]:
    """The mode that the system boots with."""
    setting = re.search(r"^\s*SELINUX\s*=\s*(\w+)", text_of(guest, "etc/selinux/config"), re.MULTILINE)
    if setting is None:
        return
    mode = setting[1].lower()
    yield found(findings.SELINUX, f"SELinux is {mode}", None if mode == "enforcing" else "")


def cloud_init(guest: Guest) -> Iterator[Finding]:
    """Whether the first boot will be taken for that of a new machine."""
    if guest.kind("etc/cloud/cloud.cfg") != "file" or guest.kind("etc/cloud/cloud-init.disabled"):
        return
    yield found(findings.CLOUD_INIT, "cloud-init is active: on the target it may take the copy for a new machine")


def kernels(guest: Guest) -> list[str]:
    """Installed kernels by version, the newest first."""
    versions = [
        version
        for version in guest.names("usr/lib/modules") or guest.names("lib/modules")
        if _initramfs_of(guest, version) or guest.kind(f"boot/vmlinuz-{version}") == "file"
    ]
    return sorted(versions, key=_by_number, reverse=True)[:MOST_KERNELS]


def _by_number(version: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.findall(r"\d+|[^\d]+", version)]


def virtio(guest: Guest) -> Iterator[Finding]:
    """The drivers of KVM's disks, built in or in the initramfs, for each kernel."""
    ready = []
    for version in kernels(guest):
        present = _built_in(guest, version)
        path = _initramfs_of(guest, version)
        if path:
            raw = guest.read(path, MAX_INITRAMFS_BYTES)
            try:
                present |= _modules(file_names(io.BytesIO(raw or b"")))
            except LayoutError as error:
                yield found(findings.INITRAMFS_UNREADABLE, f"/{path}: {error.message}")
                continue
        missing = [" or ".join(names) for names in _VIRTIO.values() if not present.intersection(names)]
        if missing:
            where = f"/{path}" if path else "there is no initramfs, and the kernel"
            yield found(findings.VIRTIO_MISSING, f"kernel {version}: {where} lacks {', '.join(missing)}")
        else:
            ready.append(version)
    if ready:
        yield found(findings.VIRTIO_THERE, f"virtio disks can be booted by kernel {', '.join(ready)}")


def _initramfs_of(guest: Guest, version: str) -> str:
    return next((path for form in _INITRAMFS if guest.kind(path := form.format(version)) == "file"), "")


def _built_in(guest: Guest, version: str) -> set[str]:
    for folder in ("usr/lib/modules", "lib/modules"):
        raw = guest.read(f"{folder}/{version}/modules.builtin", MAX_BUILTIN_BYTES)
        if raw is not None:
            return _modules(iter(raw.decode("utf-8", "replace").splitlines()))
    return set()


def _modules(paths: Iterator[str]) -> set[str]:
    """Names of kernel modules among paths, as the kernel writes them."""
    names = set()
    for path in paths:
        stem, dot, rest = path.rpartition("/")[2].partition(".ko")
        if dot and rest in ("", ".xz", ".zst", ".gz"):
            names.add(stem.replace("-", "_"))
    return names

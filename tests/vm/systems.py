"""Debian systems with their root on LVM, from Debian's packages alone, for the tests of flatten.

They are made on the host, without a device-mapper: ``lvcreate --driverloaded n`` writes the metadata, each filesystem
is made as a file and its pieces are put where the metadata says. So a system takes a minute once its tree of packages
is there, and that is made once. What only a kernel can make (thin pools) is made in a
:class:`~tests.vm.machine.Machine`.

Each system reports to its console when it is up: what is mounted from where, swap, failed units, what lvs finds.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from blocksync.flatten.bootloader import located_boot, located_core
from tests.vm.base import SUITE, cache_folder, made_once, mirror, run

MIB = 1 << 20
EXTENT_BYTES = 4 * MIB
PV_START_BYTES = MIB
_NAMES = uuid.UUID("5d7c1c1c-61f1-4d63-9c39-2f9f3f0f0001")

COMMON = """
systemd systemd-sysv udev dbus kmod linux-image-cloud-amd64 lvm2 thin-provisioning-tools dmsetup
e2fsprogs xfsprogs util-linux mount login passwd procps zstd grub-pc-bin grub-efi-amd64-bin grub2-common
"""
INITRAMFS = {"initramfs-tools": "initramfs-tools", "dracut": "dracut"}
REPORT = """\
#!/bin/sh
# Tells the console how the system came up.
exec > /dev/console 2>&1
echo "REPORT-BEGIN"
findmnt -rn --real -o TARGET,SOURCE,FSTYPE | sed 's/^/MOUNT /'
swapon --noheadings --show=NAME,TYPE | sed 's/^/SWAP /'
echo "FAILED $(systemctl list-units --failed --no-legend --plain | tr '\\n' ' ')"
echo "LVS $(lvs --noheadings -o vg_name,lv_name 2>/dev/null | tr '\\n' ' ')"
lvs >/dev/null 2>&1; echo "LVSCODE $?"
echo "PVS $(pvs --noheadings -o pv_name 2>/dev/null | tr '\\n' ' ')"
echo "CMDLINE $(cat /proc/cmdline)"
for marker in /etc/marker /var/marker /home/marker; do [ -e $marker ] && echo "MARKER $marker $(cat $marker)"; done
echo "REPORT-END"
"""
UNIT = """\
[Unit]
Description=Tells the console how the system came up
[Service]
Type=idle
ExecStart=/usr/local/sbin/report
[Install]
WantedBy=multi-user.target
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lv:
    """A logical volume: where it is mounted, its filesystem and size, and how it lies on the disks.

    ``lies`` is empty (linear), ``split`` (several segments, over all disks), ``striped``.
    """

    name: str
    where: str
    kind: str
    mib: int
    lies: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A system."""

    name: str
    table: str = "mbr"
    uefi: bool = False
    boot_mib: int = 0
    group: str = "vg0"
    volumes: tuple[Lv, ...] = (Lv(name="root", where="/", kind="ext4", mib=900),)
    disks: int = 1
    initramfs: str = "initramfs-tools"
    resume: bool = False
    thin: bool = False
    marker: str = "first"


ROOT = Lv(name="root", where="/", kind="ext4", mib=900)
SWAP = Lv(name="swap", where="swap", kind="swap", mib=64)
RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(name="bios-mbr", boot_mib=160, volumes=(ROOT, SWAP)),
        Recipe(name="bios-gpt", table="gpt", volumes=(ROOT, SWAP)),
        Recipe(name="uefi", table="gpt", uefi=True, boot_mib=160, volumes=(ROOT,)),
        Recipe(
            name="hyphens",
            group="web-01-vg",
            boot_mib=160,
            volumes=(replace(ROOT, name="lv-root"), replace(SWAP, name="lv-swap-1")),
        ),
        Recipe(name="two-disks", table="gpt", disks=2, volumes=(replace(ROOT, lies="split"), SWAP)),
        Recipe(name="striped", boot_mib=160, disks=2, volumes=(replace(ROOT, mib=896, lies="striped"),)),
        Recipe(name="thin", boot_mib=160, thin=True, volumes=(ROOT,)),
        Recipe(
            name="many",
            boot_mib=160,
            resume=True,
            volumes=(
                ROOT,
                Lv(name="var", where="/var", kind="ext4", mib=400),
                Lv(name="home", where="/home", kind="xfs", mib=320),
                SWAP,
            ),
        ),
        Recipe(name="dracut", boot_mib=160, initramfs="dracut", volumes=(ROOT, SWAP)),
        Recipe(name="uefi-inside", table="gpt", uefi=True, volumes=(ROOT,)),
    )
}


def build(recipe: Recipe, folder: Path) -> list[Path]:
    """Make the disks of a system in a folder; returns their paths, the one that boots first."""
    disks = [folder / f"{recipe.name}-{number}.img" for number in range(recipe.disks)]
    with tempfile.TemporaryDirectory(prefix="system-", dir=cache_folder()) as work_name:
        work = Path(work_name)
        tree = work / "tree"
        run("cp", "-a", "--reflink=auto", _packages(recipe.initramfs), tree)
        _configure(recipe, tree)
        starts = _partition(recipe, disks)
        _fill(recipe, disks, starts, tree, work)
        _make_bootable(recipe, disks[0])
    return disks


def disks_of(recipe: Recipe, tree: Path, folder: Path) -> list[Path]:
    """Disks with the files of any tree, which is changed by that; nothing is made bootable."""
    disks = [folder / f"{recipe.name}-{number}.img" for number in range(recipe.disks)]
    with tempfile.TemporaryDirectory(prefix="system-") as work:
        _fill(recipe, disks, _partition(recipe, disks), tree, Path(work))
    return disks


def fs_uuid(recipe: Recipe, what: str) -> str:
    return str(uuid.uuid5(_NAMES, f"{recipe.name}/{what}"))


def esp_serial(recipe: Recipe) -> str:
    return hashlib.sha256(f"{recipe.name}/esp".encode()).hexdigest()[:8].upper()


def _packages(initramfs: str) -> Path:
    """The tree of packages, made once; host-only files are not in it."""
    packages = ",".join(f"{COMMON} {INITRAMFS[initramfs]}".split())
    digest = hashlib.sha256(f"{SUITE} {packages} 2".encode()).hexdigest()[:16]
    with made_once(f"tree-{digest}") as (folder, empty):
        if empty:
            run(
                "mmdebstrap", "--mode=root", "--variant=minbase",
                '--aptopt=APT::Install-Recommends "false"',
                "--dpkgopt=path-exclude=/usr/share/man/*", "--dpkgopt=path-exclude=/usr/share/doc/*",
                "--dpkgopt=path-exclude=/usr/share/locale/*", f"--include={packages}",
                SUITE, folder / "tree", mirror(),
            )  # fmt: skip
    return cache_folder() / f"tree-{digest}" / "tree"


# -- files of the system --------------------------------------------------------------------------------------------


def mapper(recipe: Recipe, volume: Lv) -> str:
    return f"/dev/mapper/{recipe.group.replace('-', '--')}-{volume.name.replace('-', '--')}"


def _configure(recipe: Recipe, tree: Path) -> None:
    root = next(volume for volume in recipe.volumes if volume.where == "/")
    swap = next((volume for volume in recipe.volumes if volume.where == "swap"), None)
    lines = ["# <file system> <mount point> <type> <options> <dump> <pass>"]
    for index, volume in enumerate(recipe.volumes):
        # Both spellings are common.
        device = mapper(recipe, volume) if index % 2 == 0 else f"/dev/{recipe.group}/{volume.name}"
        where = "none" if volume.where == "swap" else volume.where
        options = "sw" if volume.where == "swap" else "defaults"
        lines.append(f"{device}\t{where}\t{volume.kind}\t{options}\t0\t{0 if where == 'none' else 1}")
    if recipe.boot_mib:
        lines.append(f"UUID={fs_uuid(recipe, 'boot')}\t/boot\text4\tdefaults\t0\t2")
    if recipe.uefi:
        serial = esp_serial(recipe)
        lines.append(f"UUID={serial[:4]}-{serial[4:]}\t/boot/efi\tvfat\tumask=0077\t0\t1")
        (tree / "boot/efi").mkdir()
    (tree / "etc/fstab").write_text("\n".join(lines) + "\n")
    (tree / "etc/hostname").write_text("flattened\n")
    (tree / "etc/marker").write_text(recipe.marker + "\n")
    (tree / "etc/default/grub").write_text(
        'GRUB_DEFAULT=0\nGRUB_TIMEOUT=0\nGRUB_CMDLINE_LINUX_DEFAULT=""\nGRUB_CMDLINE_LINUX="console=ttyS0"\n'
    )
    (tree / "usr/local/sbin/report").write_text(REPORT)
    (tree / "usr/local/sbin/report").chmod(0o755)
    (tree / "etc/systemd/system/report.service").write_text(UNIT)
    wants = tree / "etc/systemd/system/multi-user.target.wants"
    wants.mkdir(parents=True, exist_ok=True)
    (wants / "report.service").symlink_to("/etc/systemd/system/report.service")
    # A root without a password, for whoever looks at a console by hand.
    run("sed", "-i", "s/^root:[^:]*:/root::/", tree / "etc/shadow")
    (tree / "etc/lvm/backup").mkdir(parents=True, exist_ok=True)
    (tree / "etc/lvm/backup" / recipe.group).write_text("# a backup of the group's metadata\n")
    (tree / "boot/grub").mkdir(exist_ok=True)
    (tree / "boot/grub/device.map").write_text("(hd0)\t/dev/disk/by-id/ata-OLD_DISK\n")
    version = next((tree / "boot").glob("vmlinuz-*")).name.removeprefix("vmlinuz-")
    arguments = f"root={mapper(recipe, root)} ro console=ttyS0"
    if recipe.initramfs == "dracut":
        arguments += f" rd.lvm.lv={recipe.group}/{root.name}"
        _dracut(recipe, tree, root, version)
    elif recipe.resume and swap is not None:
        resume = tree / "etc/initramfs-tools/conf.d/resume"
        resume.write_text(f"RESUME={mapper(recipe, swap)}\n")
        _chroot(tree, "update-initramfs -u -k all")
    (tree / "boot/grub/grub.cfg").write_text(_grub_cfg(recipe, root, version, arguments))


def _dracut(recipe: Recipe, tree: Path, root: Lv, version: str) -> None:
    """Host-only, as dracut makes it on a machine with such volumes: their names are compiled in."""
    conf = tree / "etc/dracut.conf.d/root.conf"
    conf.parent.mkdir(parents=True, exist_ok=True)
    conf.write_text(f'kernel_cmdline="rd.lvm.lv={recipe.group}/{root.name} root={mapper(recipe, root)}"\n')
    _chroot(
        tree,
        f"dracut -f --hostonly --no-hostonly-default-device --add lvm --add-drivers 'virtio_blk virtio_pci ext4' "
        f"--kver {version} /boot/initrd.img-{version}",
    )


def _chroot(tree: Path, command: str) -> None:
    script = 'mount -t proc proc "$1/proc"; mount -t tmpfs tmpfs "$1/tmp"; exec chroot "$1" /bin/sh -c "$2"'
    run("unshare", "--mount", "--pid", "--fork", "/bin/sh", "-c", script, "sh", tree, command)


def _grub_cfg(recipe: Recipe, root: Lv, version: str, arguments: str) -> str:
    """As grub-mkconfig writes it, with its lvmid hints."""
    prefix = "" if recipe.boot_mib else "/boot"
    where = fs_uuid(recipe, "boot" if recipe.boot_mib else root.name)
    hint = "" if recipe.boot_mib else f" --hint='lvm/{mapper(recipe, root).rpartition('/')[2]}'"
    modules = "" if recipe.boot_mib else "\tinsmod lvm\n"
    set_root = "" if recipe.boot_mib else f"\tset root='lvm/{mapper(recipe, root).rpartition('/')[2]}'\n"
    return (
        "set timeout=0\nset default=0\nserial --unit=0 --speed=115200\n"
        "menuentry 'Debian GNU/Linux' --class debian {\n\tinsmod gzio\n\tinsmod part_gpt\n\tinsmod part_msdos\n"
        f"{modules}\tinsmod ext2\n{set_root}"
        f"\tsearch --no-floppy --fs-uuid --set=root{hint} {where}\n"
        f"\tlinux\t{prefix}/vmlinuz-{version} {arguments}\n\tinitrd\t{prefix}/initrd.img-{version}\n}}\n"
    )


# -- disks ------------------------------------------------------------------------------------------------------------


def _partition(recipe: Recipe, disks: list[Path]) -> list[tuple[int, int]]:
    """Make the tables; returns ``(offset, size)`` of each physical volume."""
    total = sum(volume.mib for volume in recipe.volumes)
    spare = 2 if recipe.thin or any(volume.lies == "split" for volume in recipe.volumes) else 1
    pv_mib = total * spare // recipe.disks + 32
    places = []
    for index, disk in enumerate(disks):
        lines = [f"label: {'gpt' if recipe.table == 'gpt' else 'dos'}"]
        first = 1
        if index == 0:
            if recipe.uefi:
                lines.append(f"start={first}MiB, size=40MiB, type=uefi")
                first += 40
            elif recipe.table == "gpt":
                lines.append(f"start={first}MiB, size=1MiB, type=21686148-6449-6E6F-744E-656564454649")
                first += 1
            if recipe.boot_mib:
                lines.append(
                    f"start={first}MiB, size={recipe.boot_mib}MiB, type=linux"
                    + ("" if recipe.uefi else ", bootable" if recipe.table == "mbr" else "")
                )
                first += recipe.boot_mib
        lines.append(f"start={first}MiB, size={pv_mib}MiB, type=lvm")
        with disk.open("wb") as file:
            file.truncate((first + pv_mib + 2) * MIB)
        subprocess.run(
            ["sfdisk", "-q", disk], input="\n".join(lines) + "\n", text=True, check=True, capture_output=True
        )
        places.append((first * MIB, pv_mib * MIB))
    return places


def boot_place(recipe: Recipe) -> int:
    """Byte offset of /boot's partition."""
    return (1 + (40 if recipe.uefi else 1 if recipe.table == "gpt" else 0)) * MIB


def _fill(recipe: Recipe, disks: list[Path], places: list[tuple[int, int]], tree: Path, work: Path) -> None:
    if recipe.uefi:
        esp = work / "esp"
        esp.touch()
        with esp.open("wb") as file:
            file.truncate(40 * MIB)
        run("mkfs.vfat", "-F", "32", "-i", esp_serial(recipe), esp)
        run("mmd", "-i", esp, "::/EFI", "::/EFI/debian")
        _put(esp, disks[0], [(0, MIB, 40 * MIB)])
    if recipe.boot_mib:
        boot = work / "boot"
        _make_filesystem("ext4", boot, recipe.boot_mib, fs_uuid(recipe, "boot"), tree / "boot")
        _put(boot, disks[0], [(0, boot_place(recipe), recipe.boot_mib * MIB)])
        run(
            "find",
            tree / "boot",
            "-mindepth",
            "1",
            "-maxdepth",
            "1",
            "!",
            "-name",
            "efi",
            "-exec",
            "rm",
            "-rf",
            "{}",
            "+",
        )
    for volume in recipe.volumes:
        inner = tree / volume.where[1:] if volume.where not in ("/", "swap") else tree
        if volume.where not in ("/", "swap"):
            (inner / "marker").write_text(recipe.marker + "\n")
            moved = work / f"tree-{volume.name}"
            run("cp", "-a", inner, moved)
            run("find", inner, "-mindepth", "1", "-delete")
        else:
            moved = tree
        if volume.where != "/":
            _make_filesystem(volume.kind, work / volume.name, volume.mib, fs_uuid(recipe, volume.name), moved)
    root = next(volume for volume in recipe.volumes if volume.where == "/")
    _make_filesystem(root.kind, work / root.name, root.mib, fs_uuid(recipe, root.name), tree)
    if recipe.thin:
        _fill_thin(recipe, disks, work)
        return
    with contextlib.ExitStack() as exits:
        devices = [
            exits.enter_context(_looped(disk, offset, size))
            for disk, (offset, size) in zip(disks, places, strict=True)
        ]
        lvm = _Lvm(work, devices)
        for device in devices:
            lvm("pvcreate", "--dataalignment", "1m", device)
        lvm("vgcreate", "-s", "4m", recipe.group, *devices)
        used = [0] * len(devices)
        for volume in recipe.volumes:
            pieces = _allocate(lvm, recipe, volume, devices, used)
            for index, disk in enumerate(disks):
                mine = [
                    (at, places[index][0] + PV_START_BYTES + there, size)
                    for at, pv, there, size in pieces
                    if pv == index
                ]
                _put(work / volume.name, disk, mine)


def _allocate(
    lvm: _Lvm, recipe: Recipe, volume: Lv, devices: list[str], used: list[int]
) -> list[tuple[int, int, int, int]]:
    """Create a volume; ``(offset in it, physical volume, offset there, size)`` of each of its pieces."""
    extents = volume.mib * MIB // EXTENT_BYTES
    name = ["-n", volume.name]
    if volume.lies == "striped":
        each = extents // len(devices)
        lvm.create(*name, "-l", str(each * len(devices)), "-i", str(len(devices)), "-I", "64k", recipe.group)
        # lvm2 chooses which disk has the first stripe.
        said = lvm("lvs", "--noheadings", "--segments", "-o", "seg_pe_ranges", f"{recipe.group}/{volume.name}")
        order = [devices.index(part.rpartition(":")[0]) for part in said.split()]
        piece = 64 << 10
        pieces = []
        for number in range(each * len(devices) * EXTENT_BYTES // piece):
            pv = order[number % len(order)]
            pieces.append((number * piece, pv, used[pv] * EXTENT_BYTES + number // len(order) * piece, piece))
        for index in range(len(devices)):
            used[index] += each
        return pieces
    parts = [extents]
    if volume.lies == "split":
        parts = [extents // 3, extents // 3, extents - 2 * (extents // 3)]
    pieces = []
    done = 0
    for index, count in enumerate(parts):
        pv = index % len(devices)
        room = f"{devices[pv]}:{used[pv]}-{used[pv] + count - 1}"
        if index == 0:
            lvm.create(*name, "-l", str(count), recipe.group, room)
        else:
            lvm("lvextend", "--driverloaded", "n", "-l", f"+{count}", f"{recipe.group}/{volume.name}", room)
        pieces.append((done * EXTENT_BYTES, pv, used[pv] * EXTENT_BYTES, count * EXTENT_BYTES))
        used[pv] += count
        done += count
    return pieces


def _fill_thin(recipe: Recipe, disks: list[Path], work: Path) -> None:
    """In a machine with a device-mapper: a pool, thin volumes, and the filesystems copied into them."""
    from tests.vm.machine import Machine

    number = 2 if recipe.boot_mib else 1
    with Machine([disks[0], *(work / volume.name for volume in recipe.volumes)], memory_mib=768) as machine:
        pv, group = f"/dev/vdb{number}", recipe.group
        machine.run(f"pvcreate -q {pv} && vgcreate -q -s 4m {group} {pv}")
        machine.run(f"lvcreate -q --type thin-pool -l 90%FREE -n pool {group}", timeout=300)
        for index, volume in enumerate(recipe.volumes):
            machine.run(f"lvcreate -q -V {volume.mib}m -T {group}/pool -n {volume.name}", timeout=300)
            source = f"/dev/vd{chr(ord('c') + index)}"
            machine.run(f"dd if={source} of=/dev/{group}/{volume.name} bs=1M conv=sparse,fsync 2>&1", timeout=1800)
        machine.run(f"sync; vgchange -an {group}", timeout=300)


def _make_filesystem(kind: str, path: Path, mib: int, identity: str, tree: Path) -> None:
    path.touch()
    with path.open("wb") as file:
        file.truncate(mib * MIB)
    if kind == "ext4":
        run("mkfs.ext4", "-q", "-F", "-U", identity, "-d", tree, path)
    elif kind == "swap":
        run("mkswap", "-q", "-U", identity, path)
    else:
        make = (
            ["mkfs.xfs", "-q", "-f", "-m", f"uuid={identity}"]
            if kind == "xfs"
            else ["mkfs.btrfs", "-q", "-U", identity]
        )
        run(*make, path)
        with tempfile.TemporaryDirectory(prefix="system-") as folder:
            run("mount", "-o", "loop", path, folder)
            try:
                if kind == "btrfs":
                    run("btrfs", "subvolume", "create", f"{folder}/@")
                run("cp", "-a", f"{tree}/.", f"{folder}/@" if kind == "btrfs" else folder)
            finally:
                run("umount", folder)


def _put(content: Path, disk: Path, pieces: list[tuple[int, int, int]]) -> None:
    """Write ``(offset in the content, offset on the disk, size)``; zeros are left as holes."""
    with content.open("rb") as source, disk.open("r+b") as target:
        for at, there, size in pieces:
            done = 0
            while done < size:
                source.seek(at + done)
                data = source.read(min(MIB, size - done))
                if not data:
                    break
                if data.strip(b"\0"):
                    target.seek(there + done)
                    target.write(data)
                done += len(data)


@contextlib.contextmanager
def _looped(disk: Path, offset: int, size: int) -> Iterator[str]:
    device = run("losetup", "--find", "--show", "-o", str(offset), "--sizelimit", str(size), disk).strip()
    try:
        yield device
    finally:
        run("losetup", "--detach", device)


class _Lvm:
    """lvm2, confined to some loop devices and without a device-mapper."""

    def __init__(self, folder: Path, devices: list[str]) -> None:
        accept = "".join(f'"a|^{device}$|", ' for device in devices)
        self._folder = folder / "lvm"
        self._folder.mkdir()
        (self._folder / "lvm.conf").write_text(
            f'devices {{ filter = [ {accept} "r|.*|" ] use_devicesfile = 0 scan_lvs = 0 }}\n'
            "backup { backup = 0 archive = 0 }\n"
            f'global {{ locking_dir = "{folder}/lock" use_lvmpolld = 0 }}\n'
            "activation { udev_sync = 0 udev_rules = 0 monitoring = 0 }\n"
        )

    def __call__(self, *arguments: str) -> str:
        return run("env", f"LVM_SYSTEM_DIR={self._folder}", "lvm", *arguments)

    def create(self, *arguments: str) -> None:
        self("lvcreate", "--driverloaded", "n", "-an", "-Zn", "-Wn", "-y", *arguments)


# -- the source's own boot loader -------------------------------------------------------------------------------------


def _make_bootable(recipe: Recipe, disk: Path) -> None:
    """GRUB as grub-install leaves it: with a prefix on the volume where /boot lies."""
    root = next(volume for volume in recipe.volumes if volume.where == "/")
    modules = Path("/usr/lib/grub")
    table = "gpt" if recipe.table == "gpt" else "msdos"
    number = 2 if recipe.uefi or recipe.table == "gpt" else 1
    if recipe.boot_mib:
        prefix, more = f"(hd0,{table}{number})/grub", []
    else:
        prefix, more = f"(lvm/{mapper(recipe, root).rpartition('/')[2]})/boot/grub", ["lvm"]
    names = [
        "part_gpt",
        "part_msdos",
        "ext2",
        "normal",
        "search",
        "search_fs_uuid",
        "configfile",
        "linux",
        "gzio",
        *more,
    ]
    with tempfile.TemporaryDirectory(prefix="system-") as folder_name:
        folder = Path(folder_name)
        image = folder / "image"
        if recipe.uefi:
            run("grub-mkimage", "-O", "x86_64-efi", "-p", prefix, "-o", image, "fat", *names)
            offset = f"{disk}@@{MIB}"
            run("mmd", "-i", offset, "::/EFI/BOOT")
            for name in ("::/EFI/BOOT/BOOTX64.EFI", "::/EFI/debian/grubx64.efi"):
                run("mcopy", "-i", offset, image, name)
            return
        run("grub-mkimage", "-O", "i386-pc", "-p", prefix, "-o", image, "biosdisk", *names)
        core = image.read_bytes()
        boot = (modules / "i386-pc/boot.img").read_bytes()
    first = 2048 if recipe.table == "gpt" else 1
    with disk.open("r+b") as file:
        file.write(located_boot(boot, first))
        file.seek(first * 512)
        file.write(located_core(core, first, -(-len(core) // 512)))


def cached(recipe: Recipe) -> list[Path]:
    """The disks of a system, made once for each state of this file; never written to."""
    text = Path(__file__).read_bytes() + repr(recipe).encode()
    digest = hashlib.sha256(text).hexdigest()[:16]
    with made_once(f"system-{recipe.name}-{digest}") as (folder, empty):
        if empty:
            build(recipe, folder)
    final = cache_folder() / f"system-{recipe.name}-{digest}"
    return sorted(final.glob("*.img"))


def working_copy(disks: list[Path], folder: Path) -> list[Path]:
    """The same disks, to be written to."""
    copies = []
    for disk in disks:
        run("cp", "--reflink=auto", "--sparse=always", disk, folder / disk.name)
        copies.append(folder / disk.name)
    return copies


def clean() -> None:
    """Remove all systems of the cache (not the trees of packages)."""
    for folder in cache_folder().glob("system-*"):
        if folder.is_dir():
            shutil.rmtree(folder)

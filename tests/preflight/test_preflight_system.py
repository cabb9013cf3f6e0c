"""Findings from the files of systems."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_preflight_initramfs import archive

from blocksync.flatten.tree import FolderTree, Guest
from blocksync.preflight.system import boot_loader, cloud_init, fstab, is_system, selinux, system_findings, virtio


class System:
    """A folder that looks like a system."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tree = FolderTree(os.open(folder, os.O_RDONLY | os.O_DIRECTORY), "the system")
        self.guest = Guest(self.tree)

    def file(self, path: str, content: bytes | str = b"") -> None:
        at = self.folder / path
        at.parent.mkdir(parents=True, exist_ok=True)
        at.write_bytes(content.encode() if isinstance(content, str) else content)


@pytest.fixture
def system(tmp_path: Path) -> Iterator[System]:
    made = System(tmp_path)
    yield made
    made.tree.close()


def codes(system: System) -> list[str]:
    return [finding.code for finding in system_findings(system.guest)]


@pytest.mark.parametrize(
    "device",
    [
        "/dev/sda1",
        "/dev/vdb",
        "/dev/xvda2",
        "/dev/nvme0n1p3",
        "/dev/mmcblk0p1",
        "/dev/hda1",
        "/dev/dm-3",
        "/dev/md0",
        "/dev/disk/by-path/pci-0000:00:1f.2-ata-1",
        "/dev/disk/by-id/ata-QEMU_1",
    ],
)
def test_fstab_by_a_name_that_will_not_survive(system: System, device: str) -> None:
    system.file(
        "etc/fstab", f"# comment /dev/sda9\nUUID=abc / ext4 defaults 0 1\n{device} /data xfs defaults 0 0\n"
    )
    (finding,) = fstab(system.guest)
    assert finding.code == "BS2307"
    assert f"line 3 {device}" in finding.what


@pytest.mark.parametrize(
    "device",
    ["UUID=1234", "LABEL=x", "PARTUUID=1-1", "/dev/mapper/vg-root", "/dev/vg/root", "/dev/disk/by-uuid/1", "tmpfs"],
)
def test_fstab_by_a_name_that_survives(system: System, device: str) -> None:
    system.file("etc/fstab", f"{device} / ext4 defaults 0 1\n")
    assert list(fstab(system.guest)) == []


def test_many_lines_of_fstab_are_counted(system: System) -> None:
    system.file("etc/fstab", "".join(f"/dev/sd{letter}1 /{letter} ext4 defaults 0 0\n" for letter in "abcdefgh"))
    (finding,) = fstab(system.guest)
    assert finding.what.endswith("and 3 more")


DRIVERS = ("virtio_blk", "virtio_pci")


def module(name: str, ending: str = ".ko") -> str:
    return f"usr/lib/modules/6.1/kernel/drivers/{name}{ending}"


@pytest.mark.parametrize("ending", [".ko", ".ko.xz", ".ko.zst", ".ko.gz"])
@pytest.mark.parametrize("place", ["boot/initrd.img-6.1", "boot/initramfs-6.1.img", "boot/initrd-6.1"])
def test_virtio_in_the_initramfs(system: System, ending: str, place: str) -> None:
    system.file("usr/lib/modules/6.1/modules.builtin")
    system.file(place, archive(*(module(name, ending) for name in DRIVERS)))
    assert [finding.code for finding in virtio(system.guest)] == ["BS2302"]


def test_virtio_missing_in_one_of_two_kernels(system: System) -> None:
    for version, names in (("6.1.0-9", DRIVERS), ("6.1.0-10", ("ahci", "virtio_pci"))):
        system.file(f"usr/lib/modules/{version}/modules.builtin")
        system.file(f"boot/initrd.img-{version}", archive(*map(module, names)))
    missing, ready = virtio(system.guest)
    assert missing.code == "BS2301"
    assert "6.1.0-10" in missing.what
    assert "virtio_blk or virtio_scsi" in missing.what
    assert "virtio_pci" not in missing.what
    assert ready.what.endswith("6.1.0-9")


def test_virtio_built_in_needs_no_initramfs(system: System) -> None:
    system.file(
        "usr/lib/modules/6.1/modules.builtin", "kernel/drivers/virtio/virtio_pci.ko\nkernel/x/virtio-blk.ko\n"
    )
    system.file("boot/vmlinuz-6.1")
    assert [finding.code for finding in virtio(system.guest)] == ["BS2302"]


def test_an_initramfs_that_cannot_be_read_is_said(system: System) -> None:
    system.file("usr/lib/modules/6.1/modules.builtin")
    system.file("boot/initrd.img-6.1", b"\x01garbage")
    assert [finding.code for finding in virtio(system.guest)] == ["BS2303"]


def test_a_kernel_without_image_and_initramfs_is_not_booted(system: System) -> None:
    system.file("usr/lib/modules/5.10/modules.builtin")
    assert list(virtio(system.guest)) == []


def test_grub_and_its_kinds(system: System) -> None:
    assert [finding.code for finding in boot_loader(system.guest)] == ["BS2305"]
    system.file("boot/grub/grub.cfg")
    system.file("boot/grub/i386-pc/normal.mod")
    (bios,) = boot_loader(system.guest)
    assert (bios.code, "GRUB for BIOS in /boot/grub" in bios.what) == ("BS2306", True)
    system.file("boot/efi/EFI/debian/grubx64.efi")
    (both,) = boot_loader(system.guest)
    assert "BIOS and UEFI" in both.what
    system.file("boot/loader/entries/a.conf")
    assert "1 loader entries" in next(iter(boot_loader(system.guest))).what


def test_selinux_says_its_mode_and_what_enforcing_means(system: System) -> None:
    assert list(selinux(system.guest)) == []
    system.file("etc/selinux/config", "# SELINUX= one of\nSELINUX=enforcing\nSELINUXTYPE=targeted\n")
    (finding,) = selinux(system.guest)
    assert (finding.code, finding.what, bool(finding.remedy)) == ("BS2304", "SELinux is enforcing", True)
    system.file("etc/selinux/config", "SELINUX=disabled\n")
    assert next(iter(selinux(system.guest))).remedy == ""


def test_cloud_init_unless_it_is_switched_off(system: System) -> None:
    assert list(cloud_init(system.guest)) == []
    system.file("etc/cloud/cloud.cfg")
    assert [finding.code for finding in cloud_init(system.guest)] == ["BS2308"]
    system.file("etc/cloud/cloud-init.disabled")
    assert list(cloud_init(system.guest)) == []


def test_a_link_out_of_the_system_leads_nowhere(system: System, tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "fstab").symlink_to("/proc/self/mounts")
    assert not is_system(system.guest)
    assert "BS2307" not in codes(system)


def test_a_folder_in_a_files_place_is_said_and_the_rest_is_looked_at(system: System, tmp_path: Path) -> None:
    (tmp_path / "etc" / "fstab").mkdir(parents=True)
    system.file("etc/selinux/config", "SELINUX=permissive\n")
    assert codes(system) == ["BS2309", "BS2305", "BS2304"]

"""A GRUB beside a shim, signed or not, looking on the old volume or not: what is told of it, and what is mended."""

from __future__ import annotations

from pathlib import Path

import pytest
from flatten_trees import contents, program
from test_flatten_esp import CHAIN, FALLBACK, OLD, SIGNED, never, uefi_system

from blocksync.errors import GuestFileError
from blocksync.flatten.bootloader import rebuild
from blocksync.flatten.check import loader_findings
from blocksync.flatten.efiprograms import is_signed, names_volume, started_by
from blocksync.flatten.system import System

SHIM, GRUB = CHAIN["shimx64.efi"], CHAIN["grubx64.efi"]
OURS = program(b"a GRUB of the administrator")
OLD_SIGNED = program(OLD, signed=True)
SUSE_SHIM = program("\\grub.efi".encode("utf-16-le"), signed=True)
DEBIAN = "EFI/debian/grubx64.efi"


def system_with(folder: Path, files: dict[str, bytes]) -> System:
    """A system whose ESP holds these files."""
    system = uefi_system(folder)
    for path, content in files.items():
        (folder / "boot/efi" / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / "boot/efi" / path).write_bytes(content)
    return system


def found(system: System) -> list[tuple[str, str, bool]]:
    return [(each.code, each.where.removeprefix("/boot/efi/"), each.fatal) for each in loader_findings(system)]


def beside_shim(grub: bytes) -> dict[str, bytes]:
    return {"EFI/debian/shimx64.efi": SHIM, DEBIAN: grub, FALLBACK: SHIM, "EFI/BOOT/fbx64.efi": b"MZ"}


@pytest.mark.parametrize(
    ("grub", "before", "after"),
    [
        (GRUB, [], []),
        (OURS, [("BS1150", DEBIAN, False)], [("BS1150", DEBIAN, False)]),
        (OLD, [("BS1145", DEBIAN, True)], [("BS1150", DEBIAN, False)]),
        (OLD_SIGNED, [("BS1145", DEBIAN, True)], [("BS1150", DEBIAN, False)]),
    ],
)
def test_a_loader_beside_a_shim_is_told_and_mended_where_it_cannot_boot(
    grub: bytes, before: list[object], after: list[object], tmp_path: Path
) -> None:
    system = system_with(tmp_path, beside_shim(grub))
    assert found(system) == before
    done = rebuild(system, never)
    assert found(system) == after
    there = (tmp_path / "boot/efi" / DEBIAN).read_bytes()
    assert (there == grub) == (before == after)
    assert not names_volume(there)
    assert ([*done.notes] == []) == (after == [])
    assert all("(0x1A) Security Violation" in note for note in done.notes)
    if there != grub:
        assert (tmp_path / "etc/blocksync-flatten/original/boot/efi" / DEBIAN).read_bytes() == grub
    as_it_was = contents(tmp_path)
    rebuild(system, never)
    assert contents(tmp_path) == as_it_was


def test_the_symptom_is_told_with_secure_boot_and_without(tmp_path: Path) -> None:
    (lost,) = loader_findings(system_with(tmp_path / "old", beside_shim(OLD)))
    assert "without Secure Boot 'error: disk 'lvmid/" in lost.symptom
    assert "with Secure Boot the shim refuses it" in lost.symptom
    (signed,) = loader_findings(system_with(tmp_path / "signed", beside_shim(OLD_SIGNED)))
    assert signed.symptom.startswith("'error: disk 'lvmid/")
    assert "Secure Boot" not in signed.symptom
    (ours,) = loader_findings(system_with(tmp_path / "ours", beside_shim(OURS)))
    assert "without it boots" in ours.symptom


def test_the_systems_own_signed_loader_takes_the_place_of_one_that_looks_for_the_old_volume(tmp_path: Path) -> None:
    system = system_with(tmp_path, beside_shim(OLD))
    (tmp_path / SIGNED).parent.mkdir(parents=True)
    (tmp_path / SIGNED).write_bytes(GRUB)
    done = rebuild(system, never)
    assert found(system) == []
    assert done.notes == ()
    assert (tmp_path / "boot/efi" / DEBIAN).read_bytes() == GRUB
    config = (tmp_path / "boot/efi/EFI/debian/grub.cfg").read_text()
    assert config == (
        "search.fs_uuid 0a1b2c3d-0000-4000-8000-000000000002 root\n"
        "set prefix=($root)'/boot/grub'\nconfigfile $prefix/grub.cfg\n"
    )


@pytest.mark.parametrize("kept", [program(b"/EFI/debian\0"), program(b"/EFI/ubuntu\0", signed=True), b"MZ"])
def test_a_signed_loader_of_another_folder_or_none_is_not_used(kept: bytes, tmp_path: Path) -> None:
    system = system_with(tmp_path, beside_shim(OLD))
    (tmp_path / SIGNED).parent.mkdir(parents=True)
    (tmp_path / SIGNED).write_bytes(kept)
    rebuild(system, never)
    assert (tmp_path / "boot/efi" / DEBIAN).read_bytes() not in (OLD, kept)


def test_suses_names_are_known_and_its_chain_is_copied_whole(tmp_path: Path) -> None:
    chain = {"shim.efi": SUSE_SHIM, "grub.efi": GRUB, "MokManager.efi": b"MZ manager"}
    # grub2-install made this one before Secure Boot was switched on; its shim starts the other.
    beside = {"EFI/opensuse/grubx64.efi": OURS}
    system = system_with(tmp_path, {f"EFI/opensuse/{name}": content for name, content in chain.items()} | beside)
    rebuild(system, never)
    esp = tmp_path / "boot/efi/EFI"
    assert {file.name: file.read_bytes() for file in (esp / "BOOT").iterdir()} == {
        "BOOTX64.EFI": SUSE_SHIM,
        "grub.efi": GRUB,
        "MokManager.efi": b"MZ manager",
    }
    assert (esp / "opensuse/grubx64.efi").read_bytes() == OURS
    assert found(system) == []


def test_a_shim_at_the_fallback_path_alone_is_kept(tmp_path: Path) -> None:
    system = system_with(tmp_path, {FALLBACK: SHIM, "EFI/BOOT/grubx64.efi": GRUB})
    before = contents(tmp_path)
    assert rebuild(system, never).done == ("the shim at /boot/efi/EFI/BOOT/BOOTX64.EFI is kept",)
    assert contents(tmp_path) == before


def test_a_shim_without_a_loader_is_told_and_gets_the_vendors(tmp_path: Path) -> None:
    files = {"EFI/debian/shimx64.efi": SHIM, DEBIAN: GRUB, FALLBACK: SHIM}
    system = system_with(tmp_path, files)
    assert found(system) == [("BS1145", "EFI/BOOT/grubx64.efi", True)]
    rebuild(system, never)
    assert found(system) == []
    assert (tmp_path / "boot/efi/EFI/BOOT/grubx64.efi").read_bytes() == GRUB


def test_a_folder_without_a_shim_beside_one_with_is_mended_too(tmp_path: Path) -> None:
    system = system_with(tmp_path, {**beside_shim(GRUB), "EFI/arch/grubx64.efi": OLD, "EFI/void/grubx64.efi": OURS})
    assert found(system) == [("BS1145", "EFI/arch/grubx64.efi", True)]
    rebuild(system, never)
    assert found(system) == []
    assert (tmp_path / "boot/efi/EFI/void/grubx64.efi").read_bytes() == OURS
    assert (tmp_path / "boot/efi" / DEBIAN).read_bytes() == GRUB


def test_a_partition_with_folders_without_end_is_refused(tmp_path: Path) -> None:
    system = system_with(tmp_path, {f"EFI/{number}/grubx64.efi": OLD for number in range(70)})
    with pytest.raises(GuestFileError, match="more than 64"):
        rebuild(system, never)


def test_programs_cut_anywhere_or_of_any_numbers_are_looked_at_without_harm() -> None:
    assert is_signed(GRUB)
    assert not is_signed(program(b"x" * 64))
    assert not is_signed(GRUB[:-1])
    for length in range(len(GRUB)):
        assert is_signed(GRUB[:length]) is False
    for at in (0x3C, 152, 260, 296, 300):
        is_signed(GRUB[:at] + b"\xff\xff\xff\xff" + GRUB[at + 4 :])
    assert (started_by(SHIM), started_by(SUSE_SHIM), started_by(GRUB)) == ("grubx64.efi", "grub.efi", "")

"""Names out of real forms of initramfs, and what a broken one must not do."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import shutil
import subprocess
from collections.abc import Callable

import pytest
import zstandard

from blocksync.errors import BlocksyncError, LayoutDamagedError, LayoutUnknownError
from blocksync.preflight import initramfs
from blocksync.preflight.initramfs import file_names


def entry(name: str, content: bytes = b"", size: int | None = None) -> bytes:
    """One file of a newc archive, as cpio(5) lays it out."""
    raw = name.encode() + b"\0"
    fields = [1, 0o100644, 0, 0, 1, 0, len(content) if size is None else size, 0, 0, 0, 0, len(raw), 0]
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + raw
    return head + bytes(-len(head) % 4) + content + bytes(-len(content) % 4)


def archive(*names: str) -> bytes:
    files = b"".join(entry(name, name.encode() * 7) for name in names)
    return files + entry("TRAILER!!!")


EARLY = archive("kernel/x86/microcode/GenuineIntel.bin") + bytes(512)
MAIN = archive("init", "usr/lib/modules/6.1/kernel/drivers/block/virtio_blk.ko.xz", "bin/sh")
NAMES = ["init", "usr/lib/modules/6.1/kernel/drivers/block/virtio_blk.ko.xz", "bin/sh"]


def lz4(*more: str) -> Callable[[bytes], bytes]:
    def pack(data: bytes) -> bytes:
        return subprocess.run(["lz4", *more, "-c"], input=data, capture_output=True, check=True).stdout

    return pack


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gzip": gzip.compress,
    "xz": lambda data: lzma.compress(data, check=lzma.CHECK_CRC32),
    "lzma": lambda data: lzma.compress(data, format=lzma.FORMAT_ALONE),
    "bzip2": bz2.compress,
    "zstd": zstandard.ZstdCompressor().compress,
    "lz4 as the kernel has it": lz4("-l"),
    "lz4": lz4(),
}


@pytest.mark.parametrize("packing", PACKERS)
@pytest.mark.parametrize("early", [b"", EARLY], ids=["alone", "after microcode"])
def test_each_packing_is_read(packing: str, early: bytes) -> None:
    whole = early + PACKERS[packing](MAIN)
    names = list(file_names(io.BytesIO(whole)))
    assert names == (["kernel/x86/microcode/GenuineIntel.bin"] if early else []) + NAMES


def test_archives_may_follow_each_other_inside_one_packing() -> None:
    both = gzip.compress(archive("a") + bytes(100) + archive("b") + bytes(64))
    assert list(file_names(io.BytesIO(both))) == ["a", "b"]


def test_frames_of_zstd_may_follow_each_other() -> None:
    pack = zstandard.ZstdCompressor().compress
    cut = len(MAIN) // 2
    assert list(file_names(io.BytesIO(pack(MAIN[:cut]) + pack(MAIN[cut:])))) == NAMES


@pytest.mark.parametrize("packing", PACKERS)
def test_a_cut_one_is_damaged(packing: str) -> None:
    whole = PACKERS[packing](MAIN)
    for length in (7, len(whole) // 3, len(whole) - 9):
        with pytest.raises(BlocksyncError):
            list(file_names(io.BytesIO(whole[:length])))


def test_what_is_no_archive_is_unknown() -> None:
    with pytest.raises(LayoutUnknownError):
        list(file_names(io.BytesIO(b"\x7fELF and more")))


def test_nothing_is_nothing() -> None:
    assert list(file_names(io.BytesIO(bytes(4096)))) == []


def test_a_flood_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(initramfs, "MAX_PLAIN_BYTES", 4 << 20)
    bomb = gzip.compress(entry("a", size=1 << 30)[:-4] + bytes(64 << 20))
    with pytest.raises(LayoutDamagedError, match="more than"):
        list(file_names(io.BytesIO(bomb)))


@pytest.mark.parametrize("at", [54, 94])
def test_a_length_that_is_no_number_is_damage(at: int) -> None:
    broken = bytearray(MAIN)
    broken[at : at + 8] = b"zzzzzzzz"
    with pytest.raises(LayoutDamagedError, match="no number"):
        list(file_names(io.BytesIO(bytes(broken))))


def test_a_name_out_of_proportion_is_damage() -> None:
    broken = bytearray(MAIN)
    broken[94:102] = b"7FFFFFFF"
    with pytest.raises(LayoutDamagedError, match="name"):
        list(file_names(io.BytesIO(bytes(broken))))


def test_without_its_program_lz4_is_unknown_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = PACKERS["lz4"](MAIN)
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    with pytest.raises(LayoutUnknownError) as caught:
        list(file_names(io.BytesIO(packed)))
    assert "install lz4" in caught.value.remedy


def test_the_archives_of_cpio_itself_are_read(tmp_path: object) -> None:
    made = subprocess.run(
        ["cpio", "-o", "-H", "newc", "--quiet"],
        input=b"etc/hostname\netc/fstab\n",
        capture_output=True,
        check=True,
        cwd="/",
    ).stdout
    assert list(file_names(io.BytesIO(made))) == ["etc/hostname", "etc/fstab"]

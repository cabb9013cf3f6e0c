"""Disks and shadow copies of Windows, read through a simulated layer of its calls, with a real NTFS below."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import mmap
import os
import struct
import subprocess
import uuid
from pathlib import Path
from typing import Any

import pytest
from windows_simulated import SECTOR, VOLUME, Device, Machine, gpt_layout

from blocksync.engine.allocation import allocated
from blocksync.errors import SnapshotOverflowError, SourceError, UnreadableError
from blocksync.extents import ExtentKind
from blocksync.platforms import ioctls
from blocksync.platforms.windows import Kernel32, WindowsFault, system_calls
from blocksync.sources import open_source
from blocksync.sources.windows import ShadowedDisk, WindowsSource, device_path, disk_number, volumes_of
from blocksync.volumes.filesystems.ntfs import Ntfs
from blocksync.volumes.reader import FileReader, SourceReader

DISK = "\\\\.\\PhysicalDrive0"
SHADOW = "\\\\?\\GLOBALROOT\\Device\\HarddiskVolumeShadowCopy7"
START, LENGTH, SIZE = 1 << 20, 24 << 20, 26 << 20
GUID = uuid.UUID("01234567-89ab-cdef-0123-456789abcdef")


def make_machine(folder: Path, *, dirty: bool = True) -> Machine:
    """A disk with one NTFS partition, and a shadow copy of it; since then the disk itself has gone on."""
    disk, shadow = folder / "disk", folder / "shadow"
    with disk.open("wb") as file:
        file.truncate(SIZE)
    table = "label: gpt\nlabel-id: %s\nstart=2048, size=%d, type=EBD0A0A2-B9E5-4433-87C0-68B6B72699C7\n"
    subprocess.run(["sfdisk", "-q", disk], input=table % (GUID, LENGTH // 512), text=True, check=True)
    with shadow.open("wb") as file:
        file.truncate(LENGTH)
    subprocess.run(["mkntfs", "-F", "-Q", "-q", "-c", "4096", shadow], check=True, capture_output=True)
    payload = folder / "payload"
    for name, size in (("pagefile.sys", 4 << 20), ("kept.bin", 2 << 20)):
        payload.write_bytes(hashlib.sha256(name.encode()).digest() * (size // 32))
        subprocess.run(["ntfscp", shadow, payload, name], check=True, capture_output=True)
    device = Device(shadow, 0, LENGTH, cluster=4096)
    with shadow.open("rb") as file:
        volume = Ntfs(FileReader(file.fileno()))
        bits = bytearray(-(-volume.boot.clusters // 8))
        for low, high in volume.used(0, volume.boot.clusters):
            for cluster in range(low, high):
                bits[cluster // 8] |= 1 << cluster % 8
        device.bitmap = bytes(bits)
        for number in range(64, volume.records):
            record = volume.record(number)
            if not struct.unpack_from("<H", record, 22)[0] & 1:
                continue
            found = volume.attributes(number)
            names = [each.resident for each in found if each.kind == 0x30 and each.resident]
            data = [each for each in found if each.kind == 0x80]
            if names and data:
                name = names[0][66 : 66 + 2 * names[0][64]].decode("utf-16-le")
                device.files[f"\\{name}"] = [(cluster, count) for _, count, cluster in data[0].runs if cluster]
    content = shadow.read_bytes()
    with disk.open("r+b") as file:
        file.seek(START)
        file.write(content)
    if dirty:
        _leave_log_open(shadow)
    return Machine(
        devices={
            DISK: Device(disk, 0, SIZE, disk=0),
            VOLUME.rstrip("\\"): Device(disk, START, LENGTH),
            SHADOW: device,
        },
        layout=gpt_layout(GUID, [(START, LENGTH)]),
        extents={VOLUME: [(0, START, LENGTH)]},
        points={VOLUME: ["C:\\"]},
    )


def _leave_log_open(image: Path) -> None:
    """As in a shadow copy of a volume in use: the dirty flag of the volume is set in its record."""
    with image.open("r+b") as file:
        volume = Ntfs(FileReader(file.fileno()))
        for number in (0, 3):
            assert volume.record(number)
        record = volume.boot.mft_cluster * volume.boot.cluster_bytes + 3 * volume.boot.record_bytes
        raw = bytearray(os.pread(file.fileno(), volume.boot.record_bytes, record))
        at = struct.unpack_from("<H", raw, 20)[0]
        while struct.unpack_from("<I", raw, at)[0] != 0x70:
            at += struct.unpack_from("<I", raw, at + 4)[0]
        raw[at + struct.unpack_from("<H", raw, at + 20)[0] + 10] |= 1
        os.pwrite(file.fileno(), raw, record)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return make_machine(tmp_path)


def read(source: WindowsSource | ShadowedDisk, offset: int, length: int) -> bytes:
    room = bytearray(length)
    source.read_into(offset, memoryview(room))
    return bytes(room)


def test_a_disk_says_what_it_is_and_is_read_in_whole_sectors(machine: Machine) -> None:
    with WindowsSource(DISK, machine) as source:
        assert (source.size, source.sector_bytes, source.capabilities.alignment) == (SIZE, SECTOR, SECTOR)
        assert source.identity == f"windows-disk:QEMU HARDDISK:S3R14L:{GUID}"
        assert source.capabilities.consistency == "live"
        assert source.in_use() == "Windows has volumes of it mounted: C:\\"
        whole = machine.devices[DISK].image.read_bytes()
        for offset, length in ((0, SIZE), (3, 1), (511, 2), (SIZE - 1, 1), (1000, 3 << 20)):
            assert read(source, offset, length) == whole[offset : offset + length]
        with pytest.raises(SourceError, match="leaves the source"):
            read(source, SIZE - 1, 2)
        source.check()
        machine.devices[DISK].length += 512
        with pytest.raises(SourceError, match="changed its size"):
            source.check()
    assert machine.misaligned == 0
    assert machine.opened == {}


def test_a_shadow_copy_is_read_to_its_last_sector(machine: Machine) -> None:
    """The filesystem ends a sector before the volume: without asking, Windows would not read the backup boot sector."""
    with WindowsSource(SHADOW, machine) as source:
        assert source.capabilities.consistency == "crash"
        assert source.in_use() == ""
        assert read(source, LENGTH - SECTOR, SECTOR)[3:7] == b"NTFS"


def test_the_layout_and_the_volumes_are_those_of_the_disk(machine: Machine) -> None:
    handle = machine.open(DISK)
    table = ioctls.layout_of(machine, handle)
    assert (table.style, table.identity) == ("gpt", str(GUID))
    assert [(part.number, part.offset, part.length) for part in table.partitions] == [(1, START, LENGTH)]
    (volume,) = volumes_of(machine)
    assert (volume.name, volume.points, volume.kind, volume.text) == (VOLUME, ("C:\\",), "NTFS", "C:")
    assert [(each.disk, each.offset, each.length) for each in volume.extents] == [(0, START, LENGTH)]


def test_what_is_in_use_comes_from_the_driver_and_the_page_file_is_left_out(machine: Machine) -> None:
    """The blocks alone say that the volume is dirty; two files, and what is not theirs is told as unused."""
    machine.piece = 64  # the bitmap comes in many answers
    with WindowsSource(SHADOW, machine) as source:
        found = allocated(source, all_blocks=False)
        assert found.notes == ()
        assert found.excluded == (("/pagefile.sys", 4 << 20),)
        image = machine.devices[SHADOW].image.read_bytes()
        used = bytearray(LENGTH)
        for extent in found.source.extents():
            if extent.kind is ExtentKind.DATA:
                used[extent.offset : extent.end] = b"\1" * extent.length
        device = machine.devices[SHADOW]
        page = {number for first, count in device.files["\\pagefile.sys"] for number in range(first, first + count)}
        for cluster in range(LENGTH // 4096 - 1):
            bit = device.bitmap[cluster // 8] >> cluster % 8 & 1
            assert used[cluster * 4096] == (bit and cluster not in page), cluster
        assert used[-SECTOR:] == b"\1" * SECTOR
        kept = [number for first, count in device.files["\\kept.bin"] for number in range(first, first + count)]
        content = b"".join(image[number * 4096 : number * 4096 + 4096] for number in kept)
        assert content == hashlib.sha256(b"kept.bin").digest() * (len(content) // 32)


def test_clusters_that_only_the_driver_or_only_the_blocks_call_used_are_used(machine: Machine) -> None:
    device = machine.devices[SHADOW]
    bits = bytearray(device.bitmap)
    free = next(number for number in range(LENGTH // 4096 - 8, 0, -1) if not bits[number // 8] >> number % 8 & 1)
    kept = device.files["\\kept.bin"][0][0]
    bits[free // 8] |= 1 << free % 8
    bits[kept // 8] &= ~(1 << kept % 8)
    device.bitmap = bytes(bits)
    with WindowsSource(SHADOW, machine) as source:
        view = allocated(source, all_blocks=False).source
        for cluster in (free, kept):
            extents = list(view.extents_within(cluster * 4096, cluster * 4096 + 4096))
            assert [extent.kind for extent in extents] == [ExtentKind.DATA]


def test_a_file_that_the_driver_sees_elsewhere_is_not_left_out(machine: Machine) -> None:
    machine.devices[SHADOW].files["\\pagefile.sys"] = machine.devices[SHADOW].files["\\pagefile.sys"][:0]
    with WindowsSource(SHADOW, machine) as source:
        assert allocated(source, all_blocks=False).excluded_bytes == 0


def test_a_driver_that_speaks_of_another_filesystem_is_not_believed(machine: Machine) -> None:
    machine.devices[SHADOW].cluster = 8192
    with WindowsSource(SHADOW, machine) as source:
        found = allocated(source, all_blocks=False)
        assert found.source is source
        assert found.notes == ("the disk: Windows tells of another filesystem than the one that lies there",)


def test_a_disk_with_shadow_copies_is_of_the_instant_of_the_copies(machine: Machine) -> None:
    disk, shadow = machine.devices[DISK].image, machine.devices[SHADOW].image
    with disk.open("r+b") as file:
        file.seek(START + (20 << 20))
        file.write(b"written after the shadow copy")
    source = ShadowedDisk(
        WindowsSource(DISK, machine), [(START, LENGTH, WindowsSource(SHADOW, machine))], "application"
    )
    with source:
        assert source.capabilities.consistency == "application"
        live = disk.read_bytes()
        assert read(source, 0, SIZE) == live[:START] + shadow.read_bytes() + live[START + LENGTH :]
        assert read(source, START - 7, 20) == live[START - 7 : START] + shadow.read_bytes()[:13]
        found = allocated(source, all_blocks=False)
        assert found.excluded == (("#1:/pagefile.sys", 4 << 20),)
        kinds = {extent.kind for extent in found.source.extents_within(0, START)}
        assert kinds == {ExtentKind.DATA}
    assert machine.opened == {}


def test_a_filesystem_without_a_point_in_time_view_is_read_as_a_whole(tmp_path: Path) -> None:
    """Clean as it is, somebody may write to it while it is read."""
    machine = make_machine(tmp_path, dirty=False)
    with ShadowedDisk(WindowsSource(DISK, machine), [], "crash") as source:
        found = allocated(source, all_blocks=False)
        assert found.source is source
        assert "no point-in-time view of it" in found.notes[0]


@pytest.mark.parametrize(
    ("number", "general"), [(2, errno.ENOENT), (5, errno.EACCES), (23, errno.EIO), (1167, errno.ENODEV)]
)
def test_faults_of_windows_become_ours(machine: Machine, number: int, general: int) -> None:
    fault = WindowsFault(number)
    assert (fault.errno, fault.number) == (general, number)

    def fail(*_given: object) -> int:
        raise fault

    with WindowsSource(DISK, machine) as source:
        machine.read = fail  # type: ignore[method-assign]
        with pytest.raises(SourceError, match="cannot read"):
            read(source, 0, 512)
        with pytest.raises(SourceError, match="cannot read"):
            read(source, 1, 700)
        with pytest.raises(SourceError, match="cannot read"):
            SourceReader(source).pread(1, 700)


def test_a_failed_read_is_told_while_something_still_points_into_its_buffer(machine: Machine) -> None:
    """As ctypes does: the frame that failed, which the traceback keeps, holds a pointer."""

    def fail(_handle: int, _offset: int, buffer: memoryview, /) -> int:
        pointer = (ctypes.c_char * len(buffer)).from_buffer(buffer)
        raise WindowsFault(23 if len(pointer) else 0)

    with WindowsSource(DISK, machine) as source:
        machine.read = fail  # type: ignore[method-assign]
        for offset, length in ((0, 512), (1, 700)):
            with pytest.raises(UnreadableError, match="cannot read"):
                read(source, offset, length)
    assert [volume.kind for volume in volumes_of(machine)] == [""]


@pytest.mark.parametrize("doing", ["reading", "the look before the commit"])
def test_a_shadow_copy_that_windows_dropped_is_an_overflow(machine: Machine, doing: str) -> None:
    def fail(*_given: object) -> Any:
        raise WindowsFault(433)

    with WindowsSource(SHADOW, machine) as source:
        machine.read = fail  # type: ignore[method-assign]
        if doing == "reading":
            with pytest.raises(SourceError, match="cannot read"):
                read(source, 0, 512)  # the copy is there still: a fault of the medium
        machine.control = fail  # type: ignore[method-assign]
        with pytest.raises(SnapshotOverflowError, match="is gone") as told:
            read(source, 0, 512) if doing == "reading" else source.check()
        assert "shadowstorage" in told.value.remedy


def test_a_short_or_wild_answer_is_refused(machine: Machine) -> None:
    answers = {0x560000: struct.pack("<I4x", 1 << 20), 0x7405C: b"\0\0", 0x70050: b"\1\0\0\0"}
    machine.control = lambda _handle, code, _given, _room, /: (answers[code], False)  # type: ignore[method-assign]
    for ask in (ioctls.extents_of, ioctls.length_of, ioctls.layout_of):
        with pytest.raises(OSError, match="less than a whole"):
            ask(machine, 1)


def test_names_of_devices() -> None:
    assert device_path("C:") == device_path("C:\\") == "\\\\.\\C:"
    assert device_path(VOLUME) == VOLUME.rstrip("\\")
    assert (disk_number("\\\\.\\physicaldrive12"), disk_number(SHADOW), disk_number("/dev/sda")) == (12, None, None)


def test_elsewhere_than_on_windows_such_a_device_is_a_typed_error() -> None:
    with pytest.raises(OSError, match="runs Windows"):
        system_calls()
    with pytest.raises(SourceError, match="cannot open the source"):
        open_source(DISK)


class Library:
    """``kernel32`` as ctypes would give it: each function notes what it is called with."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []
        self.error = 0

    def __getattr__(self, name: str) -> object:
        def call(*given: object) -> int:
            # ReadFile's buffer is not kept: what points into it must be gone after the call.
            self.calls.append((name, *(each for at, each in enumerate(given) if (name, at) != ("ReadFile", 1))))
            return 0 if self.error else 1

        setattr(self, name, call)
        return call


def test_the_thin_layer_opens_for_reading_only_and_reads_at_offsets_beyond_four_gibibytes() -> None:
    library = Library()
    calls = Kernel32(library, lambda: library.error)
    assert calls.open(DISK) == 1
    assert library.calls[-1][1:] == (DISK, 0x80000000, 7, None, 3, 0x20000000, None)
    calls.read(1, (5 << 32) + 512, memoryview(bytearray(512)))
    overlapped = library.calls[-1][-1]._obj  # type: ignore[attr-defined]
    assert (overlapped.offset, overlapped.offset_high) == (512, 5)
    with mmap.mmap(-1, 4096) as room, memoryview(room) as view:
        library.error = 23
        with pytest.raises(WindowsFault, match="Windows error 23"):
            calls.read(1, 0, view)
    library.error = 38
    assert calls.read(1, 0, memoryview(bytearray(512))) == 0
    library.error = 234
    assert calls.control(1, 0x9006F, bytes(8), 64) == (b"", True)
    library.error = 5
    with pytest.raises(WindowsFault, match="Windows error 5"):
        calls.control(1, 0x9006F, bytes(8), 64)


def test_numbers_and_structures_are_those_of_the_header(tmp_path: Path) -> None:
    """mingw-w64's ``winioctl.h``, compiled with Windows' widths of types."""
    numbers = [name for name in vars(ioctls) if name.startswith(("IOCTL_", "FSCTL_"))]
    assert len(numbers) == 9
    checks = [f"{name} == {getattr(ioctls, name)}" for name in numbers] + [
        f"offsetof(DISK_GEOMETRY_EX, Data) == {ioctls.GEOMETRY.size}",
        f"sizeof(STORAGE_ACCESS_ALIGNMENT_DESCRIPTOR) == {ioctls.ALIGNMENT.size}",
        "offsetof(STORAGE_ACCESS_ALIGNMENT_DESCRIPTOR, BytesPerLogicalSector) == 16",
        "offsetof(STORAGE_DEVICE_DESCRIPTOR, ProductIdOffset) == 16",
        "offsetof(STORAGE_DEVICE_DESCRIPTOR, SerialNumberOffset) == 24",
        "offsetof(STORAGE_DEVICE_DESCRIPTOR, RawDeviceProperties) == 36",
        f"offsetof(DRIVE_LAYOUT_INFORMATION_EX, PartitionEntry) == {ioctls.LAYOUT.size}",
        f"sizeof(PARTITION_INFORMATION_EX) == {ioctls.PARTITION.size}",
        "offsetof(PARTITION_INFORMATION_EX, StartingOffset) == 8",
        "offsetof(PARTITION_INFORMATION_EX, PartitionNumber) == 24",
        f"offsetof(VOLUME_DISK_EXTENTS, Extents) == {ioctls.EXTENTS.size}",
        f"sizeof(DISK_EXTENT) == {ioctls.EXTENT.size}",
        f"offsetof(VOLUME_BITMAP_BUFFER, Buffer) == {ioctls.BITMAP.size}",
        f"offsetof(RETRIEVAL_POINTERS_BUFFER, Extents) == {ioctls.POINTERS.size}",
        "offsetof(NTFS_VOLUME_DATA_BUFFER, BytesPerCluster) == 44",
    ]
    text = "#include <windef.h>\n#include <winioctl.h>\n#include <stddef.h>\n"
    (tmp_path / "check.c").write_text(text + "".join(f'_Static_assert({check}, "");\n' for check in checks))
    own = subprocess.run(["gcc", "-print-file-name=include"], capture_output=True, text=True, check=True).stdout
    words = ["gcc", "-m32", "-malign-double", "-fsyntax-only", "-w", "-nostdinc"]
    words += ["-isystem", "/usr/x86_64-w64-mingw32/include", "-isystem", own.strip()]
    words += ["-D_WIN32", "-D__int64=long long", "-D__MINGW_USYMBOL=", "-D__cdecl=", "-D__stdcall=", "-D_stdcall="]
    words += ["-D__declspec(x)=", "-DPCONTEXT=void*", tmp_path / "check.c"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]

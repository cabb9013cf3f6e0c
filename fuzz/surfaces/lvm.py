"""A physical volume: label, metadata area, the text in it, and what a volume group of that text maps to."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from blocksync.errors import BlocksyncError
from blocksync.volumes.lvm_disk import has_label, lvm_crc
from blocksync.volumes.lvm_groups import read_groups, read_physical_volumes
from blocksync.volumes.lvm_mapping import open_volume
from blocksync.volumes.reader import BytesReader
from fuzz.surfaces import Surface

AREA, AREA_BYTES, SIZE = 4096, 8192, 64 << 10
TEXT_AT = 512
UUID = b"abcdefghijklmnopqrstuvwxyz012345"
TEXT = """contents = "Text Format Volume Group"
version = 1
vg {
id = "AAAAAA-AAAA-AAAA-AAAA-AAAA-AAAA-AAAAAA"
seqno = 3
format = "lvm2"
status = ["RESIZEABLE", "READ", "WRITE"]
flags = []
extent_size = 8
max_lv = 0
max_pv = 0
physical_volumes {
pv0 {
id = "abcdef-ghij-klmn-opqr-stuv-wxyz-012345"
device = "/dev/x"
status = ["ALLOCATABLE"]
dev_size = 128
pe_start = 24
pe_count = 13
}
}
logical_volumes {
VOLUMES
}
}
"""
VOLUME = """NAME {
id = "BBBBBB-BBBB-BBBB-BBBB-BBBB-BBBB-BBBBBB"
status = ["READ", "WRITE", "VISIBLE"]
segment_count = 1
segment1 {
start_extent = 0
extent_count = 2
SEGMENT
}
}
"""
SEGMENTS = (
    'type = "striped"\nstripe_count = 1\nstripes = ["pv0", 0]',
    'type = "striped"\nstripe_count = 2\nstripe_size = 8\nstripes = ["pv0", 0, "pv0", 4]',
    'type = "raid1"\ndevice_count = 2\nregion_size = 4096\nraids = ["m0", "a0", "m1", "a1"]',
    'type = "raid5"\ndevice_count = 3\nstripe_size = 8\nraids = ["m0", "a0", "m1", "a1", "m2", "a0"]',
    'type = "mirror"\nmirror_count = 2\nmirrors = ["a0", 0, "a1", 0]',
    'type = "snapshot"\nchunk_size = 8\norigin = "a0"\ncow_store = "a1"',
    'type = "thin-pool"\nmetadata = "a0"\npool = "a1"\ntransaction_id = 1\nchunk_size = 128',
    'type = "thin"\nthin_pool = "v6"\ntransaction_id = 0\ndevice_id = 1',
    'type = "zero"',
)


def disk(text: bytes) -> bytes:
    """A physical volume whose area holds this text, with all checksums."""
    made = bytearray(SIZE)
    area = struct.pack("<QQQQQQQQ", 12288, 0, 0, 0, AREA, AREA_BYTES, 0, 0)
    label = bytearray(512)
    struct.pack_into("<8sQII8s", label, 0, b"LABELONE", 1, 0, 32, b"LVM2 001")
    label[32:64] = UUID
    struct.pack_into("<Q", label, 64, SIZE)
    label[72 : 72 + len(area)] = area
    struct.pack_into("<I", label, 16, lvm_crc(bytes(label[20:])))
    made[512:1024] = label
    head = bytearray(512)
    struct.pack_into("<I16sIQQ", head, 0, 0, b" LVM2 x[5A%r0N*>", 1, AREA, AREA_BYTES)
    struct.pack_into("<QQII", head, 40, TEXT_AT, len(text), lvm_crc(text), 0)
    struct.pack_into("<I", head, 0, lvm_crc(bytes(head[4:])))
    made[AREA : AREA + 512] = head
    made[AREA + TEXT_AT : AREA + TEXT_AT + len(text)] = text
    return bytes(made)


def run(data: bytes) -> None:
    if not data:
        return
    # The text by itself, in a disk that holds; or the first pages of the disk as they are.
    if data[0] & 1:
        image = disk(data[1 : 1 + AREA_BYTES - TEXT_AT])
    else:
        made = bytearray(disk(TEXT.replace("VOLUMES", "").encode()))
        made[512 : 512 + min(len(data) - 1, 8192)] = data[1 : 1 + 8192]
        for at, end in ((512, 1024), (AREA, AREA + 512)):
            skip = 20 if at == 512 else 4
            where = at + 16 if at == 512 else at
            if data[0] & 2:
                struct.pack_into("<I", made, where, lvm_crc(bytes(made[at + skip : end])))
        image = bytes(made)
    reader = BytesReader(image)
    has_label(reader)
    for group in read_groups(read_physical_volumes([reader])):
        for name in list(group.volumes)[:8]:
            try:
                volume = open_volume(group, name)
                got = volume.pread(0, min(volume.size, 65536))
                assert len(got) == min(volume.size, 65536)
            except BlocksyncError:
                continue


def text_of(*segments: str) -> bytes:
    plain = [
        VOLUME.replace("NAME", name).replace("SEGMENT", SEGMENTS[0]) for name in ("a0", "a1", "m0", "m1", "m2")
    ]
    more = [VOLUME.replace("NAME", f"v{index}").replace("SEGMENT", text) for index, text in enumerate(segments)]
    return TEXT.replace("VOLUMES", "".join(plain + more)).encode()


def seeds() -> Iterator[bytes]:
    for segment in SEGMENTS:
        yield b"\x01" + text_of(segment)
    yield b"\x01" + text_of(*SEGMENTS)
    yield b"\x01" + b"a {" * 400
    whole = disk(text_of(SEGMENTS[0]))
    for mode in (0, 2):
        yield bytes([mode]) + whole[512 : 512 + 8192]


SURFACE = Surface(
    run=run,
    seeds=seeds,
    modules=("blocksync.volumes",),
    most_bytes=8193,
)

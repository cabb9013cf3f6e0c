r"""Windows as far as :class:`~blocksync.platforms.windows.WindowsCalls` shows it, over image files.

Structures are packed here from Microsoft's documents, apart from the module that reads them. It is strict as the real
thing: reads must be of whole sectors, unknown devices and codes fail with Windows' own numbers.
"""

from __future__ import annotations

import os
import struct
import uuid
from dataclasses import dataclass, field
from pathlib import Path

from blocksync.platforms.windows import WindowsFault

SECTOR = 512
VOLUME = "\\\\?\\Volume{11111111-2222-3333-4444-555555555555}\\"


@dataclass
class Device:
    """Something that can be opened: bytes of an image from ``offset`` on."""

    image: Path
    offset: int = 0
    length: int = 0
    disk: int | None = None
    cluster: int = 0
    bitmap: bytes = b""
    files: dict[str, list[tuple[int, int]]] = field(default_factory=dict)


@dataclass
class Machine:
    """A machine with one disk 0."""

    devices: dict[str, Device]
    layout: bytes = b""
    extents: dict[str, list[tuple[int, int, int]]] = field(default_factory=dict)
    points: dict[str, list[str]] = field(default_factory=dict)
    piece: int = 1 << 20
    opened: dict[int, tuple[Device, str]] = field(default_factory=dict)
    misaligned: int = 0
    extended: set[int] = field(default_factory=set)

    def open(self, path: str, /, *, attributes_only: bool = False) -> int:
        if attributes_only:
            for name, device in self.devices.items():
                if path.startswith(name + "\\") and path[len(name) :] in device.files:
                    return self._handle(device, path[len(name) :])
            raise WindowsFault(2)
        if path not in self.devices:
            raise WindowsFault(2)
        return self._handle(self.devices[path], path)

    def _handle(self, device: Device, name: str) -> int:
        handle = max(self.opened, default=99) + 1
        self.opened[handle] = device, name
        return handle

    def close(self, handle: int, /) -> None:
        del self.opened[handle]

    def read(self, handle: int, offset: int, buffer: memoryview, /) -> int:
        device, _ = self.opened[handle]
        if offset % SECTOR or len(buffer) % SECTOR:
            self.misaligned += 1
            raise WindowsFault(87)
        end = device.length if device.disk is not None or handle in self.extended else device.length - SECTOR
        count = max(min(len(buffer), end - offset), 0)
        with device.image.open("rb") as file:
            return os.preadv(file.fileno(), [buffer[:count]], device.offset + offset)

    def control(self, handle: int, code: int, given: bytes, room: int, /) -> tuple[bytes, bool]:
        device, name = self.opened[handle]
        more = False
        if code == 0x7405C:
            answer = struct.pack("<q", device.length)
        elif code == 0x700A0:
            answer = struct.pack("<qIIIIq", 1, 12, 255, 63, SECTOR, device.length)
        elif code == 0x70050 and device.disk is not None:
            answer = self.layout
        elif code == 0x2D1400 and given[:4] == b"\x06\0\0\0" and device.disk is not None:
            answer = struct.pack("<7I", 28, 28, 0, 0, SECTOR, 4096, 0)
        elif code == 0x2D1400 and given[:4] == b"\0\0\0\0" and device.disk is not None:
            text = b"QEMU HARDDISK\0S3R14L\0"
            answer = struct.pack("<IIBBBBIIIIII", 40, 36 + len(text), 0, 0, 0, 0, 0, 36, 0, 50, 11, 0)[:36] + text
        elif code == 0x560000 and name + "\\" in self.extents:
            found = self.extents[name + "\\"]
            answer = struct.pack("<I4x", len(found)) + b"".join(struct.pack("<I4xqq", *each) for each in found)
        elif code == 0x90083:
            self.extended.add(handle)
            answer = b""
        elif code == 0x90064 and device.cluster:
            answer = struct.pack("<5q4I", 1, 1, 1, 1, 1, SECTOR, device.cluster, 1024, 0) + bytes(40)
        elif code == 0x9006F and device.cluster:
            first = struct.unpack("<q", given)[0] // 8 * 8
            clusters = device.length // device.cluster - first
            bits = device.bitmap[first // 8 :]
            held = min(len(bits), room - 16, self.piece)
            more = held < len(bits)
            answer = struct.pack("<qq", first, clusters) + bits[:held]
        elif code == 0x90073 and name in device.files:
            runs = device.files[name]
            if not runs:
                raise WindowsFault(38)
            at, body = 0, b""
            for cluster, count in runs:
                at += count
                body += struct.pack("<qq", at, cluster)
            answer = struct.pack("<I4xq", len(runs), 0) + body
        else:
            raise WindowsFault(1)
        if len(answer) > room:
            raise WindowsFault(122)
        return answer, more

    def volumes(self) -> list[str]:
        return list(self.extents)

    def mount_points(self, volume: str, /) -> list[str]:
        return self.points.get(volume, [])

    def process_began(self, pid: int, /) -> int:
        return pid


def gpt_layout(disk: uuid.UUID, parts: list[tuple[int, int]]) -> bytes:
    """DRIVE_LAYOUT_INFORMATION_EX of a GPT disk with partitions ``(offset, length)``."""
    raw = struct.pack("<II", 1, len(parts)) + disk.bytes_le + struct.pack("<qqI4x", 17408, 1 << 30, 128)
    for number, (offset, length) in enumerate(parts, 1):
        entry = struct.pack("<I4xqqIBB2x", 1, offset, length, number, 0, 0)
        raw += entry + bytes(144 - len(entry))
    return raw

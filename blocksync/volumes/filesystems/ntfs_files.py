"""Files of NTFS: folders' indexes and the runs of files' unnamed streams.

After the documentation of the Linux-NTFS project, little-endian. A folder's names stand in ``$INDEX_ROOT`` and,
where they do not fit, in the blocks of ``$INDEX_ALLOCATION`` that it points to. Names of the DOS namespace are
second names of one link and are passed over.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from blocksync.errors import LayoutDamagedError
from blocksync.volumes.files import Entry, Node
from blocksync.volumes.filesystems.ntfs import ATTRIBUTE_LIST, DATA, NAME, Attribute, Ntfs
from blocksync.volumes.reader import Reader

_INDEX_ROOT, _INDEX_ALLOCATION = 0x90, 0xA0
_ROOT_FOLDER = 5
_IN_USE, _IS_FOLDER = 1, 2
_HAS_CHILD, _LAST = 1, 2
_DOS = 2
_RECORD = (1 << 48) - 1
_MOST_BLOCKS = 1 << 20
_FIRST_FILE = 16  # the records before are the filesystem's own


class NtfsFiles:
    """See :class:`~blocksync.volumes.files.Files`."""

    ignores_case = True
    root = _ROOT_FOLDER

    def __init__(self, reader: Reader) -> None:
        self._volume = Ntfs(reader)

    def node(self, number: int) -> Node:
        raw = self._volume.record(number)
        (flags,) = struct.unpack_from("<H", raw, 22)
        if not flags & _IN_USE:
            raise LayoutDamagedError(f"NTFS record {number} is not in use")
        if number < _FIRST_FILE and number != _ROOT_FOLDER:
            return Node(kind="other", links=1, size=0)
        if flags & _IS_FOLDER:
            return Node(kind="folder", links=1, size=0)
        names = {(found[:8], found[66:]) for found in self._names(number) if found[65] != _DOS}
        data = self._volume.attribute(number, DATA)
        return Node(kind="file", links=len(names), size=data.size if data is not None else 0)

    def _names(self, number: int) -> Iterator[bytes]:
        """Every name that the file has, in whichever record."""
        records = {number}
        attributes = self._volume.attributes(number)
        listed = next((found for found in attributes if found.kind == ATTRIBUTE_LIST), None)
        if listed is not None:
            records |= set(self._volume.elsewhere(listed, NAME, ""))
        for record in sorted(records):
            for found in attributes if record == number else self._volume.attributes(record):
                if found.kind == NAME and found.resident is not None and len(found.resident) >= 66:
                    yield found.resident

    def extents(self, number: int) -> Iterator[tuple[int, int]]:
        data = self._volume.attribute(number, DATA)
        if data is None:
            return
        unit = self._volume.boot.cluster_bytes
        for _, count, cluster in data.runs:
            if cluster is not None:
                yield cluster * unit, (cluster + count) * unit

    def entries(self, folder: int) -> Iterator[Entry]:
        root = self._volume.attribute(folder, _INDEX_ROOT, "$I30")
        if root is None or root.resident is None or len(root.resident) < 32:
            raise LayoutDamagedError(f"NTFS folder {folder} has no index")
        blocks = self._volume.attribute(folder, _INDEX_ALLOCATION, "$I30")
        (size,) = struct.unpack_from("<I", root.resident, 8)
        if size < 512 or size > 1 << 20 or size % 512:
            raise LayoutDamagedError(f"NTFS folder {folder}: index blocks of {size} bytes")
        waiting: list[int] = []
        seen: set[int] = set()
        yield from self._index(root.resident[16:], folder, waiting)
        while waiting:
            block = waiting.pop()
            if block in seen or len(seen) >= _MOST_BLOCKS or blocks is None:
                raise LayoutDamagedError(f"the index of NTFS folder {folder} does not end")
            seen.add(block)
            yield from self._index(self._block(blocks, block, size)[24:], folder, waiting)

    def _block(self, blocks: Attribute, number: int, size: int) -> bytes:
        unit = min(self._volume.boot.cluster_bytes, size) if self._volume.boot.cluster_bytes <= size else 512
        raw = self._volume.index_block(self._volume.read(blocks, number * unit, size))
        if struct.unpack_from("<Q", raw, 16)[0] != number:
            raise LayoutDamagedError("a block of an NTFS index belongs elsewhere")
        return raw

    def _index(self, raw: bytes, folder: int, waiting: list[int]) -> Iterator[Entry]:
        """The entries behind an index header; blocks below are put into ``waiting``."""
        at, used = struct.unpack_from("<II", raw)
        end = min(used, len(raw))
        while at + 16 <= end:
            reference, length, key, flags = struct.unpack_from("<QHHH", raw, at)
            if length < 16 or length % 8 or at + length > end or 16 + key > length:
                break
            if flags & _HAS_CHILD:
                waiting.append(struct.unpack_from("<Q", raw, at + length - 8)[0])
            if flags & _LAST:
                return
            if key >= 66 and raw[at + 16 + 65] != _DOS:
                name = raw[at + 16 + 66 : at + 16 + 66 + 2 * raw[at + 16 + 64]]
                text = name.decode("utf-16-le", "surrogatepass")
                if text != ".":
                    yield Entry(text, reference & _RECORD)
            at += length
        raise LayoutDamagedError(f"the index of NTFS folder {folder} does not hold")

    def content(self, number: int, most: int) -> bytes:
        """The first ``most`` bytes of a file."""
        data = self._volume.attribute(number, DATA)
        if data is None:
            return b""
        return self._volume.read(data, 0, min(most, data.size))

"""Exports of NBD servers, and through qemu-nbd qcow2 images, as sources."""

from __future__ import annotations

import os
from collections.abc import Iterator

from blocksync.changes.bitmap import BitmapTracker
from blocksync.errors import BlocksyncError, SourceError
from blocksync.extents import Extent
from blocksync.nbd.address import Address, parse_address
from blocksync.nbd.export import Export
from blocksync.nbd.extents import allocation, knows_extents
from blocksync.nbd.failures import SOURCE_FAILURES
from blocksync.nbd.qemu import QemuServer, check_magic
from blocksync.nbd.wire import ALLOCATION, BITMAP_PREFIX
from blocksync.platforms.dialing import Watching, unwatched
from blocksync.sources.base import Source, SourceCapabilities

SECTOR_BYTES = 512


class NbdSource(Source):
    """An export; read only by what we ask of it, whatever the server would allow.

    Args:
        address: of the export.
        name: what a person calls it.
        identity: None for the address's own.
        server: one of ours to end with the source.
        watching: makes what waits for the server fail.

    Raises:
        SourceError: the server cannot be reached, has no such export, or speaks something else.
    """

    def __init__(
        self,
        address: Address,
        *,
        name: str,
        identity: str | None = None,
        server: QemuServer | None = None,
        watching: Watching = unwatched,
    ) -> None:
        self.name = name
        self._server = server
        self.address = address
        bitmap = (BITMAP_PREFIX + address.bitmap,) if address.bitmap else ()
        self.export = Export(
            address,
            SOURCE_FAILURES,
            contexts=(ALLOCATION, *bitmap),
            listed=BITMAP_PREFIX if address.bitmap else "",
            watching=watching,
        )
        agreed = self.export.agreed
        # The disk's sectors are not told; a server that reads in pages stands on a disk of such sectors.
        self.sector_bytes = 4096 if agreed.least == 4096 else SECTOR_BYTES
        self._bytes = agreed.size
        self.size = -(-agreed.size // SECTOR_BYTES) * SECTOR_BYTES
        self.identity = identity or f"nbd:{address.text}"
        self.capabilities = SourceCapabilities(extents=knows_extents(self.export), direct=False, alignment=1)
        if address.bitmap:
            self.tracker = BitmapTracker(self.export)
        if not self.size:
            self.close()
            raise SourceError(f"the source {name} is empty", remedy="name an export that holds something")

    def extents(self) -> Iterator[Extent]:
        return allocation(self.export, self.size)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        end = offset + len(buffer)
        if offset < 0 or end > self.size:
            raise SourceError(f"a read of [{offset}, {end}) leaves the source {self.name}")
        least = self.export.agreed.least
        filled = min(end, self._bytes) - offset
        if filled > 0 and (offset % least or filled % least):
            start = offset // least * least
            stop = min(-(-(offset + filled) // least) * least, self._bytes)
            room = memoryview(bytearray(stop - start))
            self.export.read(start, room)
            buffer[:filled] = room[offset - start : offset - start + filled]
        elif filled > 0:
            self.export.read(offset, buffer[:filled])
        if filled < len(buffer):
            rest = len(buffer) - max(filled, 0)
            buffer[-rest:] = bytes(rest)

    def check(self) -> None:
        """Nothing to look at: a size is told once a connection, and each new one was compared with the first."""

    def close(self) -> None:
        self.export.close()
        if self._server is not None:
            server, self._server = self._server, None
            server.close()


def open_nbd(text: str, watching: Watching = unwatched) -> NbdSource:
    """Open ``nbd://…`` and its kin for reading."""
    return NbdSource(parse_address(text), name=text, watching=watching)


def open_qcow2(path: str, watching: Watching = unwatched) -> NbdSource:
    """Open a qcow2 image for reading, through a qemu-nbd that ends with the source.

    Raises:
        SourceError: it is no such image, or qemu-nbd is missing or refuses it.
    """
    check_magic(path, SourceError)
    server = QemuServer(path, writable=False, kind=SourceError)
    try:
        identity = f"qcow2:{os.path.realpath(path)}"
        return NbdSource(server.address, name=path, identity=identity, server=server, watching=watching)
    except BlocksyncError as error:
        told = server.explain(error)
        server.stop()
        raise told from error
    except BaseException:
        server.stop()
        raise

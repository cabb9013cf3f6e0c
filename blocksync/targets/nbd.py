"""Exports of NBD servers, and through qemu-nbd qcow2 images, as targets.

Who else uses the disk behind an export, only its server can know: rule 9 is looked after for images that
blocksync itself serves, and otherwise by whoever runs the server.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from blocksync.errors import BlocksyncError, TargetError, TargetRefusedError, TargetSyncError, from_os_error
from blocksync.extents import Extent
from blocksync.nbd import wire
from blocksync.nbd.address import Address, parse_address
from blocksync.nbd.export import Export
from blocksync.nbd.extents import allocation, knows_extents
from blocksync.nbd.failures import TARGET_FAILURES
from blocksync.nbd.qemu import QemuServer, check_magic, create_qcow2
from blocksync.platforms.dialing import Watching, unwatched
from blocksync.targets.base import Target, TargetCapabilities
from blocksync.targets.fitness import refuse_busy, refuse_content, refuse_state_on_target

SECTOR_BYTES = 512
PAGE_BYTES = 4096
_ZEROS = bytes(1 << 20)


class NbdTarget(Target):
    """An export that is written to.

    Args:
        address: of the export.
        name: what a person calls it.
        overwrite: consent to content.
        watching: makes what waits for the server fail.

    Raises:
        TargetRefusedError: it is read-only, not empty, or can make nothing durable.
        TargetError: the server cannot be reached or speaks something else.
    """

    def __init__(
        self,
        address: Address,
        *,
        name: str,
        overwrite: bool,
        fresh: bool = False,
        watching: Watching = unwatched,
    ) -> None:
        self.name = name
        self._watching = watching
        self._address = address
        self.identity = f"nbd:{address.text}"
        self._export: Export | None = None
        export = self._connect()
        agreed = export.agreed
        self.size = agreed.size
        self.sector_bytes = PAGE_BYTES if agreed.least == PAGE_BYTES else SECTOR_BYTES
        self._durably = not agreed.flags & wire.SEND_FLUSH
        self.capabilities = TargetCapabilities(alignment=agreed.least, fresh=fresh, extents=knows_extents(export))
        try:
            self._refuse_unfit(export)
            if not overwrite and not fresh:
                has_data = None
                if knows_extents(export):
                    has_data = any(not extent.reads_as_zeros for extent in self.extents())
                # A server that calls everything allocated is asked for samples, as a device is.
                refuse_content(name, self.size, self.read_into, None if has_data else has_data)
        except BaseException:
            self.close()
            raise

    def _refuse_unfit(self, export: Export) -> None:
        agreed = export.agreed
        if agreed.flags & wire.READ_ONLY:
            raise TargetRefusedError(
                f"the target {self.name} is read-only", remedy="start its server without --read-only"
            )
        if not agreed.flags & (wire.SEND_FLUSH | wire.SEND_FUA):
            raise TargetRefusedError(
                f"the NBD server of {self.name} has neither FLUSH nor FUA: nothing could be called durable",
                remedy="use a server and a plugin that can flush",
            )
        if not self.size or self.size % max(agreed.least, SECTOR_BYTES) or agreed.least > PAGE_BYTES:
            raise TargetRefusedError(
                f"the target {self.name} of {self.size} bytes is written in blocks of {agreed.least} bytes",
                remedy="serve a disk of whole sectors, in blocks of at most 4096 bytes",
            )

    def extents(self) -> Iterator[Extent]:
        return allocation(self._connect(), self.size)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self._check_range(offset, len(buffer))
        start, end = self._widened(offset, len(buffer))
        if (start, end) == (offset, offset + len(buffer)):
            self._connect().read(offset, buffer)
            return
        room = memoryview(bytearray(end - start))
        self._connect().read(start, room)
        buffer[:] = room[offset - start : offset - start + len(buffer)]

    def write(self, offset: int, data: memoryview) -> None:
        self._check_range(offset, len(data))
        start, end = self._widened(offset, len(data))
        if (start, end) != (offset, offset + len(data)):
            room = memoryview(bytearray(end - start))
            self._connect().read(start, room)
            room[offset - start : offset - start + len(data)] = data
            offset, data = start, room
        self._connect().write(offset, data, durably=self._durably)

    def zero(self, offset: int, length: int) -> None:
        self._check_range(offset, length)
        if self._widened(offset, length) == (offset, offset + length) and self._connect().zero(
            offset, length, durably=self._durably
        ):
            return
        zeros = memoryview(_ZEROS)
        while length:
            here = min(length, len(zeros))
            self.write(offset, zeros[:here])
            offset, length = offset + here, length - here

    def sync(self) -> None:
        safe = "nothing is claimed for what was written since the last checkpoint"
        export = self._connect()
        try:
            if not self._durably:
                export.flush()
        except BlocksyncError as error:
            raise TargetSyncError(f"cannot make {self.name} durable: {error.message}", safe=safe) from error
        # What a lost connection carried may have been in the cache of a server that is gone.
        if export.losses:
            raise TargetSyncError(
                f"a connection with the server of {self.name} broke since the last sync", safe=safe
            )

    def reopen(self) -> None:
        # Lazily: a server that is being started again is there for the next session rather than now.
        self._drop()

    def write_mark(self) -> str:
        return ""

    def close(self) -> None:
        self._drop()

    def _drop(self) -> None:
        if self._export is not None:
            export, self._export = self._export, None
            export.close()

    def _connect(self) -> Export:
        if self._export is None:
            export = self._open_export()
            known = getattr(self, "size", export.agreed.size)
            if export.agreed.size != known:
                export.close()
                raise TargetRefusedError(f"the target {self.name} was replaced: its size is another one")
            self._export = export
        return self._export

    def _open_export(self) -> Export:
        return Export(self._address, TARGET_FAILURES, watching=self._watching)

    def _widened(self, offset: int, length: int) -> tuple[int, int]:
        least = self.capabilities.alignment
        return offset // least * least, -(-(offset + length) // least) * least

    def _check_range(self, offset: int, length: int) -> None:
        if offset < 0 or offset + length > self.size:
            raise TargetError(f"[{offset}, {offset + length}) leaves the target {self.name}")


class Qcow2Target(NbdTarget):
    """A qcow2 image, through a qemu-nbd that is ended with the target.

    Args:
        path: of the image.
        overwrite: consent to content.
        create_size: bytes; makes a new image where there is none.
        state_dir: must not lie on it.
        watching: makes what waits for its server fail.
    """

    def __init__(
        self,
        path: str,
        *,
        overwrite: bool,
        create_size: int | None,
        state_dir: Path | None,
        watching: Watching = unwatched,
    ) -> None:
        self._path = os.path.abspath(path)
        self._state_dir = state_dir
        self._server: QemuServer | None = None
        fresh = create_size is not None and not os.path.lexists(path)
        if fresh:
            assert create_size is not None
            create_qcow2(path, create_size)
        super().__init__(
            Address(host="", port=0, socket=self._path, export="", tls=False),
            name=path,
            overwrite=overwrite,
            fresh=fresh,
            watching=watching,
        )
        self.identity = f"qcow2:{os.path.realpath(path)}"
        if create_size is not None and self.size != -(-create_size // SECTOR_BYTES) * SECTOR_BYTES:
            self.close()
            raise TargetRefusedError(
                f"the target {path} exists and has {self.size} bytes, not {create_size}",
                remedy="remove it, choose another name, or leave --create out",
            )

    def _open_export(self) -> Export:
        check_magic(self._path, TargetError)
        try:
            status = os.stat(self._path)
        except OSError as error:
            raise from_os_error(error, TargetError, f"cannot open the target {self.name}") from error
        refuse_state_on_target(self.name, status, self._state_dir)
        refuse_busy(self.name, status)
        server = QemuServer(self._path, writable=True, kind=TargetError)
        try:
            export = Export(server.address, TARGET_FAILURES, watching=self._watching)
        except BlocksyncError as error:
            told = server.explain(error)
            server.stop()
            raise told from error
        except BaseException:
            server.stop()
            raise
        self._server = server
        return export

    def _drop(self) -> None:
        super()._drop()
        if self._server is not None:
            server, self._server = self._server, None
            server.close()


def open_nbd_target(text: str, *, overwrite: bool, watching: Watching = unwatched) -> NbdTarget:
    """Open ``nbd://…`` and its kin for writing."""
    return NbdTarget(parse_address(text), name=text, overwrite=overwrite, watching=watching)

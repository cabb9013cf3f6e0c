"""``pieces:FOLDER``: a disk kept as files of 4 MiB, as one would keep it in an object store.

A target has to keep three promises: a write that returned is seen by the next read; after :meth:`PiecesTarget.sync` all
writes that returned before survive a crash; and it is nobody else's (rule 9 of the design: here, a lock on the folder).
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from blocksync.errors import TargetError, TargetRefusedError, TargetSyncError, from_os_error
from blocksync.extents import Extent, ExtentKind
from blocksync.targets.base import Target, TargetCapabilities

PIECE_BYTES = 4 << 20


class PiecesTarget(Target):
    """A folder with a file ``size`` and pieces that are named by their numbers; what is not there is zeros."""

    def __init__(self, folder: Path, size: int, *, fresh: bool) -> None:
        self.name = f"pieces:{folder}"
        self.identity = f"pieces:{folder.resolve()}:{folder.stat().st_ino}"
        self.size = size
        self.sector_bytes = 512
        self.capabilities = TargetCapabilities(alignment=1, fresh=fresh, extents=True)
        self._folder = folder
        self._lock = threading.Lock()
        self._touched: set[int] = set()
        self._hold = self._held()

    def _held(self) -> int:
        descriptor = os.open(self._folder / "size", os.O_RDWR)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            raise TargetRefusedError(f"{self.name} is being written to by another process") from error
        return descriptor

    def _pieces(self, offset: int, length: int) -> Iterator[tuple[int, int, int]]:
        if offset < 0 or offset + length > self.size:
            raise TargetError(f"[{offset}, {offset + length}) leaves {self.name}")
        while length:
            index, start = divmod(offset, PIECE_BYTES)
            here = min(PIECE_BYTES - start, length)
            yield index, start, here
            offset, length = offset + here, length - here

    def extents(self) -> Iterator[Extent]:
        for offset in range(0, self.size, PIECE_BYTES):
            there = (self._folder / str(offset // PIECE_BYTES)).exists()
            yield Extent(
                offset, min(PIECE_BYTES, self.size - offset), ExtentKind.DATA if there else ExtentKind.HOLE
            )

    def read_into(self, offset: int, buffer: memoryview) -> None:
        at = 0
        for index, start, here in self._pieces(offset, len(buffer)):
            part = buffer[at : at + here]
            part[:] = bytes(here)
            try:
                with open(self._folder / str(index), "rb") as file:
                    file.seek(start)
                    file.readinto(part)
            except FileNotFoundError:
                pass
            except OSError as error:
                raise from_os_error(error, TargetError, f"cannot read {self.name}") from error
            at += here

    def write(self, offset: int, data: memoryview) -> None:
        at = 0
        for index, start, here in self._pieces(offset, len(data)):
            try:
                descriptor = os.open(self._folder / str(index), os.O_WRONLY | os.O_CREAT, 0o600)
                with open(descriptor, "wb", buffering=0) as file:
                    written = 0
                    while written < here:
                        rest = data[at + written : at + here]
                        written += os.pwrite(file.fileno(), rest, start + written)
            except OSError as error:
                raise from_os_error(error, TargetError, f"cannot write {self.name}") from error
            with self._lock:
                self._touched.add(index)
            at += here

    def zero(self, offset: int, length: int) -> None:
        for index, start, here in self._pieces(offset, length):
            if (self._folder / str(index)).exists():
                self.write(index * PIECE_BYTES + start, memoryview(bytes(here)))

    def sync(self) -> None:
        with self._lock:
            touched, self._touched = self._touched, set()
        try:
            for path in [*(self._folder / str(index) for index in touched), self._folder]:
                descriptor = os.open(path, os.O_RDONLY)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
        except OSError as error:
            raise TargetSyncError(f"cannot make {self.name} durable: {error.strerror}") from error

    def reopen(self) -> None:
        self.close()
        self._hold = self._held()

    def write_mark(self) -> str:
        """Nobody else is expected here: no way to tell foreign writes."""
        return ""

    def close(self) -> None:
        if self._hold >= 0:
            descriptor, self._hold = self._hold, -1
            os.close(descriptor)


def open_target(text: str, *, create_size: int | None, overwrite: bool, state_dir: Path | None) -> Target:
    """What the entry point names: gets what was typed and the consents of ``blocksync recv``."""
    del state_dir  # a folder beside others: the state never lies in it
    folder = Path(text.partition(":")[2])
    mark = folder / "size"
    fresh = not mark.exists()
    try:
        if fresh:
            if create_size is None:
                raise TargetRefusedError(f"{text} is not there", remedy="give it a size with --create SIZE")
            folder.mkdir(parents=True, exist_ok=True)
            if any(folder.iterdir()):
                raise TargetRefusedError(f"{folder} is not empty", remedy="name another folder")
            mark.write_text(str(create_size))
        elif not overwrite and len(list(folder.iterdir())) > 1:
            raise TargetRefusedError(f"{text} is not empty", remedy=f"consent by name: --overwrite {text}")
        size = int(mark.read_text())
    except (OSError, ValueError) as error:
        if isinstance(error, OSError):
            raise from_os_error(error, TargetError, f"cannot use {text}") from error
        raise TargetError(f"{mark} does not hold a size") from error
    return PiecesTarget(folder, size, fresh=fresh)

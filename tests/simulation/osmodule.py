"""A simulated operating system's files: a page cache over a disk that loses, fails, lies and runs full.

A :class:`Disk` has names and inodes, each in two states: as the page cache shows them and as they durably are. A power
cut keeps any subset of the sectors that were not synced, and of the names. A sync that fails leaves what it should have
written clean in the cache and not on the disk, as Linux does: a second sync succeeds and proves nothing.
"""

from __future__ import annotations

import errno
import os as real_os
import random
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

from tests.simulation import clockwork

SECTOR = 512
EVICTED = 0.5


class Inode:
    """A file's bytes, cached and durable."""

    def __init__(self, number: int, content: bytes = b"", sector: int = SECTOR) -> None:
        self.number = number
        self.sector = sector
        self.content = bytearray(content)
        self.durable = bytearray(content)
        self.dirty: set[int] = set()
        self.lost = False
        """Whether there may be sectors that are clean in the cache and not on the disk."""
        self.modified = 0
        self.holder: clockwork.Process | None = None

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        end = offset + len(data)
        if len(self.content) < end:
            self.content.extend(bytes(end - len(self.content)))
        self.content[offset:end] = data
        self.dirty.update(range(offset // self.sector, (end - 1) // self.sector + 1))

    def cut(self, size: int) -> None:
        if size < len(self.content):
            del self.content[size:]
            # A cut that is not durable yet only brings bytes back that checksums refuse; simulated as durable.
            del self.durable[size:]
        else:
            self.content.extend(bytes(size - len(self.content)))
        self.dirty = {index for index in self.dirty if index * self.sector < size}

    def sync(self, sectors: set[int] | None = None) -> None:
        """Write dirty sectors (or those of them that are named) to the disk."""
        if sectors is None and not self.lost:
            self.durable[:] = self.content
            self.dirty.clear()
            return
        sectors = set(self.dirty) if sectors is None else sectors
        for index in sorted(sectors):
            at = index * self.sector
            piece = self.content[at : at + self.sector]
            if len(self.durable) < at:
                self.durable.extend(bytes(at - len(self.durable)))
            self.durable[at : at + len(piece)] = piece
        self.dirty -= sectors

    def lose(self, chance: random.Random) -> None:
        """A sync fails: some sectors reach the disk, the others are clean and not on it, and may be evicted."""
        lost = {index for index in self.dirty if chance.random() < 0.7}
        self.sync(self.dirty - lost)
        self.dirty -= lost
        self.lost = True
        if chance.random() < EVICTED:
            self.evict(lost)

    def evict(self, sectors: set[int]) -> None:
        for index in sectors - self.dirty:
            at = index * self.sector
            end = min(at + self.sector, len(self.content))
            self.content[at:end] = self.durable[at:end].ljust(end - at, b"\0")


class Disk:
    """Files of one machine.

    Args:
        name: of the machine; paths begin with it.
        on_operation: told of each operation before it happens; returns how it goes wrong, or nothing.
    """

    def __init__(self, name: str, on_operation: Callable[[Disk, str, Inode | None], str]) -> None:
        self.name = name
        self.names: dict[str, Inode] = {}
        self.durable_names: dict[str, Inode] = {}
        self.on_operation = on_operation
        self.sector = SECTOR
        """Of new files."""
        self._numbers = 0

    def make(self, path: str, content: bytes, sector: int = SECTOR) -> Inode:
        """A file that was there before."""
        self._numbers += 1
        inode = Inode(self._numbers, content, sector)
        self.names[path] = self.durable_names[path] = inode
        return inode

    def create(self, path: str) -> Inode:
        self._numbers += 1
        inode = self.names[path] = Inode(self._numbers, sector=self.sector)
        return inode

    def sync_names(self, folder: str) -> None:
        inside = folder.rstrip("/") + "/"
        for path in [*self.names, *self.durable_names]:
            if not path.startswith(inside):
                continue
            if path in self.names:
                self.durable_names[path] = self.names[path]
            else:
                self.durable_names.pop(path, None)

    def power_cut(self, chance: random.Random) -> None:
        """What was not synced survives in any subset."""
        keep = chance.choice((0.0, 0.5, 1.0, chance.random()))
        names: dict[str, Inode] = {}
        for path in sorted({*self.names, *self.durable_names}):
            old, new = self.durable_names.get(path), self.names.get(path)
            survivor = new if old is not new and chance.random() < keep else old
            if survivor is not None:
                names[path] = survivor
        for path, inode in tuple(names.items()):
            # A rename is atomic: where the new name survived, the old one is gone.
            if any(other is inode and path != name for name, other in names.items()) and path not in self.names:
                del names[path]
        for inode in {id(inode): inode for inode in (*self.names.values(), *names.values())}.values():
            inode.sync({index for index in sorted(inode.dirty) if chance.random() < keep})
            inode.dirty.clear()
            inode.content[:] = inode.durable
            inode.lost = False
            inode.holder = None
            inode.modified += chance.choice((0, 1))
        self.names = names
        self.durable_names = dict(names)

    def release(self, process: clockwork.Process) -> None:
        for inode in self.names.values():
            if inode.holder is process:
                inode.holder = None


class MachineProcess(clockwork.Process):
    """A process of a machine with a disk."""

    def __init__(self, name: str, disk: Disk) -> None:
        super().__init__(name)
        self.disk = disk
        self.files: dict[int, tuple[str, Inode]] = {}
        self._next = 3
        self.on_death.append(lambda _machine_too: disk.release(self))

    def take(self, path: str, inode: Inode) -> int:
        self._next += 1
        self.files[self._next] = (path, inode)
        return self._next


class SimPath:
    """As much of :class:`pathlib.Path` as a state folder needs."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __fspath__(self) -> str:
        return self._text

    def __str__(self) -> str:
        return self._text

    def __truediv__(self, name: str) -> SimPath:
        return SimPath(f"{self._text}/{name}")

    @property
    def parent(self) -> SimPath:
        return SimPath(self._text.rpartition("/")[0])

    def mkdir(self, **_: object) -> None:
        pass

    def exists(self) -> bool:
        return self._text in _process().disk.names

    def unlink(self, *, missing_ok: bool = False) -> None:
        _before("remove")
        if _process().disk.names.pop(self._text, None) is None and not missing_ok:
            raise FileNotFoundError(errno.ENOENT, "no such file", self._text)


def _process() -> MachineProcess:
    task = clockwork.world().current
    assert task is not None
    process = task.process
    assert isinstance(process, MachineProcess)
    return process


def _before(operation: str, inode: Inode | None = None) -> str:
    """Announce an operation; raises how it fails, returns what else goes wrong with it."""
    process = _process()
    if process.dead:
        raise clockwork.KilledError
    how = process.disk.on_operation(process.disk, operation, inode)
    if how in _ERRORS:
        raise OSError(_ERRORS[how], real_os.strerror(_ERRORS[how]))
    return how


_ERRORS = {"EIO": errno.EIO, "ENOSPC": errno.ENOSPC}


class _Os:
    """What the two modules call of ``os``; the rest is the real one's."""

    def __getattr__(self, name: str) -> Any:
        return getattr(real_os, name)

    def open(self, path: Any, flags: int, mode: int = 0o777) -> int:
        text = real_os.fspath(path)
        process = _process()
        inode = process.disk.names.get(text)
        _before("create" if inode is None and flags & real_os.O_CREAT else "open")
        if inode is None:
            if not flags & real_os.O_CREAT:
                raise FileNotFoundError(errno.ENOENT, "no such file", text)
            inode = process.disk.create(text)
        elif flags & real_os.O_TRUNC:
            inode.cut(0)
        return process.take(text, inode)

    def close(self, descriptor: int) -> None:
        process = _process()
        _, inode = process.files.pop(descriptor)
        if inode.holder is process and all(other is not inode for _, other in process.files.values()):
            inode.holder = None

    def pread(self, descriptor: int, length: int, offset: int) -> bytes:
        inode = self._inode(descriptor)
        how = _before("read", inode)
        if how == "short" and length > 1:
            length = _shorter(length)
        return bytes(inode.content[offset : offset + length])

    def preadv(self, descriptor: int, buffers: list[memoryview], offset: int) -> int:
        data = self.pread(descriptor, len(buffers[0]), offset)
        buffers[0][: len(data)] = data
        return len(data)

    def pwrite(self, descriptor: int, data: bytes | bytearray | memoryview, offset: int) -> int:
        inode = self._inode(descriptor)
        how = _before("write", inode)
        if how == "short" and len(data) > 1:
            data = memoryview(data)[: _shorter(len(data))]
        if how == "half":  # a part is written and the error comes all the same
            inode.write(offset, memoryview(data)[: len(data) // 2])
            raise OSError(errno.EIO, "input/output error")
        inode.write(offset, data)
        inode.modified += 1
        return len(data)

    def write(self, descriptor: int, data: bytes) -> int:
        self._inode(descriptor).write(0, data)
        return len(data)

    def ftruncate(self, descriptor: int, size: int) -> None:
        inode = self._inode(descriptor)
        _before("truncate", inode)
        inode.cut(size)

    def fdatasync(self, descriptor: int) -> None:
        inode = self._inode(descriptor)
        how = _before("sync", inode)
        if how == "lost":
            inode.lose(clockwork.world().chance)
            raise OSError(errno.EIO, "input/output error")
        if how == "lied":
            inode.dirty.clear()
            inode.lost = True
            return
        inode.sync()

    fsync = fdatasync

    def fstat(self, descriptor: int) -> SimpleNamespace:
        inode = self._inode(descriptor)
        return SimpleNamespace(
            st_size=len(inode.content),
            st_dev=1,
            st_ino=inode.number,
            st_rdev=0,
            st_mode=0o100600,
            st_mtime_ns=inode.modified,
        )

    def replace(self, temporary: Any, name: Any) -> None:
        _before("rename")
        names = _process().disk.names
        names[real_os.fspath(name)] = names.pop(real_os.fspath(temporary))

    def listdir(self, path: Any) -> list[str]:
        inside = real_os.fspath(path).rstrip("/") + "/"
        return sorted(name[len(inside) :] for name in _process().disk.names if name.startswith(inside))

    def getpid(self) -> int:
        return 1

    def _inode(self, descriptor: int) -> Inode:
        process = _process()
        if process.dead:
            raise clockwork.KilledError
        found = process.files.get(descriptor)
        if found is None:
            raise OSError(errno.EBADF, "bad file descriptor")
        return found[1]


os = _Os()


def _shorter(length: int) -> int:
    return clockwork.world().chance.randrange(1, length)


# -- what ``platforms`` has ------------------------------------------------------------------------------------------


def hold_file(descriptor: int) -> bool:
    process = _process()
    inode = os._inode(descriptor)
    if inode.holder is not None and inode.holder is not process:
        return False
    inode.holder = process
    return True


def sync_folder(path: Any) -> None:
    _before("sync folder")
    _process().disk.sync_names(real_os.fspath(path))


def punch(descriptor: int, offset: int, length: int) -> bool:
    inode = os._inode(descriptor)
    _before("punch", inode)
    inode.write(offset, bytes(length))
    inode.modified += 1
    return True


def write_zeros(descriptor: int, offset: int, length: int) -> bool:
    return punch(descriptor, offset, length)


def drop_cached(descriptor: int, offset: int, length: int) -> None:
    inode = os._inode(descriptor)
    inode.evict(set(range(offset // inode.sector, -(-(offset + length) // inode.sector))))


def allocated_from(descriptor: int, offset: int) -> tuple[int, int] | None:
    size = len(os._inode(descriptor).content)
    return (offset, size) if offset < size else None


def nothing(*_: object) -> Iterator[Any]:
    """No swaps, mounts or loop devices over a simulated disk."""
    return iter(())

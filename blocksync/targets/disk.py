"""Image files and block devices as targets.

Both go through the page cache: a window's writes are handed over at once and made durable by one ``fdatasync``,
which is what the order of claims is built on. Devices are opened with O_EXCL, which the kernel refuses where
something is mounted or stacked; files are locked, so that two of ours cannot write one image.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from blocksync.errors import TargetError, TargetRefusedError, TargetSyncError, from_os_error
from blocksync.extents import Extent, ExtentKind
from blocksync.platforms import (
    allocated_from,
    device_facts,
    drop_cached,
    hold_file,
    punch,
    sync_folder,
    write_zeros,
)
from blocksync.platforms.automation import HeldBack
from blocksync.targets.base import Target, TargetCapabilities
from blocksync.targets.fitness import refuse_busy, refuse_content, refuse_state_on_target
from blocksync.targets.opener import OpenAgain

SECTOR_BYTES = 512
ZERO_PIECE = bytes(1 << 20)
# A scratch file may take a quarter of what is free.
SCRATCH_SHARE = 4


def create_image(path: str, size: int) -> None:
    """Make a new sparse file of ``size`` bytes, durably; nothing is left of one that cannot be made."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o600)
        try:
            # More than an offset holds is refused by the system as the largest one is.
            os.ftruncate(descriptor, min(size, (1 << 63) - 1))
            os.fsync(descriptor)
        except OSError:
            # Windows removes no file that is open, and has the next try find it, as it would after a kill.
            with contextlib.suppress(OSError):
                os.unlink(path)
            raise
        finally:
            os.close(descriptor)
        sync_folder(Path(path).absolute().parent)
    except OSError as error:
        raise from_os_error(error, TargetError, f"cannot create the target {path}") from error


class _DescriptorTarget(Target):
    """What files and devices have in common: everything but opening, zeroing and extents."""

    _descriptor = -1
    _path = ""
    _again: OpenAgain | None = None
    _turn: AbstractContextManager[object] = nullcontext()

    def descriptor(self) -> int | None:
        return self._descriptor

    def reopen_through(self, again: OpenAgain) -> None:
        self._again = again

    def _open_path(self, flags: int) -> int:
        flags |= getattr(os, "O_CLOEXEC", 0)
        return os.open(self._path, flags) if self._again is None else self._again(flags)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self._check_range(offset, len(buffer))
        filled = 0
        try:
            while filled < len(buffer):
                count = os.preadv(self._descriptor, [buffer[filled:]], offset + filled)
                if not count:
                    raise TargetError(f"the target {self.name} ends at {offset + filled}")
                filled += count
        except OSError as error:
            raise from_os_error(
                error, TargetError, f"cannot read {self.name} at offset {offset + filled}"
            ) from error

    def write(self, offset: int, data: memoryview) -> None:
        self._check_range(offset, len(data))
        written = 0
        try:
            with self._turn:
                while written < len(data):
                    written += os.pwrite(self._descriptor, data[written:], offset + written)
        except OSError as error:
            raise from_os_error(
                error,
                TargetError,
                f"cannot write {self.name} at offset {offset + written}",
                safe="what was acknowledged is durable; nothing is claimed for the rest",
            ) from error

    def sync(self) -> None:
        try:
            os.fdatasync(self._descriptor) if hasattr(os, "fdatasync") else os.fsync(self._descriptor)
        except OSError as error:
            raise TargetSyncError(
                f"cannot make {self.name} durable: {error.strerror}",
                safe="nothing is claimed for what was written since the last checkpoint",
            ) from error

    def drop_cached(self, offset: int, length: int) -> None:
        drop_cached(self._descriptor, offset, length)

    def close(self) -> None:
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)

    def _check_range(self, offset: int, length: int) -> None:
        if offset < 0 or offset + length > self.size:
            raise TargetError(f"[{offset}, {offset + length}) leaves the target {self.name} of {self.size} bytes")

    def _write_zeros(self, offset: int, length: int) -> None:
        zeros = memoryview(ZERO_PIECE)
        while length:
            here = min(length, len(zeros))
            self.write(offset, zeros[:here])
            offset, length = offset + here, length - here


class FileTarget(_DescriptorTarget):
    """An image file; zeros are holes where the filesystem can punch them.

    Args:
        path: of an existing file.
        overwrite: consent to content.
        fresh: it was just created.
        state_dir: must not lie on it.
        grow_to: bytes; an empty file is extended to this.
    """

    def __init__(
        self, path: str, *, overwrite: bool, fresh: bool, state_dir: Path | None, grow_to: int | None = None
    ) -> None:
        self.name = path
        self._path = os.path.abspath(path)
        self.sector_bytes = SECTOR_BYTES
        self._state_dir = state_dir
        # The kernel lets one write at a time into a file, and those who wait for that spin: here they sleep.
        self._turn = threading.Lock()
        self._open()
        try:
            status = os.fstat(self._descriptor)
            if grow_to is not None and status.st_size < grow_to:
                if status.st_size and not overwrite:
                    raise TargetRefusedError(
                        f"the target {path} exists and has {status.st_size} bytes, not {grow_to}",
                        remedy="remove it, choose another name, or leave --create out",
                    )
                os.ftruncate(self._descriptor, grow_to)
                status = os.fstat(self._descriptor)
            self.size = status.st_size
            self.identity = f"file:{os.path.realpath(path)}:{status.st_dev}:{status.st_ino}"
            if not self.size:
                raise TargetRefusedError(f"the target {path} has no size", remedy="give it one with --create SIZE")
            if not overwrite and not fresh:
                refuse_content(path, self.size, self.read_into, self._has_data())
        except OSError as error:
            self.close()
            raise from_os_error(error, TargetError, f"cannot use the target {path}") from error
        except BaseException:
            self.close()
            raise
        self.capabilities = TargetCapabilities(alignment=1, fresh=fresh, extents=True)

    def _open(self) -> None:
        try:
            self._descriptor = self._open_path(os.O_RDWR)
        except OSError as error:
            raise from_os_error(error, TargetError, f"cannot open the target {self.name}") from error
        try:
            if not hold_file(self._descriptor):
                raise TargetRefusedError(f"the target {self.name} is being written to by another process")
            status = os.fstat(self._descriptor)
            refuse_state_on_target(self.name, status, self._state_dir)
            refuse_busy(self.name, status)
        except OSError as error:
            self.close()
            raise from_os_error(error, TargetError, f"cannot use the target {self.name}") from error
        except BaseException:
            self.close()
            raise

    def _has_data(self) -> bool | None:
        try:
            return allocated_from(self._descriptor, 0) is not None
        except OSError:
            return None

    def extents(self) -> Iterator[Extent]:
        return self.extents_within(0, self.size)

    def extents_within(self, first: int, stop: int) -> Iterator[Extent]:
        at = first
        while at < stop:
            try:
                found = allocated_from(self._descriptor, at)
            except OSError:
                yield Extent(at, stop - at)
                return
            start, end = found if found is not None else (stop, stop)
            start, end = min(start, stop), min(end, stop)
            if start > at:
                yield Extent(at, start - at, ExtentKind.HOLE)
            if end > start:
                yield Extent(start, end - start)
            at = max(start, end)

    def zero(self, offset: int, length: int) -> None:
        self._check_range(offset, length)
        try:
            if punch(self._descriptor, offset, length):
                return
        except OSError as error:
            raise from_os_error(error, TargetError, f"cannot zero {self.name} at offset {offset}") from error
        self._write_zeros(offset, length)

    def scratch(self, size: int) -> Target | None:
        folder = os.path.dirname(os.path.realpath(self._path))
        path = os.path.join(folder, f".blocksync-scratch-{secrets.token_hex(8)}")
        try:
            if shutil.disk_usage(folder).free < size * SCRATCH_SHARE:
                return None
            create_image(path, size)
        except (OSError, TargetError):
            return None
        try:
            return FileTarget(path, overwrite=False, fresh=True, state_dir=None)
        except TargetError:
            return None
        finally:
            # From here on it has no name: whatever ends this process ends the file.
            os.unlink(path)

    def reopen(self) -> None:
        identity = self.identity
        self.close()
        self._open()
        status = os.fstat(self._descriptor)
        now = f"file:{os.path.realpath(self._path)}:{status.st_dev}:{status.st_ino}"
        if now != identity or status.st_size < self.size:
            self.close()
            raise TargetRefusedError(f"the target {self.name} was replaced while it was being written to")

    def twin(self) -> Target:
        return _FileTwin(self, self._path)

    def write_mark(self) -> str:
        try:
            status = os.fstat(self._descriptor)
        except OSError:
            return ""
        return f"{status.st_dev}:{status.st_ino}:{status.st_size}:{status.st_mtime_ns}"


class DeviceTarget(_DescriptorTarget):
    """A block device.

    Args:
        path: of the device.
        overwrite: consent to content.
        state_dir: must not lie on it.
    """

    def __init__(self, path: str, *, overwrite: bool, state_dir: Path | None) -> None:
        self.name = path
        self._path = os.path.abspath(path)
        self._state_dir = state_dir
        self._held_back: HeldBack | None = None
        self._open()
        try:
            if not overwrite:
                refuse_content(path, self.size, self.read_into, None)
        except BaseException:
            self.close()
            raise
        self.capabilities = TargetCapabilities(alignment=1, fresh=False, extents=False)
        self._held_back = HeldBack(os.fstat(self._descriptor).st_rdev)

    def _open(self) -> None:
        try:
            before = os.stat(self._path)
            refuse_busy(self.name, before)
            self._descriptor = self._open_path(os.O_RDWR | os.O_EXCL)
        except OSError as error:
            raise from_os_error(error, TargetRefusedError, f"cannot open the target {self.name}") from error
        try:
            status = os.fstat(self._descriptor)
            facts = device_facts(self._descriptor)
            if facts.read_only:
                raise TargetRefusedError(f"the target {self.name} is read-only")
            if status.st_rdev != before.st_rdev:
                raise TargetRefusedError(f"the target {self.name} was replaced while it was opened")
            # Again on the descriptor: what was mounted between the look and the open is seen now.
            refuse_busy(self.name, status)
            refuse_state_on_target(self.name, status, self._state_dir)
        except OSError as error:
            self.close()
            raise from_os_error(error, TargetError, f"cannot use the target {self.name}") from error
        except BaseException:
            self.close()
            raise
        self.size, self.sector_bytes, self.identity = facts.size, facts.sector_bytes, facts.identity

    def close(self) -> None:
        super().close()
        if self._held_back is not None:
            self._held_back.close()

    def extents(self) -> Iterator[Extent]:
        yield Extent(0, self.size)

    def zero(self, offset: int, length: int) -> None:
        self._check_range(offset, length)
        try:
            if write_zeros(self._descriptor, offset, length):
                return
        except OSError as error:
            raise from_os_error(error, TargetError, f"cannot zero {self.name} at offset {offset}") from error
        self._write_zeros(offset, length)

    def reopen(self) -> None:
        size, identity = self.size, self.identity
        super().close()  # the rule stands on: the content is not finished
        self._open()
        if (self.size, self.identity) != (size, identity):
            self.close()
            raise TargetRefusedError(f"the target {self.name} was replaced while it was being written to")

    def twin(self) -> Target:
        return _DeviceTwin(self, self._path)

    def write_mark(self) -> str:
        try:
            return device_facts(self._descriptor).mark
        except OSError:
            return ""


class _FileTwin(FileTarget):
    """An image file that another target of ours holds."""

    def __init__(self, held: FileTarget, path: str) -> None:
        self.name, self._path, self.size = held.name, path, held.size
        self.sector_bytes, self.identity, self.capabilities = held.sector_bytes, held.identity, held.capabilities
        self._turn = held._turn  # noqa: SLF001 - of the same class
        self._open()
        status = os.fstat(self._descriptor)
        if f"file:{os.path.realpath(self._path)}:{status.st_dev}:{status.st_ino}" != self.identity:
            self.close()
            raise TargetRefusedError(f"the target {self.name} was replaced while it was being written to")

    def _open(self) -> None:
        try:
            self._descriptor = os.open(self._path, os.O_RDWR | getattr(os, "O_CLOEXEC", 0))
        except OSError as error:
            raise from_os_error(error, TargetError, f"cannot open the target {self.name}") from error


class _DeviceTwin(DeviceTarget):
    """A device that another target of ours holds; opened without O_EXCL, which that one has."""

    def __init__(self, held: DeviceTarget, path: str) -> None:
        self.name, self._path, self.size = held.name, path, held.size
        self.sector_bytes, self.identity, self.capabilities = held.sector_bytes, held.identity, held.capabilities
        self._held_back = None  # the one that holds it keeps udev off
        self._open()

    def _open(self) -> None:
        try:
            self._descriptor = os.open(self._path, os.O_RDWR | getattr(os, "O_CLOEXEC", 0))
        except OSError as error:
            raise from_os_error(error, TargetError, f"cannot open the target {self.name}") from error
        try:
            facts = device_facts(self._descriptor)
        except OSError as error:
            self.close()
            raise from_os_error(error, TargetError, f"cannot use the target {self.name}") from error
        if facts.identity != self.identity:
            self.close()
            raise TargetRefusedError(f"the target {self.name} was replaced while it was being written to")

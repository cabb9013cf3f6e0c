"""The one door to durable state: all that manifests and journals read and write goes through a :class:`Folder`.

It exists so that tests can put a simulated disk in the place of the real one: a cache that loses any subset of what
was not synced, renames that did not reach the disk, IO that fails at the N-th call.
"""

from __future__ import annotations

import abc
import os
from pathlib import Path
from types import TracebackType

from typing_extensions import Self

from blocksync.errors import StateBusyError, StateError, from_os_error
from blocksync.platforms import hold_file, sync_folder
from blocksync.platforms.positioned import pread, pwrite
from blocksync.platforms.privileges import keep_owner

HOLD_FILE = "hold"
# In a folder that an unprivileged receiver owns, root must not follow what that one may have put there.
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)


class DurableFile(abc.ABC):
    """An open file of a folder. All errors are :class:`~blocksync.errors.StateError`."""

    @abc.abstractmethod
    def pread(self, offset: int, length: int) -> bytes:
        """Up to ``length`` bytes; fewer only at the end of the file."""

    @abc.abstractmethod
    def pwrite(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Write all of ``data``; durable only after :meth:`sync`."""

    @abc.abstractmethod
    def size(self) -> int: ...

    @abc.abstractmethod
    def truncate(self, size: int) -> None: ...

    @abc.abstractmethod
    def sync(self) -> None:
        """Make all completed writes durable. After a failure the descriptor must not be used again (rule 3)."""

    @abc.abstractmethod
    def close(self) -> None: ...


class Folder(abc.ABC):
    """A place for the durable files of one slot or one copy."""

    @abc.abstractmethod
    def open(self, name: str, *, create: bool = False) -> DurableFile:
        """Open a file for reading and writing; ``create`` makes it anew, empty."""

    @abc.abstractmethod
    def exists(self, name: str) -> bool: ...

    @abc.abstractmethod
    def list(self) -> list[str]: ...

    @abc.abstractmethod
    def remove(self, name: str) -> None: ...

    @abc.abstractmethod
    def replace(self, temporary: str, name: str) -> None:
        """Rename over ``name``; durable only after :meth:`sync`."""

    @abc.abstractmethod
    def sync(self) -> None:
        """Make creations, removals and renames durable."""

    @abc.abstractmethod
    def close(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class OsFile(DurableFile):
    """A file of the operating system's."""

    def __init__(self, path: Path, *, create: bool) -> None:
        self._path = path
        flags = os.O_RDWR | getattr(os, "O_CLOEXEC", 0) | _NO_LINK | (os.O_CREAT | os.O_TRUNC if create else 0)
        try:
            self._descriptor = os.open(path, flags, 0o600)
            if create:
                keep_owner(self._descriptor, path.parent)
        except OSError as error:
            raise from_os_error(error, StateError, f"cannot open {path}") from error

    def pread(self, offset: int, length: int) -> bytes:
        parts = []
        try:
            while length:
                part = pread(self._descriptor, length, offset)
                if not part:
                    break
                parts.append(part)
                offset, length = offset + len(part), length - len(part)
        except OSError as error:
            raise from_os_error(error, StateError, f"cannot read {self._path}") from error
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def pwrite(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        view = memoryview(data)
        try:
            while view:
                count = pwrite(self._descriptor, view, offset)
                offset, view = offset + count, view[count:]
        except OSError as error:
            raise from_os_error(error, StateError, f"cannot write {self._path}") from error

    def size(self) -> int:
        try:
            return os.fstat(self._descriptor).st_size
        except OSError as error:
            raise from_os_error(error, StateError, f"cannot look at {self._path}") from error

    def truncate(self, size: int) -> None:
        try:
            os.ftruncate(self._descriptor, size)
        except OSError as error:
            raise from_os_error(error, StateError, f"cannot cut {self._path}") from error

    def sync(self) -> None:
        try:
            os.fdatasync(self._descriptor) if hasattr(os, "fdatasync") else os.fsync(self._descriptor)
        except OSError as error:
            raise from_os_error(error, StateError, f"cannot make {self._path} durable") from error

    def close(self) -> None:
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)


class OsFolder(Folder):
    """A folder of the operating system's, mode 0700, held by one process at a time.

    Raises:
        StateBusyError: another process holds it; the message names it.
        StateError: it cannot be made or used.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._hold = os.open(
                path / HOLD_FILE, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | _NO_LINK, 0o600
            )
        except OSError as error:
            raise from_os_error(error, StateError, f"cannot use the state folder {path}") from error
        try:
            if not hold_file(self._hold):
                holder = (
                    os.pread(self._hold, 20, 0).decode("ascii", "replace").strip() if hasattr(os, "pread") else "?"
                )
                raise StateBusyError(f"{path} is held by another process (pid {holder or 'unknown'})")
            keep_owner(self._hold, path)
            os.ftruncate(self._hold, 0)
            os.write(self._hold, str(os.getpid()).encode())
        except OSError as error:
            os.close(self._hold)
            raise from_os_error(error, StateError, f"cannot hold the state folder {path}") from error
        except BaseException:
            os.close(self._hold)
            raise

    def open(self, name: str, *, create: bool = False) -> DurableFile:
        return OsFile(self._path / name, create=create)

    def exists(self, name: str) -> bool:
        return (self._path / name).exists()

    def list(self) -> list[str]:
        try:
            return sorted(name for name in os.listdir(self._path) if name != HOLD_FILE)
        except OSError as error:
            raise from_os_error(error, StateError, f"cannot list {self._path}") from error

    def remove(self, name: str) -> None:
        try:
            (self._path / name).unlink(missing_ok=True)
        except OSError as error:
            raise from_os_error(error, StateError, f"cannot remove {self._path / name}") from error

    def replace(self, temporary: str, name: str) -> None:
        try:
            os.replace(self._path / temporary, self._path / name)
        except OSError as error:
            raise from_os_error(error, StateError, f"cannot replace {self._path / name}") from error

    def sync(self) -> None:
        try:
            sync_folder(self._path)
        except OSError as error:
            raise from_os_error(error, StateError, f"cannot make {self._path} durable") from error

    def close(self) -> None:
        if self._hold >= 0:
            descriptor, self._hold = self._hold, -1
            os.close(descriptor)

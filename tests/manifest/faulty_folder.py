"""A state folder whose disk fails on purpose."""

from __future__ import annotations

from pathlib import Path

from blocksync.errors import StateError
from blocksync.manifest.folder import DurableFile, Folder, OsFile, OsFolder


class FaultyFile(DurableFile):
    """Args: folder: says what fails; file: the real one; name: of the file."""

    def __init__(self, folder: FaultyFolder, file: OsFile, name: str) -> None:
        self._folder, self._file, self._name = folder, file, name

    def pread(self, offset: int, length: int) -> bytes:
        self._folder.may("read", self._name)
        return self._file.pread(offset, length)

    def pwrite(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        self._folder.may("write", self._name)
        self._file.pwrite(offset, data)

    def size(self) -> int:
        return self._file.size()

    def truncate(self, size: int) -> None:
        self._file.truncate(size)

    def sync(self) -> None:
        self._folder.may("sync", self._name)
        self._file.sync()

    def close(self) -> None:
        self._file.close()


class FaultyFolder(Folder):
    """Args: path: of a real folder. ``failing`` holds ``(operation, file name)`` of what fails now."""

    def __init__(self, path: Path) -> None:
        self._folder = OsFolder(path)
        self._path = path
        self.failing: set[tuple[str, str]] = set()

    def may(self, operation: str, name: str) -> None:
        if (operation, name) in self.failing:
            raise StateError(f"simulated: cannot {operation} {name}")

    def open(self, name: str, *, create: bool = False) -> DurableFile:
        self.may("create" if create else "open", name)
        return FaultyFile(self, OsFile(self._path / name, create=create), name)

    def exists(self, name: str) -> bool:
        return self._folder.exists(name)

    def list(self) -> list[str]:
        return self._folder.list()

    def remove(self, name: str) -> None:
        self.may("remove", name)
        self._folder.remove(name)

    def replace(self, temporary: str, name: str) -> None:
        self.may("replace", name)
        self._folder.replace(temporary, name)

    def sync(self) -> None:
        self._folder.sync()

    def close(self) -> None:
        self._folder.close()

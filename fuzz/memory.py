"""A state folder in memory."""

from __future__ import annotations

from blocksync.errors import StateError
from blocksync.manifest.folder import DurableFile, Folder

# A parser that asks for more than a state of these sizes can need has trusted a length.
MOST_BYTES = 64 << 20


class MemoryFile(DurableFile):
    def __init__(self, content: bytearray) -> None:
        self._content = content

    def pread(self, offset: int, length: int) -> bytes:
        assert 0 <= length <= MOST_BYTES, f"{length} bytes are asked for at once"
        assert 0 <= offset < 1 << 63, f"no file has an offset of {offset}"
        return bytes(self._content[offset : offset + length])

    def pwrite(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        assert offset + len(data) <= MOST_BYTES, f"a write at {offset}"
        if len(self._content) < offset:
            self._content.extend(bytes(offset - len(self._content)))
        self._content[offset : offset + len(data)] = data

    def size(self) -> int:
        return len(self._content)

    def truncate(self, size: int) -> None:
        assert size <= MOST_BYTES
        del self._content[size:]
        self._content.extend(bytes(size - len(self._content)))

    def sync(self) -> None: ...

    def close(self) -> None: ...


class MemoryFolder(Folder):
    def __init__(self, files: dict[str, bytes] | None = None) -> None:
        self.files = {name: bytearray(content) for name, content in (files or {}).items()}

    def open(self, name: str, *, create: bool = False) -> DurableFile:
        if create:
            self.files[name] = bytearray()
        if name not in self.files:
            raise StateError(f"there is no {name}")
        return MemoryFile(self.files[name])

    def exists(self, name: str) -> bool:
        return name in self.files

    def list(self) -> list[str]:
        return sorted(self.files)

    def remove(self, name: str) -> None:
        self.files.pop(name, None)

    def replace(self, temporary: str, name: str) -> None:
        self.files[name] = self.files.pop(temporary)

    def sync(self) -> None: ...

    def close(self) -> None: ...

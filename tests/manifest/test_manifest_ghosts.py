"""After a failed sync Linux shows as clean what never reached the disk: the next one succeeds and writes nothing."""

from __future__ import annotations

import pytest

from blocksync.errors import StateError
from blocksync.manifest.folder import DurableFile, Folder
from blocksync.manifest.format import RUN, RecordKind
from blocksync.manifest.journal import JournalReader, create_journal


class CachedFile(DurableFile):
    """A file whose sync writes what is dirty, byte by byte, and nothing else."""

    def __init__(self) -> None:
        self.content = bytearray()
        self.durable = bytearray()
        self.dirty: set[int] = set()
        self.fails = False

    def pread(self, offset: int, length: int) -> bytes:
        return bytes(self.content[offset : offset + length])

    def pwrite(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        end = offset + len(data)
        self.content.extend(bytes(max(0, end - len(self.content))))
        self.content[offset:end] = data
        self.dirty.update(range(offset, end))

    def size(self) -> int:
        return len(self.content)

    def truncate(self, size: int) -> None:
        del self.content[size:], self.durable[size:]

    def sync(self) -> None:
        dirty, self.dirty = self.dirty, set()
        if self.fails:
            raise StateError("simulated: input/output error")
        self.durable.extend(bytes(len(self.content) - len(self.durable)))
        for at in dirty:
            self.durable[at] = self.content[at]

    def lose_power(self) -> None:
        self.content[:] = self.durable
        self.dirty.clear()

    def close(self) -> None:
        pass


class CachedFolder(Folder):
    def __init__(self) -> None:
        self.files: dict[str, CachedFile] = {}

    def open(self, name: str, *, create: bool = False) -> CachedFile:
        if create:
            self.files[name] = CachedFile()
        return self.files[name]

    def exists(self, name: str) -> bool:
        return name in self.files

    def list(self) -> list[str]:
        return sorted(self.files)

    def remove(self, name: str) -> None:
        del self.files[name]

    def replace(self, temporary: str, name: str) -> None:
        self.files[name] = self.files.pop(temporary)

    def sync(self) -> None:
        pass

    def close(self) -> None:
        pass


def test_a_withdrawal_whose_sync_failed_is_on_the_disk_before_anything_is_built_on_it() -> None:
    folder = CachedFolder()
    journal = create_journal(folder, bytes(16), 0, 0)
    file = folder.files["journal"]
    journal.append(RecordKind.INTENT, 1, RUN.pack(3, 1))
    journal.flush()
    file.fails = True
    with pytest.raises(StateError):
        journal.sync(journal.sequence)
    file.fails = False

    reader = JournalReader(file)
    assert [record.kind for record in reader.records()] == [RecordKind.BEGIN, RecordKind.INTENT]
    again = reader.resume()
    again.append(RecordKind.EPOCH, 2, b"sender\ndisk")
    again.flush()
    again.sync(again.sequence)
    file.lose_power()
    kept = [record.kind for record in JournalReader(file).records()]
    assert kept == [RecordKind.BEGIN, RecordKind.INTENT, RecordKind.EPOCH]


def test_what_a_later_record_calls_durable_is_not_written_again() -> None:
    folder = CachedFolder()
    journal = create_journal(folder, bytes(16), 0, 0)
    file = folder.files["journal"]
    for epoch in range(1, 20):
        journal.append(RecordKind.EPOCH, epoch, b"sender\ndisk" * 20)
        journal.flush()
        journal.sync(journal.sequence)
    size = file.size()
    reader = JournalReader(file)
    list(reader.records())
    written: list[int] = []
    file.pwrite = lambda offset, data: written.append(len(data))  # type: ignore[method-assign]
    reader.resume()
    assert sum(written) < size // 10

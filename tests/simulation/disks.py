"""Simulated disks with a volatile cache: at a crash any subset of the sectors that were not synced survives.

One :class:`Machine` holds the files of a state folder and a target. Every operation is announced to ``on_operation``
before it happens, which is where crashes are taken from: :meth:`Machine.freeze` gives all that a crash at this
moment could leave behind.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from blocksync.errors import StateError, TargetError, TargetSyncError
from blocksync.extents import Extent, ExtentKind
from blocksync.manifest.folder import DurableFile, Folder
from blocksync.targets.base import Target, TargetCapabilities

FILE_SECTOR = 512
SCRATCH = "scratch"  # means nothing after a crash


@dataclass(frozen=True, slots=True)
class Image:
    """What a machine's disks hold after a crash; hashable, so that equal ones are looked at once."""

    files: tuple[tuple[str, bytes], ...]
    target: bytes


@dataclass(frozen=True, slots=True)
class Frozen:
    """Everything that a crash at one moment decides about.

    Args:
        base: what is durable whatever happens.
        choices: each one may survive or not: sectors of files and of the target, and renames.
    """

    base: Image
    choices: tuple[tuple[str, int, bytes], ...]

    def images(self, most: int, chance: random.Random) -> Iterator[Image]:
        """All surviving subsets; where there are more than ``most``, none, all, and a sample."""
        count = len(self.choices)
        if 1 << count <= most:
            yield from (self.image(mask) for mask in range(1 << count))
            return
        yield self.image(0)
        yield self.image((1 << count) - 1)
        for _ in range(most - 2):
            yield self.image(chance.getrandbits(count))

    def image(self, mask: int) -> Image:
        files = {name: bytearray(content) for name, content in self.base.files}
        target = bytearray(self.base.target)
        renames: list[tuple[str, bytes]] = []
        for index, (name, offset, data) in enumerate(self.choices):
            if not mask >> index & 1:
                continue
            if offset < 0:
                renames.append((name, data))
            elif not name:
                target[offset : offset + len(data)] = data
            else:
                content = files[name]
                if len(content) < offset:
                    content.extend(bytes(offset - len(content)))
                content[offset : offset + len(data)] = data
        for name, data in renames:
            files[name] = bytearray(data)
        return Image(tuple(sorted((name, bytes(content)) for name, content in files.items())), bytes(target))


class SimFile(DurableFile):
    def __init__(self, machine: Machine, content: bytes) -> None:
        self._machine = machine
        self.durable = content
        self.content = bytearray(content)

    def pread(self, offset: int, length: int) -> bytes:
        return bytes(self.content[offset : offset + length])

    def pwrite(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        self._machine.operation("write", StateError)
        end = offset + len(data)
        if len(self.content) < end:
            self.content.extend(bytes(end - len(self.content)))
        self.content[offset:end] = data

    def size(self) -> int:
        return len(self.content)

    def truncate(self, size: int) -> None:
        self._machine.operation("truncate", StateError)
        del self.content[size:]
        # Kept simple: a cut is durable at once. What survives of a cut that is not was looked at before it.
        self.durable = self.durable[:size]

    def sync(self) -> None:
        if self._machine.operation("sync", StateError):
            self.durable = bytes(self.content)

    def close(self) -> None:
        pass

    def copy(self, machine: Machine) -> SimFile:
        twin = SimFile(machine, self.durable)
        twin.content = bytearray(self.content)
        return twin

    def unsynced(self, name: str) -> Iterator[tuple[str, int, bytes]]:
        for offset in range(0, len(self.content), FILE_SECTOR):
            new = bytes(self.content[offset : offset + FILE_SECTOR])
            if self.durable[offset : offset + FILE_SECTOR] != new:
                yield name, offset, new


class SimFolder(Folder):
    """Over a machine's files; creations and removals are durable at once, a rename after :meth:`sync`."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def open(self, name: str, *, create: bool = False) -> DurableFile:
        files = self._machine.files
        if create:
            self._machine.operation("create", StateError)
            files[name] = SimFile(self._machine, b"")
        if name not in files:
            raise StateError(f"there is no {name}")
        return files[name]

    def exists(self, name: str) -> bool:
        return name in self._machine.files

    def list(self) -> list[str]:
        return sorted(self._machine.files)

    def remove(self, name: str) -> None:
        self._machine.files.pop(name, None)

    def replace(self, temporary: str, name: str) -> None:
        self._machine.operation("rename", StateError)
        old = self._machine.files.get(name)
        self._machine.files[name] = self._machine.files.pop(temporary)
        self._machine.renames.setdefault(name, old)

    def sync(self) -> None:
        if self._machine.operation("sync folder", StateError):
            self._machine.renames.clear()

    def close(self) -> None:
        pass


class SimTarget(Target):
    """Of a machine; its sectors are ``sector`` bytes."""

    name = "simulated"
    identity = "simulated"
    sector_bytes = 512
    capabilities = TargetCapabilities(alignment=1, fresh=False, extents=False)

    def __init__(self, machine: Machine, sector: int) -> None:
        self._machine = machine
        self.sector = sector
        self.size = len(machine.durable_target)
        self.content = bytearray(machine.durable_target)

    def extents(self) -> Iterator[Extent]:
        yield Extent(0, self.size, ExtentKind.DATA)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        buffer[:] = self.content[offset : offset + len(buffer)]

    def write(self, offset: int, data: memoryview) -> None:
        assert 0 <= offset <= offset + len(data) <= self.size, "a write outside the slot"
        self._machine.operation("target write", TargetError)
        self.content[offset : offset + len(data)] = data

    def zero(self, offset: int, length: int) -> None:
        self.write(offset, memoryview(bytes(length)))

    def sync(self) -> None:
        if self._machine.operation("target sync", TargetSyncError):
            self._machine.durable_target = bytes(self.content)

    def reopen(self) -> None:
        self.content = bytearray(self._machine.durable_target)

    def write_mark(self) -> str:
        return ""

    def close(self) -> None:
        pass

    def unsynced(self) -> Iterator[tuple[str, int, bytes]]:
        for offset in range(0, self.size, self.sector):
            new = bytes(self.content[offset : offset + self.sector])
            if self._machine.durable_target[offset : offset + self.sector] != new:
                yield "", offset, new


class Machine:
    """Disks that go on from an image.

    Args:
        image: what survived.
        sector: of the target, bytes.
        on_operation: called with each operation's name before it happens; what it raises stops the machine.
        failing: operation numbers that fail with an error.
    """

    def __init__(
        self,
        image: Image,
        sector: int,
        on_operation: Callable[[Machine, str], None] = lambda _machine, _name: None,
        failing: frozenset[int] = frozenset(),
    ) -> None:
        self.files = {name: SimFile(self, content) for name, content in image.files}
        self.renames: dict[str, SimFile | None] = {}
        self.durable_target = image.target
        self.folder = SimFolder(self)
        self.target = SimTarget(self, sector)
        self.operations = 0
        self.on_operation = on_operation
        self._failing = failing

    def operation(self, name: str, kind: type[StateError | TargetError]) -> bool:
        self.on_operation(self, name)
        self.operations += 1
        if self.operations in self._failing:
            raise kind(f"simulated failure of operation {self.operations}, {name}")
        return True

    def killed(self, on_operation: Callable[[Machine, str], None]) -> Machine:
        """The same disks after the process was killed: nothing is lost yet, and nothing has become durable."""
        twin = Machine(Image((), self.durable_target), self.target.sector, on_operation)
        twin.target.content = bytearray(self.target.content)
        copies = {id(file): file.copy(twin) for file in (*self.files.values(), *self.renames.values()) if file}
        twin.files = {name: copies[id(file)] for name, file in self.files.items()}
        twin.renames = {name: copies[id(file)] if file else None for name, file in self.renames.items()}
        return twin

    def freeze(self) -> Frozen:
        """What a crash now could leave behind."""
        base: dict[str, bytes] = {}
        choices: list[tuple[str, int, bytes]] = []
        for name, file in self.files.items():
            if name == SCRATCH:
                continue
            if name in self.renames:
                old = self.renames[name]
                if old is not None:
                    base[name] = old.durable
                choices.append((name, -1, file.durable))
                continue
            base[name] = file.durable
            choices.extend(file.unsynced(name))
        choices.extend(self.target.unsynced())
        return Frozen(Image(tuple(sorted(base.items())), self.durable_target), tuple(choices))


def empty_image(size: int, old: bytes = b"") -> Image:
    """A machine before its first pass; ``old`` is what the target held."""
    return Image((), old.ljust(size, b"\xee"))

"""A snapshot that is read: to everybody the origin, as it was."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from blocksync.errors import SnapshotError, SnapshotOverflowError, SourceError
from blocksync.extents import Extent
from blocksync.platforms.tools import run_tool
from blocksync.snapshots.lvm import Taken
from blocksync.sources.base import Source
from blocksync.sources.disk import DeviceSource

_BROKEN = frozenset({"Invalid", "Overflow", "Fail", "Error"})


class SnapshotSource(Source):
    """Reads a snapshot under its origin's name and identity.

    Args:
        taken: stands as long as this is open.
        path: of the origin, as typed.
        consistency: what it is worth.
    """

    def __init__(self, taken: Taken, path: str, consistency: str) -> None:
        with DeviceSource(path) as origin:
            self.identity, self.size = origin.identity, origin.size
        self._device = DeviceSource(taken.path)
        self._taken = taken
        self.name = path
        self.sector_bytes = self._device.sector_bytes
        self.capabilities = dataclasses.replace(self._device.capabilities, consistency=consistency)
        if self._device.size != self.size:
            self.close()
            raise SnapshotError(f"the snapshot of {path} has {self._device.size} bytes, not {self.size}")

    def extents(self) -> Iterator[Extent]:
        return self._device.extents()

    def extents_within(self, first: int, stop: int) -> Iterator[Extent]:
        return self._device.extents_within(first, stop)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        try:
            self._device.read_into(offset, buffer)
        except SourceError:
            self._look(f" at {100 * offset // self.size} %")
            raise

    def descriptor(self) -> int | None:
        return self._device.descriptor()

    def close(self) -> None:
        self._device.close()

    def check(self) -> None:
        """Whether the view held until now.

        Raises:
            SnapshotOverflowError: it did not.
        """
        self._look(" after it was read")

    def _look(self, when: str) -> None:
        if is_broken(self._taken.device):
            raise SnapshotOverflowError(
                f"the snapshot of {self.name} overflowed{when}, make it bigger",
                safe="the volume itself is unharmed; nothing of this pass was committed",
            )


def is_broken(device: str) -> bool:
    """Whether a snapshot gives its view no more, by device-mapper's status of it.

    Raises:
        SnapshotError: the status cannot be had.
    """
    said = run_tool(["dmsetup", "status", device], SnapshotError, f"cannot look at the snapshot {device}")
    state = said.output.split()[2:]
    return state[:1] not in (["snapshot"], ["thin"]) or bool(_BROKEN & set(state))

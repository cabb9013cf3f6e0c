"""dm-era: a device that notes for each block the era of its last write.

An era is begun before a pass reads anything; what is written while it reads belongs to that era, and is therefore
named again by the next pass.

Its metadata has no identity, and metadata made anew counts from 1 again: after two passes an old number looks like
one of its own. So a number is believed within one activation of the device, which the caller puts into the identity.
"""

from __future__ import annotations

from collections.abc import Iterator

from blocksync.changes.base import Token, Tracker
from blocksync.changes.xml import elements, number
from blocksync.errors import ChangesUnknownError
from blocksync.extents import Extent, merge
from blocksync.platforms.tools import find_tool, run_tool

PROVIDER = "dm-era"
_SECTOR_BYTES = 512
_SECONDS = 1800.0


class EraTracker(Tracker):
    """Of a device whose table is one ``era`` target.

    Args:
        device: device-mapper's name.
        metadata: path of its metadata's device.
        granularity: bytes of its blocks.
        size: bytes.
        identity: of the device, its activation and its table.

    Raises:
        ChangesUnknownError: no new era can be begun.
    """

    provider = PROVIDER

    def __init__(self, device: str, metadata: str, granularity: int, size: int, identity: str) -> None:
        self._device = device
        self._metadata = metadata
        self._granularity = granularity
        self._size = size
        self._identity = identity
        doing = f"cannot begin an era of {device}"
        run_tool(["dmsetup", "message", device, "0", "checkpoint"], ChangesUnknownError, doing)
        self._era = self._current()

    def changed(self, token: Token) -> Iterator[Extent]:
        if token.get("identity") != self._identity:
            raise ChangesUnknownError(
                f"{self._device} was activated anew since the last pass, or is another device"
            )
        since = token.get("era", "")
        if not (since.isascii() and since.isdigit()) or int(since) > self._era:
            raise ChangesUnknownError(f"{self._device} counts its eras anew")
        doing = f"cannot ask {self._device} what changed"
        run_tool(["dmsetup", "message", self._device, "0", "take_metadata_snap"], ChangesUnknownError, doing)
        try:
            words = ["era_invalidate", "--metadata-snapshot", "--written-since", since, self._metadata]
            said = run_tool(words, ChangesUnknownError, doing, timeout=_SECONDS)
        finally:
            words = ["dmsetup", "message", self._device, "0", "drop_metadata_snap"]
            run_tool(words, ChangesUnknownError, doing, check=False)
        return parse_blocks(said.output, self._granularity, self._size)

    def token(self) -> Token:
        return {"provider": PROVIDER, "identity": self._identity, "era": str(self._era)}

    def settle(self) -> None:
        """Nothing is kept but a number."""

    def _current(self) -> int:
        said = run_tool(["dmsetup", "status", self._device], ChangesUnknownError, f"cannot look at {self._device}")
        fields = said.output.split()
        # start length era BLOCKSIZE USED/TOTAL ERA HELD
        if len(fields) < 7 or fields[2] != "era" or not fields[5].isdigit():
            raise ChangesUnknownError(f"the state of {self._device} is not understood: {said.output.strip()[:80]}")
        return int(fields[5])


def era_tracker(device: str, identity: str) -> EraTracker | None:
    """The tracker of a device-mapper device; None where it is not one ``era`` target.

    Args:
        device: device-mapper's name.
        identity: of the device and of this activation of it.
    """
    if find_tool("era_invalidate") is None:
        return None
    said = run_tool(["dmsetup", "table", device], ChangesUnknownError, f"cannot look at {device}", check=False)
    fields = said.output.split()
    # 0 SECTORS era METADATA ORIGIN GRANULARITY
    if said.code or len(fields) != 6 or fields[0] != "0" or fields[2] != "era":
        return None
    major, _, minor = fields[3].partition(":")
    metadata = f"/dev/block/{major}:{minor}" if minor else fields[3]
    return EraTracker(
        device,
        metadata,
        int(fields[5]) * _SECTOR_BYTES,
        int(fields[1]) * _SECTOR_BYTES,
        f"{identity}:{fields[3]}:{fields[4]}",
    )


def parse_blocks(text: str, granularity: int, size: int) -> Iterator[Extent]:
    """Read what ``era_invalidate`` prints: blocks, and ranges whose end is exclusive.

    Raises:
        ChangesUnknownError: it is not what was expected.
    """
    found: list[Extent] = []
    told = False
    for name, attributes in elements(text):
        if name == "blocks":
            told = True
            continue
        if name == "block":
            first = number(attributes, "block")
            end = first + 1
        elif name == "range":
            first, end = number(attributes, "begin"), number(attributes, "end")
        else:
            raise ChangesUnknownError(f"the list of changes has an element {name}")
        start = first * granularity
        if start >= size or end <= first or (found and found[-1].end > start):
            raise ChangesUnknownError("the list of changes is out of order or beyond the disk")
        found.append(Extent(start, min(end * granularity, size) - start))
    if not told:
        raise ChangesUnknownError("the list of changes has no list")
    return merge(found)

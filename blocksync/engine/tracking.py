"""The tracker's part in a pass: what it says at the beginning, and what is kept of it at the end.

A tracker is never needed: whatever is wrong with it is said, and the pass compares digests as it would without one.
"""

from __future__ import annotations

import base64
import binascii
import heapq
from array import array
from collections.abc import Callable, Iterable, Iterator

from blocksync.changes.base import Token, Tracker
from blocksync.engine.dirty import MOST_RUNS, DirtyMap
from blocksync.engine.sampling import Sampler
from blocksync.errors import ChangesUnknownError, SourceError, StateError
from blocksync.extents import Extent, ExtentKind
from blocksync.geometry import Geometry
from blocksync.kernels import DigestKind
from blocksync.manifest.cache import ManifestCopy
from blocksync.manifest.working import BlockMap
from blocksync.protocol.messages import OpenAnswer
from blocksync.sources.base import Source

Say = Callable[[str], None]
UNREAD = "unread"
"""A token's word for what its pass left unread."""


class Tracking:
    """Of one session.

    Args:
        source: of it, with or without a tracker.
        copy: where tokens are kept.
        answer: the receiver's, to our OPEN.
        say: tells a person.
    """

    def __init__(self, source: Source, copy: ManifestCopy, answer: OpenAnswer, say: Say) -> None:
        self._source = source
        self._copy = copy
        self._answer = answer
        self._say = say
        self.provider = ""
        """Whose word the pass goes by; empty where everything is compared."""
        self.sampled_bytes = 0
        self._skipped: tuple[array[int], array[int]] | None = None

    def dirty(self, geometry: Geometry, kind: DigestKind, known: BlockMap) -> DirtyMap | None:
        """What has to be looked at; None for everything.

        Args:
            geometry, kind: of the manifest.
            known: claims of the receiver, up to date.

        Raises:
            SourceError: the source cannot be read.
        """
        tracker = self._source.tracker
        if tracker is None:
            return None
        token = self._token()
        if token is None:
            if self._answer.generation:
                self._say(f"{tracker.provider}: nothing is kept of the last pass: all is compared by digests")
            return None
        if token.get("provider") != tracker.provider:
            self._say(f"the last pass was tracked by {token.get('provider')}: all is compared by digests")
            return None
        try:
            found = self._believed(tracker, token, geometry, kind, known)
        except ChangesUnknownError as error:
            self._say(f"{error.message}: all is compared by digests")
            return None
        self.provider = tracker.provider if found is not None else ""
        return found

    def _believed(
        self, tracker: Tracker, token: Token, geometry: Geometry, kind: DigestKind, known: BlockMap
    ) -> DirtyMap | None:
        unread = self._unread(token, geometry)
        changed = DirtyMap(tracker.changed(token), geometry)
        found = _together(changed, unread, geometry)
        sampler = Sampler(self._source, geometry, kind, self._answer.key, known)
        lie = sampler.first_lie(found, changed.blocks)
        self.sampled_bytes = sampler.read_bytes
        if lie is not None:
            # On a disk that is in use the block may have changed after the question: asked again, it is named.
            found = _together(DirtyMap(tracker.changed(token), geometry), unread, geometry)
            if lie not in found:
                self._say(
                    f"{tracker.provider} calls offset {lie * geometry.block_bytes} unchanged, and it has changed: "
                    "it is not to be trusted, all is compared by digests"
                )
                return None
        return found

    def watch(self, extents: Iterable[Extent]) -> Iterator[Extent]:
        """Pass on the extents of a pass, noting those that are not read since nothing uses them.

        What the receiver holds there need not be what the source holds. Where such a block is used again without being
        written, which no tracker would tell, the next pass must compare it.
        """
        self._skipped = None
        if self._source.tracker is None:
            yield from extents
            return
        starts, ends = array("Q"), array("Q")
        for extent in extents:
            if extent.kind is ExtentKind.UNUSED:
                if ends and ends[-1] == extent.offset:
                    ends[-1] = extent.end
                elif len(ends) <= MOST_RUNS:
                    starts.append(extent.offset)
                    ends.append(extent.end)
            yield extent
        self._skipped = starts, ends

    def _unread(self, token: Token, geometry: Geometry) -> DirtyMap:
        try:
            return DirtyMap.decode(base64.b64decode(token.get(UNREAD, ""), validate=True), geometry)
        except binascii.Error as error:
            raise ChangesUnknownError("what was kept of the last pass cannot be read") from error

    def _token(self) -> Token | None:
        answer = self._answer
        # Between passes the receiver holds exactly what the pass committed; in an open pass it may hold newer blocks.
        root = None if answer.pass_open else answer.root
        return self._copy.load_token(answer.manifest_id, answer.generation, root)

    def keep(self, generation: int, root: bytes, geometry: Geometry) -> None:
        """The pass is committed: keep what the next one needs; what goes wrong here costs only time then."""
        tracker = self._source.tracker
        if tracker is None:
            return
        try:
            if self._skipped is None:
                raise ChangesUnknownError("the pass did not walk the whole disk")
            skipped = (Extent(start, end - start) for start, end in zip(*self._skipped, strict=True))
            unread = base64.b64encode(DirtyMap(skipped, geometry).encode()).decode()
            token = {**tracker.token(), UNREAD: unread}
            self._copy.save_token(self._answer.manifest_id, generation, root, token)
            tracker.settle()
        except (ChangesUnknownError, SourceError, StateError) as error:
            self._say(f"{tracker.provider}: {error.message}")


def _together(one: DirtyMap, other: DirtyMap, geometry: Geometry) -> DirtyMap:
    parts = (each.ranges(geometry.block_bytes) for each in (one, other))
    return DirtyMap(heapq.merge(*parts, key=lambda extent: extent.offset), geometry)

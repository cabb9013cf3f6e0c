"""The tracker's part in a pass: what it says at the beginning, and what is kept of it at the end.

A tracker is never needed: whatever is wrong with it is said, and the pass compares digests as it would without one.
"""

from __future__ import annotations

from collections.abc import Callable

from blocksync.changes.base import Token, Tracker
from blocksync.engine.dirty import DirtyMap
from blocksync.engine.sampling import Sampler
from blocksync.errors import ChangesUnknownError, SourceError, StateError
from blocksync.geometry import Geometry
from blocksync.kernels import DigestKind
from blocksync.manifest.cache import ManifestCopy
from blocksync.manifest.working import BlockMap
from blocksync.protocol.messages import OpenAnswer
from blocksync.sources.base import Source

Say = Callable[[str], None]


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
        found = DirtyMap(tracker.changed(token), geometry)
        sampler = Sampler(self._source, geometry, kind, self._answer.key, known)
        lie = sampler.first_lie(found)
        self.sampled_bytes = sampler.read_bytes
        if lie is not None:
            # On a disk that is in use the block may have changed after the question: asked again, it is named.
            found = DirtyMap(tracker.changed(token), geometry)
            if lie not in found:
                self._say(
                    f"{tracker.provider} calls offset {lie * geometry.block_bytes} unchanged, and it has changed: "
                    "it is not to be trusted, all is compared by digests"
                )
                return None
        return found

    def _token(self) -> Token | None:
        answer = self._answer
        # Between passes the receiver holds exactly what the pass committed; in an open pass it may hold newer blocks.
        root = None if answer.pass_open else answer.root
        return self._copy.load_token(answer.manifest_id, answer.generation, root)

    def keep(self, generation: int, root: bytes) -> None:
        """The pass is committed: keep what the next one needs; what goes wrong here costs only time then."""
        tracker = self._source.tracker
        if tracker is None:
            return
        try:
            self._copy.save_token(self._answer.manifest_id, generation, root, tracker.token())
            tracker.settle()
        except (ChangesUnknownError, SourceError, StateError) as error:
            self._say(f"{tracker.provider}: {error.message}")

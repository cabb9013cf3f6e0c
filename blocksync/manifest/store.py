"""One slot's durable state: a manifest file, the journal since, and the map that both add up to.

The order in which the engine calls (section 6 of the design)::

    intend → sync → overwrite the target     a claim is durably withdrawn before its block changes
    target sync → claim → sync → tell        a claim is durable only after its block is

What a method promises of durability stands in its docstring; everything else may be lost in a crash, and losing it is
safe.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from typing_extensions import ParamSpec

from blocksync.errors import BlocksyncError, IntegrityError, StateDamagedError, StateError
from blocksync.geometry import DIGEST_BYTES, PAGE_DIGEST_BYTES, Geometry
from blocksync.kernels import KEY_BYTES, DigestKind
from blocksync.manifest.base import ManifestFile, write_manifest
from blocksync.manifest.folder import Folder
from blocksync.manifest.format import RUN, Header, RecordKind, fitted
from blocksync.manifest.journal import JOURNAL_FILE, Journal, create_journal
from blocksync.manifest.replay import Replay, replayed
from blocksync.manifest.working import BlockMap

MANIFEST_FILE = "manifest"
# A journal may be this much larger than the claims of the whole disk before it is folded into a new manifest.
JOURNAL_SLACK_BYTES = 64 << 20
MAX_NAME_CHARACTERS = 256

P = ParamSpec("P")


class SlotStore:
    """Durable claims of one slot. Thread-safe.

    Use :meth:`create`, :meth:`open` or :meth:`load_or_none`. After an error of the state's own disk the store refuses
    all further work: it must be opened again (rule 3).
    """

    def __init__(
        self,
        folder: Folder,
        header: Header,
        blocks: BlockMap,
        journal: Journal,
        *,
        touched: bool,
        cached: int | None = None,
    ) -> None:
        self._folder = folder
        self._cached = cached
        self._header = header
        self._journal = journal
        self._touched = touched
        self._lock = threading.RLock()
        self._poison: BlocksyncError | None = None
        self._epoch = header.epoch
        self._resting = ""
        self.map = blocks

    # -- making and opening -----------------------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        folder: Folder,
        geometry: Geometry,
        kind: DigestKind,
        *,
        source_identity: str,
        key: bytes | None = None,
        cached: int | None = None,
    ) -> SlotStore:
        """Start a slot of which nothing is claimed; durable on return. ``cached`` as for :meth:`open`."""
        header = Header(
            manifest_id=secrets.token_bytes(16),
            generation=0,
            complete=False,
            covered=0,
            epoch=0,
            geometry=geometry,
            kind=kind,
            key=key if key is not None else secrets.token_bytes(KEY_BYTES),
            root=bytes(DIGEST_BYTES),
            table_checksum=0,
            source_identity=source_identity,
            write_mark="",
        )
        # The journal first: a manifest without a journal is damage, never a beginning.
        create_journal(folder, header.manifest_id, 0, 0).close()
        empty = BlockMap(geometry, kind, header.key)
        write_manifest(folder, MANIFEST_FILE, replace(header, root=empty.root()), empty)
        return cls.open(folder, cached)

    @classmethod
    def load_or_none(cls, folder: Folder, cached: int | None = None) -> SlotStore | None:
        """Open a slot, or None where none was ever begun."""
        return cls.open(folder, cached) if folder.exists(MANIFEST_FILE) else None

    @classmethod
    def open(cls, folder: Folder, cached: int | None = None) -> SlotStore:
        """Read the manifest and replay the journal.

        Args:
            folder: of the slot.
            cached: segments of the map that are held in memory; None for as many as one slot may have.

        Raises:
            StateDamagedError: one of them is damaged where no crash can have done it.
        """
        # A process that was killed may have left a rename that is not durable yet: nothing is built on it before.
        folder.sync()
        base = ManifestFile(folder.open(MANIFEST_FILE))
        header = base.header
        blocks = BlockMap(header.geometry, header.kind, header.key, base=base, folder=folder, cached=cached)
        replay = Replay(header, blocks)
        try:
            if not folder.exists(JOURNAL_FILE):
                raise StateDamagedError("the slot has a manifest but no journal: its last withdrawals are unknown")
            journal = replayed(folder, replay)
        except BaseException:
            blocks.close()
            raise
        store = cls(folder, header, blocks, journal, touched=replay.touched, cached=cached)
        store._epoch = max(header.epoch, replay.epoch)
        store._resting = replay.resting
        if replay.stale:
            # A crash came between the new manifest and its new journal.
            journal.close()
            store._journal = create_journal(folder, header.manifest_id, header.generation, header.covered)
        return store

    # -- facts ------------------------------------------------------------------------------------------------

    @property
    def geometry(self) -> Geometry:
        return self._header.geometry

    @property
    def kind(self) -> DigestKind:
        return self._header.kind

    @property
    def key(self) -> bytes:
        return self._header.key

    @property
    def manifest_id(self) -> bytes:
        return self._header.manifest_id

    @property
    def generation(self) -> int:
        """Committed passes."""
        return self._header.generation

    @property
    def complete(self) -> bool:
        """Whether the claims are exactly those of the last committed pass."""
        return self._header.complete and not self._touched

    @property
    def epoch(self) -> int:
        return self._epoch

    @property
    def source_identity(self) -> str:
        return self._header.source_identity

    @property
    def write_mark(self) -> str:
        """The target's mark when we last stopped writing to it, by a commit or in an open pass; empty if not known."""
        return self._resting or (self._header.write_mark if self.complete else "")

    @property
    def usable(self) -> bool:
        """Whether no error of the state's disk has been met; afterwards the slot must be opened again."""
        return self._poison is None

    # -- a pass -----------------------------------------------------------------------------------------------

    def begin_epoch(self, sender: str, source_identity: str) -> int:
        """Hand out the next epoch; durable on return (rule 4)."""
        with self._lock:
            self._sound()
            self._compact_if_large()
            names = f"{sender[:MAX_NAME_CHARACTERS]}\n{source_identity[:MAX_NAME_CHARACTERS]}".encode(
                errors="surrogatepass"
            )
            self._epoch += 1
            self._resting = ""
            self._append(RecordKind.EPOCH, names)
        self.sync()
        return self._epoch

    def rest(self, write_mark: str) -> None:
        """Say that nothing of ours writes to the target before the next epoch; durable on return.

        Args:
            write_mark: of the target, after its last sync.
        """
        with self._lock:
            self._sound()
            self._resting = fitted(write_mark)
            self._append(RecordKind.REST, self._resting.encode(errors="surrogatepass"))
        self.sync()

    def intend(self, runs: Iterable[tuple[int, int]]) -> None:
        """Withdraw claims of ``(first, count)`` runs that are about to be overwritten; durable after :meth:`sync`."""
        with self._lock:
            self._sound()
            claimed = [run for run in runs if self.map.any_claimed(*run)]
            self._append_runs(RecordKind.INTENT, claimed)

    def withdraw(self, runs: Iterable[tuple[int, int]]) -> None:
        """Withdraw claims that turned out wrong; durable on return."""
        with self._lock:
            self._sound()
            self._append_runs(RecordKind.WITHDRAW, list(runs))
        self.sync()

    def claim(self, first: int, digests: bytes | memoryview, pages: bytes | memoryview) -> None:
        """Claim blocks whose content is durable on the target; the claim itself is after :meth:`sync`."""
        with self._lock:
            self._sound()
            count = len(digests) // DIGEST_BYTES
            self._append(RecordKind.CLAIM, b"".join((RUN.pack(first, count), digests, pages)))
            self._change_map(self.map.claim, first, digests, pages)

    def claim_each(self, blocks: Sequence[int], digests: bytes, pages: bytes) -> None:
        """As :meth:`claim`, of single blocks; digests and sub-digests are theirs, one after the other."""
        per_block = self.geometry.pages_per_block * PAGE_DIGEST_BYTES
        with self._lock:
            self._sound()
            for number, block in enumerate(blocks):
                digest = digests[number * DIGEST_BYTES : (number + 1) * DIGEST_BYTES]
                subs = pages[number * per_block : (number + 1) * per_block]
                self._append(RecordKind.CLAIM, b"".join((RUN.pack(block, 1), digest, subs)))
            self._change_map(self.map.claim_each, blocks, digests, pages)

    def claim_zero(self, first: int, count: int) -> None:
        """Claim blocks that durably read as zeros."""
        with self._lock:
            self._sound()
            self._append(RecordKind.CLAIM_ZERO, RUN.pack(first, count))
            self._change_map(self.map.claim_zero, first, count)

    def sync(self) -> None:
        """Make all records appended so far durable.

        Raises:
            StateError: they may not be; the store refuses all further work.
        """
        with self._lock:
            self._sound()
            try:
                self._journal.flush()
            except BlocksyncError as error:
                self._poison = error
                raise
            journal, upto = self._journal, self._journal.sequence
        try:
            journal.sync(upto)
        except BlocksyncError as error:
            with self._lock:
                self._poison = error
            raise

    def commit(self, root: bytes, write_mark: str) -> int:
        """End the pass; durable on return.

        Args:
            root: of the sender's digest tree.
            write_mark: of the target, after its last sync.

        Returns:
            the new generation.

        Raises:
            IntegrityError: the roots differ; nothing is committed, the claims stay.
        """
        with self._lock:
            self._sound()
            if self.map.root() != root:
                raise IntegrityError(
                    "the digest trees of sender and receiver differ at the end of the pass",
                    safe="nothing was committed; the last committed generation stands",
                )
            self._rewrite(
                replace(
                    self._header, generation=self.generation + 1, complete=True, write_mark=write_mark, root=root
                )
            )
            return self.generation

    def reset(self, geometry: Geometry, kind: DigestKind, *, source_identity: str) -> None:
        """Forget everything for another disk: new manifest id and key, generation 0; durable on return."""
        with self._lock:
            self._sound()
            key = secrets.token_bytes(KEY_BYTES)
            self.map.close()
            self.map = BlockMap(geometry, kind, key)
            self._rewrite(
                replace(
                    self._header,
                    manifest_id=secrets.token_bytes(16),
                    generation=0,
                    complete=False,
                    geometry=geometry,
                    kind=kind,
                    key=key,
                    root=self.map.root(),
                    source_identity=source_identity,
                    write_mark="",
                )
            )

    def adopt(self, source_identity: str) -> None:
        """Say whose disk this is, where a rebuild without the old state could not know it; durable on return."""
        with self._lock:
            self._sound()
            self._rewrite(replace(self._header, source_identity=source_identity, root=self.map.root()))

    def close(self) -> None:
        """Release the files; may be called twice. What was synced stays."""
        with self._lock:
            if self._poison is None or not isinstance(self._poison, _ClosedError):
                self._poison = _ClosedError("the slot's state is closed")
                self._journal.close()
                self.map.close()

    # -- inside, under the lock -------------------------------------------------------------------------------

    def _sound(self) -> None:
        if self._poison is not None:
            raise StateError(f"the slot's state cannot be used any more: {self._poison}") from self._poison

    def _append(self, kind: RecordKind, payload: bytes) -> None:
        try:
            self._journal.append(kind, self._epoch, payload)
        except BlocksyncError as error:
            self._poison = error
            raise
        if kind not in (RecordKind.EPOCH, RecordKind.REST):
            self._touched = True

    def _append_runs(self, kind: RecordKind, runs: list[tuple[int, int]]) -> None:
        per_record = 4096
        for at in range(0, len(runs), per_record):
            part = runs[at : at + per_record]
            self._append(kind, b"".join(RUN.pack(first, count) for first, count in part))
            for first, count in part:
                self._change_map(self.map.withdraw, first, count)

    def _change_map(self, change: Callable[P, None], *words: P.args, **more: P.kwargs) -> None:
        """Follow a record in the map; where that fails (its scratch file is on a disk too) the two differ."""
        try:
            change(*words, **more)
        except BlocksyncError as error:
            self._poison = error
            raise

    def _rewrite(self, header: Header) -> None:
        """Write a manifest of the map as it is, then start a new journal behind it."""
        covered = self._journal.sequence
        header = replace(header, covered=covered, epoch=self._epoch)
        try:
            self._journal.flush()
            write_manifest(self._folder, MANIFEST_FILE, header, self.map)
            journal = create_journal(self._folder, header.manifest_id, header.generation, covered)
            base = ManifestFile(self._folder.open(MANIFEST_FILE))
        except BlocksyncError as error:
            self._poison = error
            raise
        self._journal.close()
        self.map.close()
        self._journal = journal
        self._header = base.header
        self._touched = False
        self._resting = ""
        self.map = BlockMap(
            header.geometry, header.kind, header.key, base=base, folder=self._folder, cached=self._cached
        )

    def _compact_if_large(self) -> None:
        geometry = self.geometry
        whole = geometry.block_count * (DIGEST_BYTES + PAGE_DIGEST_BYTES * geometry.pages_per_block)
        if self._journal.size > 2 * whole + JOURNAL_SLACK_BYTES:
            self._rewrite(replace(self._header, complete=self.complete))


class _ClosedError(StateError):
    """Marks a store that was closed on purpose."""

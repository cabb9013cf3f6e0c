"""A slot: one target, its durable state, and at most one session that writes to it."""

from __future__ import annotations

import secrets
import shlex
import threading
import time
from collections import Counter
from dataclasses import dataclass, field

from blocksync.control.service import Peer
from blocksync.engine.budget import Budget
from blocksync.engine.foreign import ForeignWrites
from blocksync.engine.landing import Landing
from blocksync.errors import (
    BlocksyncError,
    PeerError,
    ProtocolError,
    SlotBusyError,
    StateDamagedError,
    TargetError,
    TargetRefusedError,
)
from blocksync.geometry import Geometry
from blocksync.kernels import DigestKind
from blocksync.manifest.folder import OsFolder
from blocksync.manifest.format import fitted
from blocksync.manifest.store import SlotStore
from blocksync.protocol.limits import Limits
from blocksync.protocol.messages import OpenRequest
from blocksync.targets.base import Target
from blocksync.transports.link import Link

# A sender that has shown no sign of life for this long has lost the slot to whoever asks.
SILENCE_SECONDS = 30.0
# A session without connections is between two of them for a moment only.
ABANDONED_SECONDS = 2.0
# A window is made durable at least this often, so that little is sent again after a crash on a slow link.
CHECKPOINT_SECONDS = 3.0


@dataclass(slots=True)
class Session:
    """One pass's conversation: from OPEN to commit, close, or the next epoch."""

    peer: Peer
    run: bytes
    epoch: int
    limits: Limits
    geometry: Geometry
    landing: Landing
    source_name: str
    transfer: str = ""
    fresh: bool = False  # what has no claim reads as zeros: a new target, and the first session on it
    session_id: bytes = field(default_factory=lambda: secrets.token_bytes(16))
    token: bytes = field(default_factory=lambda: secrets.token_bytes(32))
    last_seen: float = field(default_factory=time.monotonic)
    links: set[Link] = field(default_factory=set)
    ended: threading.Event = field(default_factory=threading.Event)
    checkpointer: threading.Thread | None = None

    def silent(self) -> bool:
        """Whether nothing was heard of it for so long that it is taken for dead."""
        return time.monotonic() - self.last_seen > SILENCE_SECONDS

    def abandoned(self) -> bool:
        """Whether it looks like that of a sender that was killed: its connections were closed by the kernel."""
        return not self.links and time.monotonic() - self.last_seen > ABANDONED_SECONDS


class Slot:
    """Owns a target and its state folder; all changes of who may write happen under ``lock``.

    Args:
        name: what peers call it.
        target: open, fit to be written.
        folder: of the durable state, held exclusively.
        budget: of the receiver's memory; one that no other slot shares when left out.
    """

    def __init__(self, name: str, target: Target, folder: OsFolder, budget: Budget | None = None) -> None:
        self.name = name
        self.target = target
        self.budget = budget or Budget()
        self.lock = threading.RLock()
        self.session: Session | None = None
        self.verifying: Counter[bytes] = Counter()
        self.settled = threading.Condition(self.lock)
        self._folder = folder
        self._store = self._loaded()
        self._foreign = ForeignWrites(target, name)
        self._failed = False
        # What ended sessions made durable, and the one that runs: changed at once, since it is read without the lock.
        self._durable: tuple[int, Landing | None] = (0, None)

    @staticmethod
    def holds_state(folder: OsFolder) -> bool:
        """Whether a pass was ever begun into this folder's slot."""
        return bool(folder.list())

    def _loaded(self) -> SlotStore | None:
        try:
            return SlotStore.load_or_none(self._folder, self.budget.cached_segments)
        except StateDamagedError as error:
            error.message = f"slot {self.name}: {error.message}"
            error.remedy = error.remedy.replace(
                "SLOT --target PATH", f"{self.name} --target {shlex.quote(self.target.name)}"
            )
            raise

    @property
    def failed(self) -> bool:
        """Whether the target or the state could not be used again after a failure."""
        return self._failed

    @property
    def durable_total(self) -> int:
        """Bytes made durable since this process opened the slot."""
        before, landing = self._durable
        return before + (landing.durable_bytes if landing is not None else 0)

    @property
    def store(self) -> SlotStore | None:
        return self._store

    def open(self, peer: Peer, request: OpenRequest) -> tuple[Session, str]:
        """Begin a new epoch for ``peer``.

        Returns:
            the session, and a notice for people (empty where there is nothing to say).

        Raises:
            SlotBusyError: another sender holds the slot.
            SlotPreparingError: the target is being re-hashed since somebody wrote to it; try again.
            TargetRefusedError: the target is smaller than the source.
            PeerError: the slot holds another source's disk and nobody consented to replace it.
            ReceiverFullError: the receiver's memory is taken; try again.
        """
        with self.lock:
            self._supersede(peer, request.run)
            notices: list[str] = []
            self.mend()
            first = self._store is None
            store = self._fit_store(request, notices)
            self._foreign.look(store)
            geometry = store.geometry
            share = self.budget.admit(geometry, request.connections)
            try:
                epoch = store.begin_epoch(peer.name, request.source_identity)
            except BaseException:
                share.close()
                raise
            session = Session(
                peer=peer,
                run=request.run,
                epoch=epoch,
                limits=share.limits,
                geometry=geometry,
                landing=Landing(self.target, store, share),
                source_name=request.source_name,
                transfer=request.transfer,
                fresh=first and self.target.capabilities.fresh,
            )
            self.session = session
            self._durable = (self._durable[0], session.landing)
            session.checkpointer = threading.Thread(
                target=_checkpoint_loop, args=(session,), name=f"checkpoint-{self.name}", daemon=True
            )
            session.checkpointer.start()
            return session, "; ".join(notices)

    def await_abandoned(self, peer: Peer, run: bytes) -> None:
        """Give a machine's killed run, a session or a verify, the time to show that it is dead; for its next run."""
        deadline = time.monotonic() + 2 * ABANDONED_SECONDS
        with self.settled:
            while self.verifying.get(peer.fingerprint) and time.monotonic() < deadline:
                self.settled.wait(0.1)
        while (
            (session := self.session) is not None
            and session.peer.fingerprint == peer.fingerprint
            and session.run != run
            and not session.abandoned()
            # One that is just ending holds the lock until it has ended: whoever opens waits for that.
            and not session.ended.is_set()
            and time.monotonic() < deadline
        ):
            session.ended.wait(0.1)

    def keep_out(self, peer: Peer) -> None:
        """Keep sessions out until :meth:`end_verify`.

        Raises:
            SlotBusyError: somebody writes.
        """
        with self.lock:
            session = self.session
            if session is not None:
                same = session.peer.fingerprint == peer.fingerprint
                if not session.silent() and not (same and session.abandoned()):
                    raise SlotBusyError(f"slot {self.name} is being written to by {session.peer.name}")
                self.end(session)
            self.mend()
            self.verifying[peer.fingerprint] += 1

    def begin_verify(self, peer: Peer, offset: int, length: int) -> None:
        """Keep sessions out until :meth:`end_verify`; the range is read from the storage from here on.

        Raises:
            SlotBusyError: somebody writes.
            TargetError: what is in the cache alone cannot be written.
        """
        with self.lock:
            self.keep_out(peer)
            try:
                self.target.sync()
            except TargetError:
                # No claim stands on it; what it did not write is in a state that only a new descriptor can tell.
                self._failed = True
                self.end_verify(peer)
                raise
            self.target.drop_cached(offset, length)

    def end_verify(self, peer: Peer) -> None:
        with self.lock:
            self.verifying[peer.fingerprint] -= 1
            self.settled.notify_all()

    def vacate(self, peer: Peer) -> None:
        """End the session of a sender that is gone, for ``peer``.

        Raises:
            SlotBusyError: one is at work.
        """
        self.await_abandoned(peer, b"")
        with self.lock:
            self._supersede(peer, b"")

    def _supersede(self, peer: Peer, run: bytes) -> None:
        session = self.session
        verifying = self.verifying.total()
        if session is None and not verifying:
            return
        if verifying:
            raise SlotBusyError(f"slot {self.name} is being verified")
        assert session is not None
        same = session.peer.fingerprint == peer.fingerprint
        if not (same and (session.run == run or session.abandoned())) and not session.silent():
            raise SlotBusyError(
                f"slot {self.name} is held by {session.peer.name}, which is sending {session.source_name}"
            )
        self.end(session)

    def _fit_store(self, request: OpenRequest, notices: list[str]) -> SlotStore:
        if self.target.size < request.size:
            raise TargetRefusedError(
                f"target {self.target.name} has {self.target.size} bytes, the source {request.size}",
                remedy="offer a target that is at least as large as the source",
            )
        geometry = Geometry(request.size, request.block_bytes, request.sector_bytes)
        if request.digest not in tuple(DigestKind):
            raise ProtocolError(f"there is no digest kind {request.digest}")
        kind = DigestKind(request.digest)
        identity = fitted(request.source_identity)
        store = self._store
        if store is None:
            self._store = SlotStore.create(
                self._folder, geometry, kind, source_identity=identity, cached=self.budget.cached_segments
            )
            return self._store
        if not store.source_identity and store.geometry.size == request.size:
            # Rebuilt from the target alone: whatever it claims was read there, whose ever disk it is.
            store.adopt(identity)
        if store.source_identity != identity and not request.replace:
            whose = f"a copy of another disk ({store.source_identity})"
            if not store.source_identity:
                whose = f"{store.geometry.size} bytes of a disk that it does not know, not {request.size}"
            raise PeerError(
                f"slot {self.name} holds {whose}",
                remedy="send to another slot, or consent with --replace to overwrite that copy",
            )
        same_layout = (store.geometry.size, store.kind) == (request.size, kind)
        if not same_layout or store.source_identity != identity:
            notices.append("the source is not the one the slot knows in size, digest or identity: a full pass")
            store.reset(geometry, kind, source_identity=identity)
        elif store.geometry.block_bytes != request.block_bytes:
            notices.append(f"the slot keeps its block size of {store.geometry.block_bytes} bytes")
        return store

    def commit(self, session: Session, root: bytes) -> int:
        """Make the pass's end durable.

        Returns:
            the new generation.

        Raises:
            IntegrityError: the digest trees differ; nothing is committed.
        """
        with self.lock:
            if self.session is not session or session.links:
                raise PeerError("a session is committed after all its data connections have ended")
            session.landing.checkpoint()
            store = self._store
            assert store is not None
            generation = store.commit(root, self.target.write_mark())
            self.end(session)
            return generation

    def end(self, session: Session) -> None:
        """End a session; when this returns none of its frames writes any more. What is durable stays."""
        with self.lock:
            if self.session is not session:
                return
            session.ended.set()
            for link in tuple(session.links):
                link.abort()
            failure = session.landing.failure
            session.landing.drain()
            self._durable = (self._durable[0] + session.landing.durable_bytes, None)
            session.landing.due.set()
            if session.checkpointer is not None and session.checkpointer is not threading.current_thread():
                session.checkpointer.join()
            self.session = None
            if failure is None and self._store is not None:
                failure = self._foreign.note(self._store)
            if failure is not None:
                # Rule 3: after a failed write or sync neither the descriptor nor the store is used again.
                self._failed = True
                self.mend()

    def mend(self) -> None:
        """Open the target and the state again where they may not be used any more; what fails is tried again next time.

        Raises:
            TargetError: the target cannot be opened.
            StateError: the state cannot be read.
        """
        with self.lock:
            if self._failed:
                self.target.reopen()
            # The state's disk may also have failed outside a landing: in a commit, an epoch's record, a beginning.
            if self._failed or self._store is None or not self._store.usable:
                if self._store is not None:
                    self._store.close()
                self._store = self._loaded()
            self._failed = False

    def forget(self) -> None:
        """Drop all that is known of the target's content, durably; a session ends."""
        with self.lock:
            if self.session is not None:
                self.end(self.session)
            if self._store is not None:
                self._store.close()
                self._store = None
            for name in self._folder.list():
                self._folder.remove(name)
            self._folder.sync()

    def close(self) -> None:
        with self.lock:
            if self.session is not None:
                self.end(self.session)
            if self._store is not None:
                self._store.close()
            self.target.close()
            self._folder.close()


def _checkpoint_loop(session: Session) -> None:
    landing = session.landing
    while not session.ended.is_set():
        landing.due.wait(CHECKPOINT_SECONDS)
        try:
            landing.checkpoint()
        except BlocksyncError:
            return  # told to whoever applies, commits or asks next: the landing keeps its first failure

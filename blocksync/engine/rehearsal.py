"""Rehearsals at the receiver: a scratch slot for a sender that wants to know what a pass would cost.

It is a real slot with a real session, so that what is measured is what a pass does, whatever the engine
becomes. What it writes goes to a nameless file beside the target, or nowhere, and never to the target or its state. It
is bounded in size, in time and in number, and it yields to real work: nobody rehearses on a slot that is in use.
"""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

from blocksync.control.service import Peer
from blocksync.engine.slot import Slot
from blocksync.errors import PeerError, ProtocolError, SlotBusyError
from blocksync.manifest.folder import OsFolder
from blocksync.targets.nowhere import NowhereTarget

MAX_REHEARSAL_BYTES = 2 << 30
MAX_REHEARSAL_SECONDS = 60.0


class Rehearsals:
    """At most one at a time. Thread-safe.

    Args:
        folder: for the state of the scratch slot; removed at its end. None to refuse rehearsals.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._slot: Slot | None = None
        self._peer: Peer | None = None
        self._kind = ""
        self._session = b""
        self._timer: threading.Timer | None = None

    def begin(self, peer: Peer, slot: Slot, size: int) -> Slot:
        """Make the scratch slot; an earlier rehearsal of the same sender ends.

        Args:
            peer: has a grant for ``slot``.
            slot: that it wants to know about.
            size: bytes.

        Raises:
            PeerError: this receiver offers none.
            ProtocolError: ``size`` is out of bounds.
            SlotBusyError: somebody sends to the slot, or another sender rehearses.
        """
        folder = self._folder
        if folder is None:
            raise PeerError(
                "this receiver offers no rehearsals",
                remedy="without --to, blocksync estimate samples the source alone",
            )
        if not 0 < size <= MAX_REHEARSAL_BYTES:
            raise ProtocolError(f"a rehearsal of {size} bytes is out of bounds")
        if slot.session is not None and not slot.session.silent():
            raise SlotBusyError(f"slot {slot.name} is in use: an estimate would disturb it and would not be true")
        with self._lock:
            if self._peer is not None and self._peer.fingerprint != peer.fingerprint:
                raise SlotBusyError(
                    f"{self._peer.name} is estimating at this receiver",
                    remedy=f"try again in {MAX_REHEARSAL_SECONDS:.0f} s",
                )
            self._end()
            target = slot.target.scratch(size)
            self._kind = "nowhere" if target is None else "file"
            target = target or NowhereTarget(size)
            # What a receiver that was killed left there claims things of a file that is gone.
            shutil.rmtree(folder, ignore_errors=True)
            try:
                made = Slot(slot.name, target, OsFolder(folder), slot.budget)
            except BaseException:
                target.close()
                raise
            self._slot, self._peer = made, peer
            self._timer = threading.Timer(MAX_REHEARSAL_SECONDS, self.finish, (made,))
            self._timer.daemon = True
            self._timer.start()
            return made

    def opened(self, slot: Slot, session: bytes) -> None:
        """Remember the session on this scratch slot, which outlives its commit; nothing for other slots."""
        if slot is self._slot:
            self._session = session

    def written(self, peer: Peer, slot: Slot) -> Slot:
        """Where a verify on trial reads: the peer's scratch slot; the slot itself where nothing was written.

        Raises:
            PeerError: this peer rehearses on no such slot.
        """
        scratch, holder = self._slot, self._peer
        if scratch is None or holder is None or holder.fingerprint != peer.fingerprint or scratch.name != slot.name:
            raise PeerError(f"there is no rehearsal on slot {slot.name}", remedy="run blocksync estimate again")
        return slot if self._kind == "nowhere" else scratch

    def slots(self) -> tuple[Slot, ...]:
        slot = self._slot
        return () if slot is None else (slot,)

    def kind_of(self, slot: Slot) -> str:
        """``file`` or ``nowhere`` for a scratch slot; empty for a real one."""
        return self._kind if slot is self._slot else ""

    def finish(self, slot: Slot) -> None:
        """End the rehearsal on this scratch slot; nothing for other slots."""
        with self._lock:
            if slot is self._slot:
                self._end()

    def leave(self, peer: Peer, session: bytes) -> None:
        """End the rehearsal with this session, if it is the peer's; it may be committed already."""
        with self._lock:
            holder = self._peer
            if holder is not None and (holder.fingerprint, self._session) == (peer.fingerprint, session):
                self._end()

    def close(self) -> None:
        with self._lock:
            self._end()

    def _end(self) -> None:
        slot, self._slot, self._peer, self._session = self._slot, None, None, b""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if slot is not None and self._folder is not None:
            slot.close()
            shutil.rmtree(self._folder, ignore_errors=True)

"""The receiver: slots, who may use them, and the data connections that belong to their sessions.

What a sender can ask for is a port of its own, :class:`~blocksync.engine.port.PeerPort`.
"""

from __future__ import annotations

import hmac
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from blocksync.control.service import Peer
from blocksync.engine.division import Division, make_way
from blocksync.engine.inbound import serve
from blocksync.engine.rehearsal import Rehearsals
from blocksync.engine.slot import Session, Slot
from blocksync.errors import (
    BlocksyncError,
    NetworkError,
    PeerError,
    TrustError,
)
from blocksync.protocol.messages import (
    DivideRequest,
)
from blocksync.protocol.receiver import Binding, DataReceiver
from blocksync.protocol.wire import Hello
from blocksync.results import Progress
from blocksync.transports.link import Link

Handler = Callable[[Link, DataReceiver], None]


class Receiver:
    """Owns the slots.

    Args:
        slots: by name.
        allowed: the grants; asked for each operation.
        tell: takes progress events.
        scratch: folder for the state of rehearsals; None to refuse them.
        division: divides targets for flatten; None to refuse that.
    """

    def __init__(
        self,
        slots: dict[str, Slot],
        allowed: Callable[[Peer, str], bool],
        tell: Callable[[Progress], None],
        *,
        scratch: Path | None = None,
        division: Division | None = None,
    ) -> None:
        self.slots = slots
        self.division = division
        self._parts: dict[str, tuple[str, Slot]] = {}
        self._dividing = threading.Lock()
        self.rehearsals = Rehearsals(scratch)
        self.data_port = 0
        self.tell = tell
        self._allowed = allowed

    def allowed_slots(self, peer: Peer) -> list[str]:
        return [name for name in self.slots if self._allowed(peer, name)]

    def slot_for(self, peer: Peer, name: str) -> Slot:
        """The slot that a peer means; an empty name means its only one.

        Raises:
            TrustError: none, or not granted; which of both is not told.
        """
        part = self._parts.get(name)
        if part is not None and self._allowed(peer, part[0]):
            return part[1]
        granted = self.allowed_slots(peer)
        if not name and len(granted) == 1:
            name = granted[0]
        if not name and len(granted) > 1:
            raise PeerError(
                f"this sender may use several slots: {', '.join(granted)}", remedy="name one of them with --slot"
            )
        if name not in granted:
            raise TrustError(
                f"this sender has no grant for slot {name or '(any)'}",
                remedy="pair again with a fresh code from blocksync recv, or name another slot with --slot",
            )
        return self.slots[name]

    def find(self, session_id: bytes, fingerprint: bytes | None) -> tuple[Slot, Session]:
        """A running session of this peer.

        Raises:
            PeerError: there is none (any more): retrying with a new session helps.
        """
        parts = [slot for _, slot in tuple(self._parts.values())]
        for slot in (*self.slots.values(), *parts, *self.rehearsals.slots()):
            session = slot.session
            if session is None or not hmac.compare_digest(session.session_id, session_id):
                continue
            if fingerprint is not None and session.peer.fingerprint != fingerprint:
                break
            if not self._allowed(session.peer, self._granted_as(slot)):
                raise TrustError(f"the grant for slot {slot.name} was withdrawn")
            return slot, session
        # Retryable: the next attempt opens a new session and learns what is durable.
        raise NetworkError("the session has ended at the receiver")

    def _granted_as(self, slot: Slot) -> str:
        whole, part = self._parts.get(slot.name, ("", None))
        return whole if slot is part else slot.name

    def is_part(self, slot: Slot) -> bool:
        """Whether a slot is a partition of a divided target."""
        return self._parts.get(slot.name, ("", None))[1] is slot

    def divide(
        self, peer: Peer, slots: Sequence[Slot], request: DivideRequest
    ) -> tuple[list[dict[str, Slot]], bool]:
        """See :meth:`ControlPort.divide`; the parts are slots from then on."""
        division = self._division()
        names = {slot.name for slot in slots}
        with self._dividing:
            for name, (whole, part) in tuple(self._parts.items()):
                if whole in names:
                    part.vacate(peer)
                    del self._parts[name]
            make_way(slots, peer, replace=request.replace)
            found, anew = division.divide(slots, request.plan, replace=request.replace)
            for slot, parts in zip(slots, found, strict=True):
                self._parts.update({name: (slot.name, part) for name, part in parts.items()})
        return found, anew

    def resume_divisions(self) -> None:
        """Make the parts of targets that were divided before this start slots again."""
        for slot in self.slots.values() if self.division is not None else ():
            for name, part in self._division().resume(slot).items():
                self._parts[name] = (slot.name, part)

    def undivide(self, slot: Slot, *, replace: bool) -> None:
        """Before a whole disk is sent to a slot: it must not be divided, or that must be consented to.

        Raises:
            PeerError: it is, and nobody consented.
        """
        if self.division is None or self.is_part(slot) or not self.division.divided(slot.name):
            return
        if not replace:
            raise PeerError(
                f"slot {slot.name} holds a flattened system",
                remedy="send with --flatten, or consent with --replace to overwrite it with a whole disk",
            )
        with self._dividing:
            self._parts = {name: each for name, each in self._parts.items() if each[0] != slot.name}
            self.division.undo(slot)

    def finish(self, slots: Sequence[Slot]) -> dict[str, Any]:
        """See :meth:`ControlPort.finish`."""
        with self._dividing:
            return self._division().finish(slots)

    def remove_names(self, slot: Slot, wanted: dict[str, Any]) -> dict[str, Any]:
        """See :meth:`ControlPort.remove_names`."""
        return self._division().remove_names(slot, wanted)

    def _division(self) -> Division:
        if self.division is None:
            raise PeerError("this receiver divides no targets", remedy="send the disk as it is, without --flatten")
        return self.division

    def authorise(self, hello: Hello, fingerprint: bytes | None) -> Handler:
        """Admit a data connection that named its session and token; called by the listener.

        Raises:
            BlocksyncError: the connection is refused.
        """
        _, session = self.find(hello.session, fingerprint)
        if not hmac.compare_digest(session.token, hello.token):
            raise TrustError("the data connection's token is not the session's")

        def handle(link: Link, core: DataReceiver) -> None:
            self._serve(session, link, core)

        return handle

    def _serve(self, session: Session, link: Link, core: DataReceiver) -> None:
        if len(session.links) >= session.limits.connections or session.ended.is_set():
            link.close()
            return
        session.links.add(link)
        binding = Binding(epoch=session.epoch, geometry=session.geometry, limits=session.limits)
        try:
            serve(link, core, binding, session.landing)
        except BlocksyncError as error:
            if not session.ended.is_set():
                self.tell(Progress(stage="transferring", message=f"{session.peer.name}: {error.message}"))
        finally:
            session.links.discard(link)
            session.last_seen = time.monotonic()

    def close(self) -> None:
        self.rehearsals.close()
        for slot in self.slots.values():
            slot.close()

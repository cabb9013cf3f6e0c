"""The receiver: slots, who may use them, and what a sender can ask for.

:class:`Receiver` holds the slots and the data connections; :class:`PeerPort` is one peer's view of it, in which every
operation is checked against the peer's grants. The HTTPS server puts requests to it, and ``copy`` calls it directly.
"""

from __future__ import annotations

import hmac
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from blocksync.control.service import Peer
from blocksync.engine.division import Division, make_way, together
from blocksync.engine.inbound import serve
from blocksync.engine.rehearsal import Rehearsals
from blocksync.engine.slot import Session, Slot
from blocksync.engine.verify import Verification, piece_digests
from blocksync.engine.windows import Marks
from blocksync.errors import (
    BlocksyncError,
    NetworkError,
    PeerError,
    ProtocolError,
    TargetRefusedError,
    TrustError,
)
from blocksync.platforms.likeness import same_machine
from blocksync.protocol.messages import (
    MAX_TEXT_CHARACTERS,
    CommitAnswer,
    CommitRequest,
    ControlPort,
    DivideAnswer,
    DivideRequest,
    FinishRequest,
    Heartbeat,
    OpenAnswer,
    OpenRequest,
    RemovalRequest,
    VerifyAnswer,
    VerifyRequest,
)
from blocksync.protocol.receiver import Binding, DataReceiver
from blocksync.protocol.wire import Hello
from blocksync.results import Progress
from blocksync.targets.fitness import is_marked
from blocksync.transports.link import Link

Handler = Callable[[Link, DataReceiver], None]
MIN_VERIFY_PIECE_BYTES = 4096
MAX_VERIFY_PIECE_BYTES = 64 << 20


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


class PeerPort(ControlPort):
    """What one peer may ask for.

    Args:
        receiver: the slots.
        peer: proven by its certificate.
    """

    def __init__(self, receiver: Receiver, peer: Peer) -> None:
        self._receiver = receiver
        self._peer = peer

    def open(self, request: OpenRequest) -> OpenAnswer:
        slot = self._receiver.slot_for(self._peer, request.slot)
        _refuse_itself(slot, request.marks)
        if not request.rehearsal:
            self._receiver.undivide(slot, replace=request.replace)
        if request.rehearsal:
            slot = self._receiver.rehearsals.begin(self._peer, slot, request.size)
        slot.await_abandoned(self._peer, request.run)
        with slot.lock:
            session, notice = slot.open(self._peer, request)
            self._receiver.rehearsals.opened(slot, session.session_id)
            store = slot.store
            assert store is not None
            geometry = store.geometry
            known = store.map.counts().known_blocks * geometry.block_bytes
            answer = OpenAnswer(
                session=session.session_id,
                token=session.token,
                epoch=session.epoch,
                data_port=self._receiver.data_port,
                slot=slot.name,
                manifest_id=store.manifest_id,
                generation=store.generation,
                pass_open=not store.complete,
                size=geometry.size,
                sector_bytes=geometry.sector_bytes,
                block_bytes=geometry.block_bytes,
                digest=store.kind,
                key=store.key,
                root=store.map.root(),
                connections=session.limits.connections,
                frame_bytes=session.limits.frame_bytes,
                known_bytes=min(known, geometry.size),
                notice=notice,
                rehearsal=self._receiver.rehearsals.kind_of(slot),
                fresh=session.fresh,
                together=request.rehearsal and same_machine(request.marks),
            )
        detail: dict[str, object] = {
            "peer": self._peer.name,
            "source": request.source_name,
            "transfer": request.transfer,
        }
        self._tell("opened", slot, f"{self._peer.name} sends {request.source_name}", detail)
        return answer

    def segment_digests(self, session: bytes) -> bytes:
        slot, _ = self._find(session)
        assert slot.store is not None
        return slot.store.map.segment_digests()

    def segment(self, session: bytes, index: int) -> tuple[int, bytes]:
        slot, found = self._find(session)
        assert slot.store is not None
        if not 0 <= index < found.geometry.segment_count:
            raise ProtocolError(f"there is no segment {index}")
        return slot.store.map.export_segment(index)

    def heartbeat(self, session: bytes) -> Heartbeat:
        slot, found = self._find(session)
        failure = found.landing.failure
        if found.ended.is_set():
            # By its commit, perhaps, whose answer is on its way: no failure of the pass.
            raise NetworkError("the session has ended at the receiver")
        if failure is not None:
            raise failure
        if not self._receiver.rehearsals.kind_of(slot):
            self._receiver.tell(
                Progress(
                    stage="transferring",
                    slot=slot.name,
                    size=found.geometry.size,
                    durable=found.landing.durable_bytes,
                )
            )
        return Heartbeat(
            durable=found.landing.durable_bytes,
            epoch=found.epoch,
            busy=int(found.landing.work.seconds * 1000),
            processor=int(time.process_time() * 1000),
        )

    def commit(self, session: bytes, request: CommitRequest) -> CommitAnswer:
        slot, found = self._find(session)
        self._await_connections(found)
        generation = slot.commit(found, request.root)
        self._tell(
            "committed",
            slot,
            f"generation {generation} committed",
            {"generation": generation, "transfer": found.transfer},
        )
        return CommitAnswer(generation=generation, root=request.root)

    def _await_connections(self, session: Session) -> None:
        # A connection's last answer may be with the sender before its thread here has ended.
        for link in tuple(session.links):
            deadline = time.monotonic() + 10
            while link in session.links and time.monotonic() < deadline:
                threading.Event().wait(0.002)

    def end(self, session: bytes) -> None:
        try:
            slot, found = self._find(session)
        except BlocksyncError:
            self._receiver.rehearsals.leave(self._peer, session)
            return
        slot.end(found)
        self._receiver.rehearsals.finish(slot)
        self._tell(
            "closed",
            slot,
            f"{self._peer.name} ended its session; what is durable stays",
            {"transfer": found.transfer},
        )

    def divide(self, request: DivideRequest) -> DivideAnswer:
        slots = together(self._slot_of, self._receiver.is_part, request.slot, request.beside)
        for slot in slots:
            _refuse_itself(slot, request.marks)
        parts, anew = self._receiver.divide(self._peer, slots, request)
        how = "divided into" if anew else "is divided into"
        for slot, each in zip(slots, parts, strict=True):
            self._tell("divided", slot, f"{self._peer.name}: the target {how} {len(each)} partitions")
        names = ",".join(name for each in parts for name in each)
        return DivideAnswer(slot=slots[0].name, parts=names[:MAX_TEXT_CHARACTERS], anew=anew)

    def finish(self, request: FinishRequest) -> dict[str, Any]:
        slots = together(self._slot_of, self._receiver.is_part, request.slot, request.beside)
        report = self._receiver.finish(slots)
        for slot in slots:
            self._tell("finished", slot, "the system on the target is repaired", {"report": report})
        return report

    def remove_names(self, request: RemovalRequest) -> dict[str, Any]:
        slot = self._receiver.slot_for(self._peer, request.slot)
        slot.await_abandoned(self._peer, b"")
        slot.keep_out(self._peer)
        try:
            store = slot.store
            if store is None or not store.complete or not store.generation:
                raise PeerError(f"slot {slot.name} is not committed yet", remedy="run the same send again first")
            report = self._receiver.remove_names(slot, request.wanted)
        finally:
            slot.end_verify(self._peer)
        self._tell("removed", slot, f"{report['removed']} names of excluded files are removed", {"report": report})
        return report

    def verify(self, request: VerifyRequest) -> tuple[VerifyAnswer, Iterator[bytes]]:
        slot = self._receiver.slot_for(self._peer, request.slot)
        if request.rehearsal:
            slot = self._receiver.rehearsals.written(self._peer, slot)
        size = request.size
        if size > slot.target.size:
            raise PeerError(f"target {slot.name} has {slot.target.size} bytes, the source {size}")
        piece = request.piece_bytes
        if not MIN_VERIFY_PIECE_BYTES <= piece <= MAX_VERIFY_PIECE_BYTES or piece % 4096 or len(request.key) != 32:
            raise ProtocolError("a verify asks for pieces out of bounds")
        if request.offset % piece or request.offset + request.length > size or not request.length:
            raise ProtocolError("a verify asks for a range out of bounds")
        Marks(request.skip, request.length)
        slot.await_abandoned(self._peer, b"")
        slot.begin_verify(self._peer, request.offset, request.length)
        parts = piece_digests(
            slot.target, request.offset, request.length, request.piece_bytes, request.key, request.skip
        )
        return VerifyAnswer(slot=slot.name, size=slot.target.size), Verification(parts, slot, self._peer)

    def _slot_of(self, name: str) -> Slot:
        return self._receiver.slot_for(self._peer, name)

    def _find(self, session: bytes) -> tuple[Slot, Session]:
        slot, found = self._receiver.find(session, self._peer.fingerprint)
        found.last_seen = time.monotonic()
        return slot, found

    def _tell(self, stage: str, slot: Slot, message: str, detail: dict[str, object] | None = None) -> None:
        if slot is not self._receiver.slots.get(slot.name) and not self._receiver.is_part(slot):
            return  # a rehearsal is no news of its slot
        said = Progress(stage=stage, slot=slot.name, size=slot.target.size, message=message, detail=detail or {})
        self._receiver.tell(said)


def _refuse_itself(slot: Slot, marks: str) -> None:
    if is_marked(slot.target, marks):
        raise TargetRefusedError(
            f"the target {slot.target.name} is the source itself, holds it, or lies on it",
            remedy="send another disk, or offer another target",
            safe="nothing was written to it",
        )

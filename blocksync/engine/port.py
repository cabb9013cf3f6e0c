"""What one peer can ask of the receiver: every operation is checked against the peer's grants.

The HTTPS server puts requests to it, and ``copy`` calls it directly.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

from blocksync.control.service import Peer
from blocksync.engine.division import together
from blocksync.engine.receiver import Receiver
from blocksync.engine.slot import Session, Slot
from blocksync.engine.verify import Verification, piece_digests
from blocksync.engine.windows import Marks
from blocksync.errors import (
    BlocksyncError,
    NetworkError,
    PeerError,
    ProtocolError,
    TargetRefusedError,
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
from blocksync.results import Progress
from blocksync.targets.fitness import is_marked

MIN_VERIFY_PIECE_BYTES = 4096
MAX_VERIFY_PIECE_BYTES = 64 << 20


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

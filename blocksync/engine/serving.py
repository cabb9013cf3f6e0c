"""A running receiver: its slots, both ports, and the pairing desk."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from blocksync.control.server import ControlServer
from blocksync.control.service import Peer
from blocksync.engine.budget import DEFAULT_BUFFER_BYTES, MIN_BUFFER_BYTES, Budget
from blocksync.engine.cancel import Cancel
from blocksync.engine.codefiles import CodeFiles
from blocksync.engine.division import Division
from blocksync.engine.port import PeerPort
from blocksync.engine.receipts import attest
from blocksync.engine.receiver import Receiver
from blocksync.engine.rights import Rights
from blocksync.engine.slot import Slot
from blocksync.engine.statedir import rehearsal_folder, slot_folder, slot_name_for
from blocksync.engine.view import parse_status_address, receiver_view
from blocksync.errors import UsageError
from blocksync.manifest.folder import OsFolder
from blocksync.options import ReceiveOptions, TargetSpec
from blocksync.platforms import machine_memory_bytes, memory_bytes
from blocksync.platforms.dialing import Watching, unwatched
from blocksync.protocol.messages import ControlPort
from blocksync.results import Listening, Progress, ReceiveResult
from blocksync.targets import open_target
from blocksync.targets.fitness import is_marked
from blocksync.transports.listener import DataListener
from blocksync.trust.grants import Grants
from blocksync.trust.identity import Identity
from blocksync.trust.names import PEER_NAME_CHARACTERS, check_slot_name, printable
from blocksync.trust.pairing import PairingDesk, PairingRequest
from blocksync.trust.tls import LiveServerContext


class Serving:
    """Serves targets until it is closed; the control server's service.

    Args:
        options: of the caller.
        state: the state folder, prepared.
        division: divides targets for flatten; closed with this.
        watching: makes what waits for a target's server fail.
    """

    def __init__(
        self,
        options: ReceiveOptions,
        state: Path,
        division: Division | None = None,
        watching: Watching = unwatched,
    ) -> None:
        self._options = options
        self._committed: list[tuple[str, int, float]] = []
        self._changed = threading.Condition()
        self._exits = contextlib.ExitStack()
        self._started = time.time()
        status = parse_status_address(options.status_listen)
        rights = Rights(options.user, state)
        with rights.of_state():
            identity = Identity.load_or_create(state)
            self._grants = Grants(state)
            self._grants.peers()  # a damaged file is told at the start, not to the first sender
        self._identity = identity
        self._fingerprint = identity.fingerprint
        self._desk = PairingDesk(identity, name=socket.gethostname())
        with contextlib.ExitStack() as exits:
            exits.callback(rights.close)
            slots: dict[str, Slot] = {}
            named = _named(options.targets)
            budget = Budget(
                buffer_bytes=options.memory or _buffers_here(), slots=len(named), senders=options.senders
            )
            for name, spec in named.items():
                divided = division is not None and division.divided(name)
                slot = _open_slot(name, spec, state, rights, budget, divided=divided, watching=watching)
                exits.callback(slot.close)
                slots[name] = slot
            self._code_files = CodeFiles(options.code_file, options.code_folder, tuple(named))
            exits.callback(self._code_files.close)
            if options.user is not None:
                self._code_files.open()
            self._receiver = Receiver(
                slots,
                lambda peer, slot: self._grants.allowed(peer.fingerprint, slot),
                self._tell,
                scratch=rehearsal_folder(state) / "receiver",
                division=division,
            )
            if division is not None:
                exits.callback(division.close)  # before the slots: its parts stand on their targets
            self._receiver.resume_divisions()
            context = LiveServerContext(identity, self._grants.certificates).context
            listener = DataListener(context, options.listen, options.data_port, self._receiver.authorise)
            exits.callback(listener.close)
            server = ControlServer(self, context, options.listen, options.control_port, status)
            exits.callback(server.stop)
            rights.give_up([slot.target for slot in slots.values()])
            self._receiver.data_port = listener.port
            listener.start()
            server.start()
            self._exits = exits.pop_all()
        self._control_port = server.port
        self._status_port = server.status_port

    # -- what the control server asks -------------------------------------------------------------------------

    def pair(self, request: dict[str, object]) -> dict[str, object]:
        asked = PairingRequest.from_json(request)
        reply = self._desk.accept(asked, now=time.monotonic(), since=int(time.time()), commit=self._grants.add)
        who = printable(asked.name, PEER_NAME_CHARACTERS) or "a sender"
        self._tell(Progress(stage="paired", message=f"{who} is paired, and may send to {', '.join(reply.slots)}"))
        return reply.to_json()

    def grants_fingerprint_ok(self, fingerprint: bytes) -> Peer | None:
        grant = self._grants.find(fingerprint)
        return None if grant is None else Peer(fingerprint=grant.fingerprint, name=grant.name)

    @property
    def data_port(self) -> int:
        return self._receiver.data_port

    def recognises(self, marks: str) -> bool:
        return any(is_marked(slot.target, marks) for slot in self._receiver.slots.values())

    def port_for(self, peer: Peer) -> ControlPort:
        return PeerPort(self._receiver, peer)

    def receipt(self, peer: Peer, request: dict[str, Any]) -> dict[str, Any]:
        return attest(request, peer, self._receiver.slot_for, self._identity)

    def view(self, peer: Peer | None) -> dict[str, Any]:
        names = list(self._receiver.slots) if peer is None else self._receiver.allowed_slots(peer)
        slots = [self._receiver.slots[name] for name in names]
        memory = memory_bytes() if peer is None else 0
        return receiver_view(slots, self._committed, started=self._started, memory=memory)

    def status(self, peer: Peer) -> dict[str, object]:
        said: dict[str, object] = {}
        for name in self._receiver.allowed_slots(peer):
            slot = self._receiver.slots[name]
            store, session = slot.store, slot.session
            said[name] = {
                "size": slot.target.size,
                "generation": store.generation if store else 0,
                "pass_open": bool(store and not store.complete),
                "held_by": session.peer.name if session else "",
                "durable": session.landing.durable_bytes if session else 0,
            }
        return {"slots": said, "data_port": self._receiver.data_port}

    # -- life ---------------------------------------------------------------------------------------------------

    def listening(self) -> Listening:
        """Issue a pairing code, or one for each slot, and say where we are."""
        slots = tuple(self._receiver.slots)
        code, codes = "", []
        if self._options.code_folder is not None:
            each = self._desk.issue_each([(slot,) for slot in slots], time.monotonic())
            codes = [(slot, given.text) for slot, given in zip(slots, each, strict=True)]
        else:
            code = self._desk.issue(slots, time.monotonic()).text
        self._code_files.write(code, codes)
        return Listening(
            control_port=self._control_port,
            data_port=self._receiver.data_port,
            code=code,
            codes=tuple(codes),
            fingerprint=self._fingerprint.hex(),
            slots=slots,
            status_port=self._status_port,
        )

    def run(self, cancel: Cancel) -> ReceiveResult:
        """Serve until cancelled, or until each slot has committed once where ``once`` is asked for."""
        while not cancel.is_set():
            with self._changed:
                if self._options.once and {slot for slot, _, _ in self._committed} >= set(self._receiver.slots):
                    break
                self._changed.wait(timeout=0.2)
        return ReceiveResult(committed=tuple((slot, generation) for slot, generation, _ in self._committed))

    def close(self) -> None:
        """Stop listening, end the sessions; what is durable stays."""
        self._exits.close()

    def _tell(self, progress: Progress) -> None:
        if progress.stage == "finished":
            with self._changed:
                # The parts' own generations tell how often; as a whole it is there, or not.
                self._committed.append((progress.slot, 1, time.time()))
                self._changed.notify_all()
        if progress.stage == "committed" and progress.slot in self._receiver.slots:
            store = self._receiver.slots[progress.slot].store
            with self._changed:
                self._committed.append((progress.slot, store.generation if store else 0, time.time()))
                self._changed.notify_all()
        if self._options.progress is not None:
            self._options.progress(progress)


def _named(targets: Iterable[TargetSpec]) -> dict[str, TargetSpec]:
    """The targets by their slots' names; found out before any of them is touched."""
    named: dict[str, TargetSpec] = {}
    for spec in targets:
        name = check_slot_name(spec.slot or slot_name_for(spec.path))
        if name in named:
            raise UsageError(
                f"two targets are offered as slot {name}", remedy="name them apart: --target NAME=PATH"
            )
        named[name] = spec
    return named


def _buffers_here() -> int:
    """Buffers for all senders where nobody said how much: a quarter of the machine's memory, within bounds."""
    return max(MIN_BUFFER_BYTES, min(DEFAULT_BUFFER_BYTES, machine_memory_bytes() // 4))


def _open_slot(
    name: str, spec: TargetSpec, state: Path, rights: Rights, budget: Budget, *, divided: bool, watching: Watching
) -> Slot:
    with rights.of_state():
        folder = OsFolder(slot_folder(state, name))
    try:
        target = open_target(
            spec.path,
            create_size=spec.create_size,
            overwrite=spec.overwrite or Slot.holds_state(folder) or divided,
            state_dir=state,
            watching=watching,
        )
        try:
            with rights.of_state():
                return Slot(name, target, folder, budget)
        except BaseException:
            target.close()
            raise
    except BaseException:
        folder.close()
        raise

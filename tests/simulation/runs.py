"""One run: a transfer of a few passes between two simulated machines while things go wrong, then a verify.

The real code on both sides: :class:`Sender` with its retries, threads and copy of the manifest; :class:`Receiver`,
:class:`Slot`, :class:`Landing`, store and journal, the file target and the state folder. An *operator* starts the
processes, starts them again when they ended or died, and changes the source between passes. Everything follows from
the seed.
"""

from __future__ import annotations

import contextlib
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import blocksync.engine.landing
import blocksync.engine.plan
import blocksync.engine.verify
import blocksync.geometry
import blocksync.manifest.working
from blocksync.control.service import Peer
from blocksync.engine.cancel import Cancel
from blocksync.engine.inbound import read_frame
from blocksync.engine.receiver import Receiver
from blocksync.engine.sender import Sender
from blocksync.engine.sending import Route
from blocksync.engine.slot import Slot
from blocksync.engine.verify import Verifier
from blocksync.errors import BlocksyncError, StateDamagedError
from blocksync.manifest.cache import ManifestCopy
from blocksync.manifest.folder import OsFolder
from blocksync.options import Digest, SendOptions
from blocksync.protocol.receiver import DataReceiver
from blocksync.targets.disk import FileTarget
from blocksync.transports.link import Link
from tests.simulation import clockwork, oracle
from tests.simulation.clockwork import Clockwork, Process
from tests.simulation.faults import FOREIGN, FULL_DISK_SECONDS, LIE, LINKS, PROCESSES, REQUESTS, Plan
from tests.simulation.network import Network, SimControl, SimLink
from tests.simulation.oracle import Oracle, ToldError, ViolationError
from tests.simulation.osmodule import Disk, Inode, MachineProcess, SimPath
from tests.simulation.sources import ChangingSource, content, rewrite

PEER = Peer(fingerprint=b"\x07" * 32, name="sender")
# A run that is at work for so long will not come to an end.
MOST_STEPS = 200_000
# Starts of a sender that may fail once nothing goes wrong any more: leftovers of what went wrong before.
MOST_FAILURES_AFTER = 6
MOST_FAILURES = 12
RESTART_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run was and did."""

    seed: int
    hit: Counter[str]
    steps: int
    checks: int
    sessions: int
    seconds: float
    """Simulated."""
    trace: list[str] = field(default_factory=list)


class Run:
    """A run.

    Args:
        seed: everything follows from it.
        traced: keep a trace for people.
        most_faults: at most.
    """

    def __init__(self, seed: int, *, traced: bool = False, most_faults: int = 6) -> None:
        self._chance = chance = random.Random(seed)
        self._seed = seed
        self._traced = traced
        self.trace: list[str] = []
        self.clockwork = Clockwork(chance.getrandbits(48))
        clockwork.use(self.clockwork)
        self._plan = Plan(chance, most_faults)
        self._shape(chance)
        self._oracle = Oracle(self._tell)
        self._oracle.most_lost_blocks = self._most_lost
        oracle.watch_with(self._oracle)
        self._net = net = Network(self.clockwork, chance.choice((0.001, 0.05, 2.0)))
        net.on_send, net.on_request, net.dribbles = self._on_send, self._on_request, self._dribbles
        self._dribbling: set[SimLink] = set()
        self._disks = {name: Disk(name, self._on_disk) for name in ("R", "S")}
        # Records of a small disk are small: with small sectors they are torn as large ones are.
        self._disks["R"].sector = chance.choice((64, 512))
        old = chance.choice((bytes, chance.randbytes))(self._target_size)
        self._target = self._disks["R"].make(oracle.TARGET, old, chance.choice((512, 4096)))
        self._tail = old[self._size :]
        self._full_until: dict[str, float] = {}
        self._source = ChangingSource(content(chance, self._size), self._on_read, holes=chance.random() < 0.5)
        self._operator = Process("operator")
        self._sender: MachineProcess | None = None
        self._cancel = Cancel()
        self._receiver: Receiver | None = None
        self._sessions = 0
        self._verdict = False
        self._done = False

    def _shape(self, chance: random.Random) -> None:
        block = chance.choice((4096, 4096, 16384))
        blocks = chance.randint(1, 6 if block == 4096 else 4)
        self._size = size = block * blocks - (
            chance.randrange(1, block // 512) * 512 if chance.random() < 0.2 else 0
        )
        self._target_size = size + chance.choice((0, 4096))
        self._block = block
        self._passes = chance.choice((1, 2, 2, 3))
        self._connections = chance.choice((1, 1, 2, 3))
        self._level = chance.choice((0, 0, 0, 3, None))
        self._digest = chance.choice((Digest.XXH3, Digest.XXH3, Digest.XXH3, Digest.BLAKE3))
        chunk = block * chance.choice((1, 1, 2, 4))
        segment = chunk * chance.choice((1, 2, 64))
        window = block * chance.choice((1, 1, 2, 4))
        held = block * chance.choice((1, 2, 64))
        window_blocks = chance.choice((2, 4, 1 << 15))
        # The sizes that make a small disk go through what a large one goes through.
        blocksync.geometry.DEFAULT_CHUNK_BYTES = chunk
        blocksync.engine.plan.STEP_BYTES = chunk
        blocksync.geometry.SEGMENT_BYTES = blocksync.engine.plan.SEGMENT_BYTES = segment
        blocksync.manifest.working.CACHED_SEGMENTS = chance.choice((1, 8))
        blocksync.engine.landing.WINDOW_BYTES = window
        blocksync.engine.landing.HELD_BYTES = held
        blocksync.engine.landing.WINDOW_BLOCKS = window_blocks
        blocksync.engine.verify.PIECE_BYTES = chance.choice((4096, 8192, 4 << 20))
        in_frames = self._connections * chunk // block
        self._most_lost = 2 * (max(window // block, held // 4096 if block > 4096 else 0) + in_frames)

    # -- the run --------------------------------------------------------------------------------------------------

    def run(self) -> Outcome:
        """Play it.

        Raises:
            ViolationError: a promise was broken.
        """
        work = self.clockwork
        try:
            self._boot()
            work.spawn(self._operator, self._operate, "operator")
            work.run(lambda: self._done, MOST_STEPS)
            self._end()
        except ToldError as error:
            self._tell(f"told: {error}")
        except (ViolationError, clockwork.StuckError) as error:
            raise ViolationError(f"seed {self._seed}: {error}") from error
        except BlocksyncError as error:
            raise ViolationError(
                f"seed {self._seed}: a thread ended with {type(error).__name__}: {error}"
            ) from error
        except Exception as error:
            raise ViolationError(f"seed {self._seed}: unexpected {type(error).__name__}: {error}") from error
        finally:
            for process in (self._operator, self._sender, self._net.receiver and self._net.receiver[0]):
                if process is not None:
                    process.on_death.clear()
                    work.kill(process)
            oracle.watch_with(None)
        return Outcome(
            self._seed,
            self._plan.hit,
            work.steps,
            self._oracle.checks,
            self._sessions,
            work.now - 1000.0,
            self.trace,
        )

    def _end(self) -> None:
        """The last power cut: what was told to be done is durably so."""
        disk = self._disks["R"]
        self._oracle.check(disk, "at the end, cached", cached=True)
        disk.power_cut(self.clockwork.chance)
        if self._plan.hit[LIE]:
            return
        self._oracle.check(disk, "at the end, durable", cached=False)
        if bytes(self._target.durable[: self._size]) != bytes(self._source.content):
            raise ViolationError("the transfer ended and the target is not the source")
        if self._target.durable[self._size :] != self._tail:
            raise ViolationError("something was written behind the slot's end")

    def _tell(self, text: str) -> None:
        if self._traced:
            self.trace.append(f"{self.clockwork.now - 1000:10.3f} {self._plan.announced:5d} {text}")

    # -- processes ------------------------------------------------------------------------------------------------

    def _boot(self) -> None:
        """Start the receiver."""
        process = MachineProcess("receiver", self._disks["R"])
        process.on_death.append(lambda machine_too: self._receiver_died(process, machine_too))
        self.clockwork.spawn(process, lambda: self._receive(process), "main")

    def _receive(self, process: MachineProcess) -> None:
        try:
            with contextlib.ExitStack() as exits:
                folder = OsFolder(SimPath(oracle.FOLDER.rstrip("/")))  # type: ignore[arg-type]
                exits.callback(folder.close)
                target = FileTarget(oracle.TARGET, overwrite=True, fresh=False, state_dir=None)
                exits.callback(target.close)
                slot = Slot("web", target, folder)
                exits.pop_all()
        except StateDamagedError as error:
            if not self._oracle.trusts_disk:
                raise ToldError(str(error)) from error
            raise ViolationError(f"the receiver cannot start: {error}") from error
        except BlocksyncError as error:
            self._tell(f"receiver cannot start: {error}")
            self.clockwork.between = lambda: self.clockwork.kill(process)
            self.clockwork.give_way()
            return
        self._tell("receiver serves")
        self._receiver = Receiver({"web": slot}, lambda peer, name: peer == PEER and name == "web", lambda _: None)
        self._net.receiver = (process, self._receiver)

    def _receiver_died(self, process: MachineProcess, machine_too: bool) -> None:
        self._net.process_died(process, machine_too)
        self._receiver = None
        self._tell("receiver died")
        self.clockwork.after(self.clockwork.chance.random() * RESTART_SECONDS, self._boot)

    def _send(self, what: Callable[[], None]) -> str:
        """Run a process on the sender's machine to its end; what it ended with, "" for good."""
        process = self._sender = MachineProcess("sender", self._disks["S"])
        ended = clockwork.Event()
        said = ["died"]

        def died(machine_too: bool) -> None:
            self._net.process_died(process, machine_too)
            ended.set()

        def main() -> None:
            try:
                what()
                said[0] = ""
            except BlocksyncError as error:
                said[0] = f"{error.code} {error}"
            finally:
                if not process.dead:
                    self.clockwork.between = lambda: self.clockwork.kill(process)
                    self.clockwork.give_way()

        process.on_death.append(died)
        self._cancel = Cancel()
        self.clockwork.spawn(process, main, "main")
        ended.wait()
        self._sender = None
        return said[0]

    def _send_pass(self) -> None:
        with OsFolder(SimPath("/S/copies/web")) as folder:  # type: ignore[arg-type]
            process = self._sender
            assert process is not None
            route = Route(
                control=SimControl(self._net, PEER),
                connect=lambda _answer: self._net.connect(process, self._attend),
                copy=ManifestCopy(folder),
            )
            options = SendOptions(
                to="",
                slot="web",
                connections=self._connections,
                digest=self._digest,
                block_bytes=self._block,
                level=self._level,
                retry_seconds=120.0,
            )
            result = Sender(self._source, route, options, self._cancel).run()
            self._tell(f"sender: {result.kind} pass, generation {result.generation}, retries {result.retries}")

    def _attend(self, link: Link, receiver: Receiver) -> None:
        """What the data port's listener does with a connection (transports/listener.py)."""
        core = DataReceiver()
        try:
            frame, payload = read_frame(link, core)
            handler = receiver.authorise(core.greeting(frame, payload), PEER.fingerprint)
        except BlocksyncError as error:
            with contextlib.suppress(BlocksyncError):
                link.send(core.refuse(error))
            link.close()
            return
        self._sessions += 1
        handler(link, core)

    # -- the operator ---------------------------------------------------------------------------------------------

    def _operate(self) -> None:
        failures = failures_after = 0
        for number in range(self._passes):
            if number:
                rewrite(self._chance, self._source.content)
                if self._plan.due(FOREIGN):
                    self._write_foreign()
            last = number == self._passes - 1
            self._source.quiet = last
            while said := self._send(self._send_pass):
                if said.startswith(StateDamagedError.code) and not self._oracle.trusts_disk:
                    raise ToldError(said)
                self._tell(f"sender ended: {said}")
                if self._rests() and self._plan.due(FOREIGN):
                    self._write_foreign()
                failures += 1
                if failures > MOST_FAILURES:
                    self._plan.stop()  # what is still to come could come for ever, an attempt at a time
                if not self._plan.pending and self.clockwork.now >= max(self._full_until.values(), default=0.0):
                    failures_after += 1
                    if failures_after > MOST_FAILURES_AFTER:
                        raise ViolationError(f"nothing goes wrong any more, and the sender ended with {said}")
                self.clockwork.wait(self.clockwork.chance.random() * RESTART_SECONDS)
        self._plan.stop()
        self._verify()
        self._done = True

    def _verify(self) -> None:
        """Verify must say what is so of the disk, whatever its page cache shows."""
        for _ in range(MOST_FAILURES_AFTER):
            said = self._send(self._send_verify)
            if said:
                self._tell(f"verify ended: {said}")
                self.clockwork.wait(RESTART_SECONDS)
                continue
            same = bytes(self._target.durable[: self._size]) == bytes(self._source.content)
            if self._verdict != same:
                raise ViolationError(f"verify says identical={self._verdict} where that is {same}")
            if not same and not self._plan.hit[LIE]:
                raise ViolationError("the passes ended and the disks differ")
            return
        raise ViolationError("nothing goes wrong any more, and verify does not get through")

    def _send_verify(self) -> None:
        control = SimControl(self._net, PEER)
        self._verdict = Verifier(self._source, control, "web", None, Cancel()).run().identical

    def _rests(self) -> bool:
        """Whether the receiver has noted, of a pass that is not committed, what the target looks like."""
        slot = self._receiver.slots["web"] if self._receiver is not None else None
        store = slot.store if slot is not None and slot.session is None else None
        # A mark ends with the time of the last change.
        return store is not None and store.usable and store.write_mark.endswith(f":{self._target.modified}")

    def _write_foreign(self) -> None:
        """Somebody else writes to the target, between two passes or two sessions of one."""
        block = self._chance.randrange(-(-self._size // self._block))
        at = block * self._block
        self._target.write(at, self._chance.randbytes(512))
        self._target.sync()
        self._target.modified += 1
        self._oracle.foreign.add(block)
        self._tell(f"foreign write to block {block}")

    # -- what goes wrong ------------------------------------------------------------------------------------------

    def _on_disk(self, disk: Disk, operation: str, inode: Inode | None) -> str:
        plan = self._plan
        if self._full_until.get(disk.name, 0) > self.clockwork.now and operation in ("write", "create"):
            plan.announced += 1
            return "ENOSPC"
        if not plan.announce():
            if self.clockwork.chance.random() < 0.3:
                self.clockwork.give_way()
            return ""
        self._maybe_die()
        how = plan.at_disk(operation)
        if how:
            self._tell(f"{disk.name}: {how} at {operation}")
        if how == "slow":
            self.clockwork.wait(self.clockwork.chance.random() * 60)
            return ""
        if how == "ENOSPC":
            self._full_until[disk.name] = self.clockwork.now + self.clockwork.chance.random() * FULL_DISK_SECONDS
        if how == "lied":
            self._oracle.trusts_disk = False
        return how

    def _on_send(self, link: SimLink, data: bytes) -> int:
        plan = self._plan
        if not plan.announce():
            return -1
        self._maybe_die()
        kind = plan.due(*LINKS)
        if not kind:
            return -1
        self._tell(kind)
        chance = self.clockwork.chance
        if kind == "link cut":
            return chance.randrange(len(data) + 1)
        if kind == "link half-open":
            self._net.half_open(link, both=chance.random() < 0.5)
        elif kind == "link stalled":
            link._out.last = self.clockwork.now + chance.random() * 60
        elif kind == "link dribbles":
            self._dribbling.update((link, link.other))
        else:
            self._net.part(chance.random() * 90)
        return -1

    def _dribbles(self, link: SimLink) -> bool:
        return link in self._dribbling and self.clockwork.chance.random() < 0.2

    def _on_request(self, what: str) -> str:
        plan = self._plan
        if not plan.announce():
            return ""
        self._maybe_die()
        kind = plan.due(*REQUESTS)
        if not kind:
            return ""
        self._tell(f"{kind}: {what}")
        return REQUESTS[kind]

    def _on_read(self) -> str:
        plan = self._plan
        if not plan.announce():
            return ""
        self._maybe_die()
        if not self._source.quiet and plan.due("source changed in a pass"):
            rewrite(self._chance, self._source.content)
            return ""
        return "failed" if plan.due("source read error") else ""

    def _maybe_die(self) -> None:
        """Have processes end, from the scheduler, before the operation that was announced."""
        kind = self._plan.due(*PROCESSES)
        if not kind:
            return
        self._tell(kind)
        if kind == "sender interrupted":
            sender = self._sender
            if sender is not None:
                self.clockwork.spawn(sender, self._cancel.set, "signal")
        elif kind == "receiver stopped":
            self._stop_receiver()
        else:
            self.clockwork.between = lambda: self._die(kind)
        self.clockwork.give_way()

    def _stop_receiver(self) -> None:
        if self._net.receiver is None:
            return
        process, receiver = self._net.receiver
        self._net.receiver = None

        def stop() -> None:
            with contextlib.suppress(BlocksyncError):
                receiver.close()
            self.clockwork.between = lambda: self.clockwork.kill(process)
            self.clockwork.give_way()

        self.clockwork.spawn(process, stop, "stop")

    def _die(self, kind: str) -> None:
        who, _, how = kind.partition(" ")
        power = how == "power cut"
        if who in ("receiver", "both"):
            self._receiver_dies(power)
        if who in ("sender", "both"):
            if self._sender is not None:
                self.clockwork.kill(self._sender, machine_too=power)
            if power:
                self._disks["S"].power_cut(self.clockwork.chance)

    def _receiver_dies(self, power: bool) -> None:
        process = self._net.receiver[0] if self._net.receiver is not None else None
        if process is not None:
            self.clockwork.kill(process, machine_too=power)
        if power and process is not None:
            self._disks["R"].power_cut(self.clockwork.chance)
            self._oracle.check(self._disks["R"], "after a power cut", cached=False)
        else:
            self._oracle.check(self._disks["R"], "after a kill", cached=True)

"""Each byte of a whole session, each fault of the way, one after the other: both ends in this process.

:mod:`tests.faults.cuts` starts real processes for each fault, so it visits some bytes. Here a receiver serves as
``blocksync recv`` does, with its ports, TLS, slot and files, and :func:`blocksync.api.send` and
:func:`blocksync.api.verify` are called as a program would call them, with the same proxy between: tens of faults a
second. A call does not retry, so that what a broken session leaves behind is looked at; then the same call, over a way
that is whole, must finish.

What must hold after each: the call ended with a result or a documented error; nothing was raised or logged that is a
bug's; no claim is false; the second call finishes and the target is the source, or a verify names just what differs;
and threads, descriptors and sessions are as many as before.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from blocksync import api
from blocksync.engine.serving import Serving
from blocksync.engine.slot import Slot
from blocksync.engine.statedir import prepare
from blocksync.errors import BlocksyncError, NetworkError
from blocksync.options import ReceiveOptions, SendOptions, TargetSpec, VerifyOptions
from blocksync.results import SendResult, VerifyResult
from blocksync.sources.memory import MemorySource
from blocksync.trust.grants import Grants
from blocksync.trust.identity import Identity
from blocksync.trust.pins import Pins
from tests.claims import false_claims, files_of
from tests.faults.bench import free_ports
from tests.faults.children import Broken
from tests.faults.cuts import FAR, NEAR, SPREAD_BYTES, TOLD, either
from tests.faults.hurry import hurry
from tests.faults.kills import Tally
from tests.faults.proxy import DIRECTIONS, Proxy, Rule

SCENES = ("incremental", "pairing", "fetching", "verify")
ACTIONS = ("mixed", "cut", "reset", "stall", "dribble")
SLOT = "a"
BLOCK = 16384
PAGE = 4096
BLOCKS = 8
SIZE = BLOCKS * BLOCK
# Nothing here takes a second that is not held; this is a hang.
HANG_SECONDS = 60.0
# Nor is anything waited for at an end that is longer than the longest deadline.
LEFT_SECONDS = 15.0
RETRY_SECONDS = 30.0
AGAIN = 5
# Each so many faults, a verify says what it sees.
PROOF_EVERY = 50
PATIENT_SECONDS = 0.0002

Said = SendResult | VerifyResult | BlocksyncError


class Sweep:
    """A campaign in this process; threads only begin after the proxy's process.

    Args:
        folder: empty; owned.
        tally: counted into.
    """

    def __init__(self, folder: Path, tally: Tally) -> None:
        self._tally = tally
        self._bugs: list[str] = []
        self._turn = 0
        self._scene = ""
        control, data = free_ports()
        self._proxy = Proxy(NEAR, FAR, control, data)
        hurry(2 * BLOCK)
        self._watch()
        self._to = f"{NEAR}:{control}"
        self._target = folder / "target.img"
        self._state, self._ours = prepare(folder / "receiver"), prepare(folder / "sender")
        spec = TargetSpec(path=str(self._target), slot=SLOT, create_size=SIZE)
        self._serving = Serving(
            ReceiveOptions(targets=(spec,), listen=FAR, control_port=control, data_port=data), self._state
        )
        self._slot: Slot = self._serving._receiver.slots[SLOT]
        self._code = self._serving.listening().code
        self._source = MemorySource(SIZE)
        self._content = bytearray(SIZE)
        for number in range(0, BLOCKS, 2):
            self._write(number * BLOCK, bytes([number + 1]) * BLOCK)
        self._same("incremental")
        self._same("incremental")
        self._threads, self._descriptors = _threads(), _descriptors()

    def places(self, scene: str, action: str) -> Iterator[Rule]:
        """A fault at each byte of each connection of a session, each way; or one that dribbles for each of them."""
        for port, number, direction, count in self._connections(scene):
            if action == "dribble":
                yield Rule(port=port, connection=number, direction=direction, action=action, pause=PATIENT_SECONDS)
                continue
            for at in range(count + SPREAD_BYTES):
                done = either(port, number, direction, at) if action == "mixed" else action
                yield Rule(port=port, connection=number, direction=direction, action=done, at=at)

    def run(self, scene: str, rule: Rule) -> None:
        """One fault; a broken promise is kept in the tally."""
        try:
            met, code = self._fault(scene, rule)
        except Broken as broken:
            self._tally.fail(f"--scene {scene} {rule}: {broken}")
            self._scene, met, code = "", True, -1
        if met:
            self._tally.runs += 1
            self._tally.faults[f"{rule.action} {rule.port} {rule.direction}"] += 1
            self._tally.faults[f"scene {scene}"] += 1
            self._tally.faults[f"ended with {code}"] += 1

    def close(self) -> None:
        self._serving.close()
        self._proxy.close()

    # -- one fault ------------------------------------------------------------------------------------------------

    def _fault(self, scene: str, rule: Rule) -> tuple[bool, int]:
        """Whether the rule met its byte, and how the call ended."""
        self._begin(scene)
        self._proxy.obey(rule)
        said = self._call(scene, retry=0)
        met = bool(self._proxy.obey(None)["met"])
        _until(lambda: self._slot.session is None or not self._slot.session.links, "a dead connection stays")
        if scene != "verify":
            self._check_claims()
        code = said.exit_code if isinstance(said, BlocksyncError) else 0
        if code and code not in TOLD:
            raise Broken(f"it ends with {code}: {said}")
        if not code:
            self._judge(scene, said)
        else:
            self._judge(scene, self._again(scene))
        if scene != "verify":
            self._check_claims()
            if not self._turn % PROOF_EVERY:
                self._judge("verify", self._call("verify", retry=0))
        self._check_left()
        if self._bugs:
            raise Broken("\n".join(self._take_bugs()))
        return met, code

    def _again(self, scene: str) -> Said:
        """The same call over a whole way; a pairing, which no retry covers, is made again where a machine is busy."""
        said = self._call(scene, retry=RETRY_SECONDS)
        for _ in range(AGAIN):
            if not isinstance(said, NetworkError):
                break
            said = self._call(scene, retry=RETRY_SECONDS)
        return said

    def _call(self, scene: str, *, retry: float) -> Said:
        """Send or verify; what came of it.

        Raises:
            Broken: something that is no error of ours.
            RuntimeError: it does not end; nothing more can be said of this process.
        """
        said: list[Said] = []

        def work() -> None:
            try:
                said.append(self._ask(scene, retry))
            except BlocksyncError as error:
                said.append(error)
            except BaseException:  # noqa: BLE001 - whatever else is raised is a bug
                self._bugs.append(traceback.format_exc())

        thread = threading.Thread(target=work, name="caller", daemon=True)
        thread.start()
        thread.join(HANG_SECONDS)
        if thread.is_alive():
            raise RuntimeError(f"a call of {scene} does not end:\n{_stacks()}")
        if not said:
            raise Broken("\n".join(self._take_bugs()))
        return said[0]

    def _ask(self, scene: str, retry: float) -> SendResult | VerifyResult:
        if scene == "verify":
            return api.verify(
                self._source,
                VerifyOptions(to=self._to, slot=SLOT, code=self._code, state_dir=self._ours, all_blocks=True),
            )
        options = SendOptions(
            to=self._to,
            slot=SLOT,
            code=self._code,
            state_dir=self._ours,
            connections=1,
            block_bytes=BLOCK,
            level=1,
            retry_seconds=retry,
            all_blocks=True,
        )
        return api.send(self._source, options)

    # -- scenes ---------------------------------------------------------------------------------------------------

    def _connections(self, scene: str) -> list[tuple[str, int, str, int]]:
        """``(port, number, direction, bytes)`` of the connections of a session that nothing disturbs."""
        self._same(scene)
        numbers: Counter[str] = Counter()
        found = []
        for each in self._proxy.obey(None)["connections"]:
            port = each["port"]
            found.extend((port, numbers[port], direction, each[direction]) for direction in DIRECTIONS)
            numbers[port] += 1
        if not set(numbers) >= ({"control"} if scene == "verify" else {"control", "data"}):
            raise Broken(f"a session of {numbers}")
        return found

    def _same(self, scene: str) -> None:
        """A scene without a fault."""
        self._begin(scene)
        self._proxy.obey(None)
        self._judge(scene, self._again(scene))

    def _begin(self, scene: str) -> None:
        if self._scene == "verify" != scene:
            # What was written to the target behind the receiver's back is not looked for again at each pass.
            self._forget()
        if scene == "verify" and self._scene != "verify":
            self._same("incremental")
        self._scene = scene
        self._turn += 1
        if scene == "pairing":
            self._forget()
            with contextlib.suppress(BlocksyncError):
                Grants(self._state).revoke(Identity.load_or_create(self._ours).fingerprint.hex())
            Pins(self._ours).forget(*_address(self._to))
            self._code = self._serving.listening().code
        elif scene == "verify":
            # The target is what differs.
            with self._target.open("r+b") as file:
                file.seek(self._turn % BLOCKS * BLOCK)
                file.write(bytes([200 + self._turn % 50]) * PAGE)
        else:
            self._change()
        if scene == "fetching":
            for path in (self._ours / "copies").glob("*/*/manifest*"):
                path.unlink()

    def _forget(self) -> None:
        """The slot as it was before its first pass."""
        self._slot.forget()
        os.truncate(self._target, 0)
        os.truncate(self._target, SIZE)

    def _change(self) -> None:
        """A page, a block, one that becomes zeros, one that is filled: always as many bytes on the wire."""
        value = bytes([1 + self._turn % 199])
        self._write(0, value * PAGE)
        self._write(BLOCK, value * BLOCK)
        for number in (2, 3):
            self._write(number * BLOCK, (value if (self._turn + number) % 2 else b"\0") * BLOCK)

    def _write(self, offset: int, data: bytes) -> None:
        self._source.write(offset, data)
        self._content[offset : offset + len(data)] = data

    # -- promises -------------------------------------------------------------------------------------------------

    def _judge(self, scene: str, said: Said) -> None:
        """What a call over a whole way must come to."""
        target = self._target.read_bytes()
        if isinstance(said, BlocksyncError):
            raise Broken(f"the same call again ends with {said.exit_code}: {said}")
        if isinstance(said, VerifyResult):
            wrong = [at for at in range(0, SIZE, PAGE) if target[at : at + PAGE] != self._content[at : at + PAGE]]
            if said.identical == bool(wrong) or said.differing_bytes != len(wrong) * PAGE:
                raise Broken(f"verify says {said} of a target that differs at {wrong}")
        elif target != self._content:
            raise Broken(f"a {scene} pass is transferred and the target is not the source")

    def _check_claims(self) -> None:
        """No claim on the disk is false, at a moment when nothing is being changed."""
        folder = self._state / "slots" / SLOT
        while True:
            # A receiver that nobody talks to may still be making its last window durable.
            with contextlib.suppress(FileNotFoundError):
                files, content = files_of(folder), self._target.read_bytes()
                if files == files_of(folder):
                    break
        try:
            wrong = false_claims(files, content)
        except BlocksyncError as error:
            raise Broken(f"state cannot be read: {error}") from error
        if wrong:
            raise Broken(f"{wrong} blocks are claimed that the target does not hold")

    def _check_left(self) -> None:
        slot = self._slot
        _until(lambda: slot.session is None and not slot.verifying.total(), "a session stays open")
        _until(lambda: _threads() <= self._threads, "a thread is left")
        try:
            _until(lambda: _descriptors() <= self._descriptors, "")
        except Broken:
            self._descriptors = _descriptors()
            raise Broken(f"a descriptor is left:\n{_names()}") from None

    def _watch(self) -> None:
        """Keep what threads raise and what is logged as an error."""
        bugs = self._bugs

        class Keeping(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                bugs.append(logging.Formatter().format(record))

        def hook(args: threading.ExceptHookArgs) -> None:
            thread = args.thread.name if args.thread else ""
            bugs.append(
                thread + "".join(traceback.format_exception(args.exc_type, args.exc_value, args.exc_traceback))
            )

        logging.getLogger().addHandler(Keeping(logging.ERROR))
        threading.excepthook = hook

    def _take_bugs(self) -> list[str]:
        bugs = list(self._bugs)
        self._bugs.clear()
        return bugs


def _address(to: str) -> tuple[str, int]:
    host, _, port = to.rpartition(":")
    return host, int(port)


def _threads() -> int:
    """But for those of the control port's pools, of which there may be ever more until they are full."""
    return sum(not thread.name.startswith("control") for thread in threading.enumerate())


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def _names() -> str:
    """What the descriptors are, sockets with their states."""
    tables = Path("/proc/self/net/tcp").read_text().splitlines()[1:]
    states = {f"socket:[{line.split()[9]}]": " ".join(line.split()[1:4]) for line in tables}
    found = []
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            name = os.readlink(f"/proc/self/fd/{number}")
            found.append(f"{number} {name} {states.get(name, '')}")
    return "\n".join(found)


def _until(true: Callable[[], bool], otherwise: str) -> None:
    deadline = time.monotonic() + LEFT_SECONDS
    while not true():
        if time.monotonic() > deadline:
            raise Broken(f"{otherwise}:\n{_stacks()}")
        time.sleep(0.001)


def _stacks() -> str:
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    return "\n".join(
        f"-- {names.get(ident, ident)}\n{''.join(traceback.format_stack(frame)[-6:])}"
        for ident, frame in sys._current_frames().items()
    )

"""Two ends with everything they keep, made once, and put back to that moment before each run.

A *scene* is a moment worth a fault: never paired; paired and nothing sent; a pass committed and the source changed
since; a pass interrupted in its middle. The disk is 1 MiB in blocks of 64 KiB: it has all kinds of frames, and
few operations.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import socket
import time
from dataclasses import dataclass
from pathlib import Path

from blocksync.errors import BlocksyncError
from tests.claims import false_claims, files_of
from tests.faults.children import Broken, Child
from tests.faults.injector import Arm

SIZE = 1 << 20
BLOCK = 64 << 10
PAGE = 4096
SCENES = ("pairing", "full", "incremental", "resumed")


@dataclass(slots=True)
class Kept:
    """What a scene consists of."""

    folder: Path
    source: bytes
    target: bytes
    source_times: tuple[int, int]
    target_times: tuple[int, int]


class Bench:
    """A folder with a source, a target and both ends' state.

    Args:
        folder: empty; owned.
        source, target: devices to use instead of image files.
        connections: data connections at most.
    """

    def __init__(
        self, folder: Path, *, source: Path | None = None, target: Path | None = None, connections: int = 2
    ) -> None:
        self.folder = folder
        self.live = folder / "live"
        self.live.mkdir(parents=True)
        self.said = folder / "said"
        self.said.mkdir()
        self.source = source or self.live / "source.img"
        self.target = target or self.live / "target.img"
        self.devices = target is not None
        self.connections = connections
        self.control, self.data = free_ports()
        # Senders go to 127.0.0.1; a receiver elsewhere is reached by a proxy there.
        self.listen = "127.0.0.1"
        self._kept: dict[str, Kept] = {}
        self._running: list[Child] = []

    # -- commands -----------------------------------------------------------------------------------------------

    def recv(self, wanted: Arm | None = None, prefix: tuple[str, ...] = ()) -> Child:
        return self._start(
            "recv", "--target", f"a={self.target}", "--listen", self.listen,
            "--control-port", str(self.control), "--data-port", str(self.data),
            "--state-dir", str(self.live / "receiver"), "--code-file", str(self.folder / "code"),
            *(("--overwrite", str(self.target)) if self.devices else ()),
            wanted=wanted, prefix=prefix,
        )  # fmt: skip

    def send(
        self, wanted: Arm | None = None, *, command: str = "send", retry: float = 60, prefix: tuple[str, ...] = ()
    ) -> Child:
        more = ("--connections", str(self.connections), "--retry", str(retry)) if command == "send" else ()
        return self._start(
            command, str(self.source), "--to", f"127.0.0.1:{self.control}",
            "--state-dir", str(self.live / "sender"), "--code-file", str(self.folder / "code"), *more,
            wanted=wanted, prefix=prefix,
        )  # fmt: skip

    def copy(self, wanted: Arm | None = None, prefix: tuple[str, ...] = ()) -> Child:
        return self._start(
            "copy", str(self.source), str(self.target), "--overwrite", str(self.target),
            "--state-dir", str(self.live / "local"), wanted=wanted, prefix=prefix,
        )  # fmt: skip

    def _start(self, *words: str, wanted: Arm | None, prefix: tuple[str, ...]) -> Child:
        device = str(self.target) if self.devices else ""
        child = Child(self.said, *words, wanted=wanted, watched=(f"{self.live}/", device), prefix=prefix)
        self._running.append(child)
        return child

    def listening(self, receiver: Child) -> bool:
        """Wait until it listens; False where it ended instead."""
        deadline = time.monotonic() + 60
        while receiver.event("listening") is None:
            if receiver.poll():
                return receiver.event("listening") is not None
            if time.monotonic() > deadline:
                raise Broken("a receiver does not come to listen")
            time.sleep(0.003)
        return True

    def stop(self, receiver: Child) -> None:
        """End a healthy receiver as a user does."""
        receiver.interrupt()
        receiver.check()
        if receiver.code != 130:
            raise Broken(f"an interrupted receiver ended with {receiver.code}")

    def disturb(self) -> None:
        """Change the source between two passes."""
        _fill(self.source, _changed(self.source.read_bytes(), random.Random("disturbed")))

    def clear(self) -> None:
        """End what still runs."""
        for child in self._running:
            with contextlib.suppress(BaseException):
                child.kill()
        self._running.clear()

    # -- scenes ---------------------------------------------------------------------------------------------------

    def prepare(self, scene: str) -> None:
        """Play up to a scene and keep it."""
        if scene in self._kept:
            return
        chance = random.Random(scene)
        for name in ("receiver", "sender", "local"):
            shutil.rmtree(self.live / name, ignore_errors=True)
        _fill(self.source, _content(chance))
        _fill(self.target, bytes(SIZE))
        if scene != "pairing":
            self._play(scene, chance)
        self._kept[scene] = self._keep(scene)

    def _play(self, scene: str, chance: random.Random) -> None:
        receiver = self.recv()
        if not self.listening(receiver):
            raise Broken(f"no receiver: {receiver.told()}")
        if scene == "full":
            # Paired by a verify, which writes nothing.
            self.send(command="verify").wait()
        else:
            first = self.send()
            if first.wait():
                raise Broken(f"no first pass: {first.told()}")
        self.stop(receiver)
        if scene in ("incremental", "resumed"):
            _fill(self.source, _changed(self.source.read_bytes(), chance))
        if scene == "resumed":
            self._interrupt()

    def _interrupt(self) -> None:
        """Kill a receiver in the middle of settling a window."""
        from tests.faults.injector import Action, Operations

        receiver = self.recv(Arm(action=Action.COUNT, operations=Operations.CHANGES))
        self.listening(receiver)
        kept = self._keep("middle")
        sender = self.send()
        sender.wait()
        self.stop(receiver)
        middle = receiver.seen() * 2 // 3
        self._put(kept)
        receiver = self.recv(Arm(action=Action.KILL_AFTER, at=middle, operations=Operations.CHANGES))
        self.listening(receiver)
        # What was put back on a device looks like a foreign write, for whose re-hash a sender waits.
        sender = self.send(retry=20 if self.devices else 0)
        receiver.wait()
        sender.wait()
        if not receiver.killed:
            raise Broken("the receiver was not killed in the middle of its pass")

    def _keep(self, name: str) -> Kept:
        kept = self.folder / "kept" / name
        shutil.rmtree(kept, ignore_errors=True)
        kept.mkdir(parents=True)
        for each in ("receiver", "sender", "local"):
            if (self.live / each).exists():
                shutil.copytree(self.live / each, kept / each)
        return Kept(
            kept, self.source.read_bytes(), self.target.read_bytes(), _times(self.source), _times(self.target)
        )

    def restore(self, scene: str) -> None:
        """Put everything back to where the scene begins, times included."""
        self.clear()
        self.prepare(scene)
        self._put(self._kept[scene])

    def _put(self, kept: Kept) -> None:
        for each in ("receiver", "sender", "local"):
            shutil.rmtree(self.live / each, ignore_errors=True)
            if (kept.folder / each).exists():
                shutil.copytree(kept.folder / each, self.live / each)
        for path, content, times in (
            (self.source, kept.source, kept.source_times),
            (self.target, kept.target, kept.target_times),
        ):
            _fill(path, content)
            if not self.devices:
                os.utime(path, ns=times)

    # -- promises ---------------------------------------------------------------------------------------------------

    def check_claims(self, folder: Path | None = None) -> None:
        """Every claim of the receiver's state, as it is on disk now, is true of the target.

        Raises:
            Broken: one is not, or the state cannot be read.
        """
        files = files_of(folder or self.live / "receiver" / "slots" / "a")
        try:
            wrong = false_claims(files, self.target.read_bytes()[:SIZE])
        except BlocksyncError as error:
            raise Broken(f"state cannot be read: {error}") from error
        if wrong:
            raise Broken(f"{wrong} blocks are claimed that the target does not hold")

    def check_same(self) -> None:
        if self.source.read_bytes() != self.target.read_bytes()[:SIZE]:
            raise Broken("the target is not the source")

    def finish(self, receiver: Child | None, *, verify: bool = True) -> None:
        """The same command again finishes; verify says identical; the receiver ends well."""
        if receiver is None or receiver.poll():
            receiver = self.recv()
            if not self.listening(receiver):
                raise Broken(f"the receiver does not start again: {receiver.told()}")
        again = self.send()
        again.check()
        if again.code:
            raise Broken(f"the same command again ends with {again.code}: {again.told()}")
        self.settle(receiver, verify=verify)

    def settle(self, receiver: Child, *, verify: bool = True) -> None:
        """What holds after a committed pass."""
        self.check_same()
        if verify:
            proof = self.send(command="verify")
            said = proof.check()
            if said.get("identical") is not True:
                raise Broken(f"verify says {said}")
        self.stop(receiver)
        self.check_claims()

    def close(self) -> None:
        self.clear()
        shutil.rmtree(self.folder, ignore_errors=True)


def free_ports() -> tuple[int, int]:
    """Two free ports below those that the system hands out."""
    found: list[int] = []
    chance = random.Random(os.urandom(8))
    while len(found) < 2:
        port = chance.randrange(12000, 32000)
        with contextlib.closing(socket.socket()) as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            if port not in found:
                found.append(port)
    return found[0], found[1]


def _content(chance: random.Random) -> bytes:
    """Blocks that are random, compressible or zero."""
    content = bytearray(SIZE)
    for at in range(0, SIZE, BLOCK):
        kind = chance.randrange(4)
        if kind == 1:
            content[at : at + BLOCK] = chance.randbytes(PAGE) * (BLOCK // PAGE)
        elif kind > 1:
            content[at : at + BLOCK] = chance.randbytes(BLOCK)
    return bytes(content)


def _changed(content: bytes, chance: random.Random) -> bytes:
    """Some pages patched, some blocks replaced, some zeroed, some filled."""
    changed = bytearray(content)
    for at in range(0, SIZE, BLOCK):
        kind = chance.randrange(5)
        if kind == 0:
            page = at + chance.randrange(BLOCK // PAGE) * PAGE
            changed[page : page + PAGE] = chance.randbytes(PAGE)
        elif kind == 1:
            changed[at : at + BLOCK] = chance.randbytes(BLOCK)
        elif kind == 2:
            changed[at : at + BLOCK] = bytes(BLOCK)
    return bytes(changed)


def _fill(path: Path, content: bytes) -> None:
    """Write in place: the inode stays, zero blocks of a file are holes."""
    regular = not path.exists() or path.is_file()
    with open(path, "r+b" if path.exists() else "w+b") as file:
        if regular:
            file.truncate(0)
            file.truncate(len(content))
        for at in range(0, len(content), BLOCK):
            piece = content[at : at + BLOCK]
            if not regular or any(piece):
                file.seek(at)
                file.write(piece)


def _times(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_atime_ns, status.st_mtime_ns

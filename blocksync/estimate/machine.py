"""``bench``: how fast each stage of a pass is on this machine, and which of them would be the narrowest.

Each stage runs alone, in one thread, on the same sample. What counts beside its rate is its processor time a byte,
which neither waiting nor other work distorts: the stages of a pass share the processors, so their processor times add
up, while their rates as such do not. Both ends are measured here; that the other machine is like this one is the
assumption under which the result speaks of a pass.
"""

from __future__ import annotations

import os
import random
import socket
import ssl
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from blocksync.codec import Packer, Unpacker
from blocksync.engine.adapt import LADDER
from blocksync.engine.cancel import Cancel
from blocksync.errors import NetworkError, TargetError, from_os_error
from blocksync.estimate.results import BenchOptions, BenchResult, PassFigure, StageFigure
from blocksync.geometry import DIGEST_BYTES, PAGE_DIGEST_BYTES, Geometry
from blocksync.kernels import KEY_BYTES, DigestKind, is_zero, scan
from blocksync.sources.base import Source
from blocksync.trust.identity import Identity
from blocksync.trust.tls import client_context, server_context

PIECE_BYTES = 1 << 20
SAMPLE_PIECES = 24
# Long enough for a rate that holds, short enough that the whole is over in some seconds.
STAGE_SECONDS = 0.3
WRITE_BYTES = 96 << 20
LINK_SECONDS = 0.6
HANDSHAKE_SECONDS = 10.0
_KEY = bytes(range(KEY_BYTES))


@dataclass(frozen=True, slots=True)
class _Cost:
    """Seconds a byte: of wall clock, of the processor."""

    wall: float
    processor: float

    def figure(self, name: str, note: str = "", ratio: float = 1.0) -> StageFigure:
        return StageFigure(name=name, rate=1 / self.wall, processor=self.processor, ratio=ratio, note=note)


class Bench:
    """Measures the stages.

    Args:
        source: to read samples from; None for a sample made here.
        options: of the caller.
        cancel: ends it between two stages.
    """

    def __init__(self, source: Source | None, options: BenchOptions, cancel: Cancel) -> None:
        self._source = source
        self._options = options
        self._cancel = cancel
        self._stages: list[StageFigure] = []

    def run(self) -> BenchResult:
        """Measure, one stage after the other; some ten seconds in all.

        Raises:
            SourceError: the source cannot be read.
            TargetError: the folder for the write stage cannot be written.
            NetworkError: loopback does not carry a connection.
        """
        read, pieces = self._read()
        data = [piece for piece in pieces if not is_zero(piece)] or [_text(random.Random(1))]  # noqa: S311 - content to measure with
        digest = self._digest(data)
        packing = self._packing(data)
        sending, receiving = self._link(data)
        write = self._write(data)
        passes = [
            _figure(level, read, digest, pack, unpack, ratio, sending, receiving, write, self._options.link)
            for level, (pack, unpack, ratio) in packing.items()
        ]
        return BenchResult(
            source=self._source.name if self._source is not None else "",
            cores=_cores(),
            zero_share=1 - len(data) / len(pieces) if pieces else 0.0,
            stages=tuple(self._stages),
            passes=tuple(passes),
        )

    # -- stages -----------------------------------------------------------------------------------------------

    def _read(self) -> tuple[_Cost, list[bytes]]:
        source = self._source
        if source is None:
            # Nothing is read: a rate that is never the narrowest.
            return _Cost(1e-15, 0.0), sample()
        buffer = memoryview(bytearray(PIECE_BYTES))
        whole = max(source.size // PIECE_BYTES, 1)
        pieces: list[bytes] = []
        wall = processor = 0.0
        for number in range(min(SAMPLE_PIECES, whole)):
            self._cancel.check()
            at = whole * number // min(SAMPLE_PIECES, whole) * PIECE_BYTES
            view = buffer[: min(PIECE_BYTES, source.size - at)]
            began, worked = time.perf_counter(), time.thread_time()
            source.read_into(at, view)
            wall += time.perf_counter() - began
            processor += time.thread_time() - worked
            pieces.append(bytes(view))
        read = sum(map(len, pieces))
        cost = _Cost(wall / read, processor / read)
        self._stages.append(cost.figure("read", "one read at a time, in steps over the whole source"))
        return cost, pieces

    def _digest(self, data: Sequence[bytes]) -> _Cost:
        geometry = Geometry(PIECE_BYTES)
        costs = {}
        for kind, name in ((DigestKind.BLAKE3, "digest BLAKE3"), (DigestKind.XXH3, "digest XXH3")):

            def digest(piece: bytes, kind: DigestKind = kind) -> None:
                blocks = -(-len(piece) // geometry.block_bytes)
                digests = bytearray(DIGEST_BYTES * blocks)
                pages = bytearray(PAGE_DIGEST_BYTES * geometry.pages_per_block * blocks)
                scan(piece, geometry.block_bytes, kind, _KEY, digests, pages)

            costs[kind] = self._timed(digest, data)
            self._stages.append(costs[kind].figure(name))
        return costs[DigestKind.XXH3]

    def _packing(self, data: Sequence[bytes]) -> dict[int | None, tuple[_Cost, _Cost, float]]:
        """By level: packing and unpacking, both a plain byte, and bytes left of one."""
        found: dict[int | None, tuple[_Cost, _Cost, float]] = {None: (_Cost(0, 0), _Cost(0, 0), 1.0)}
        packer, unpacker = Packer(), Unpacker()
        for level in LADDER:
            if level is None:
                continue
            packed = {piece: packer.pack(piece, level) for piece in data[:4]}
            packed |= {piece: None for piece in data if not packer.shrinks(memoryview(piece))}

            def pack(piece: bytes, level: int = level) -> None:
                if packer.shrinks(memoryview(piece)):
                    packer.pack(piece, level)

            cost = self._timed(pack, data)
            kept = {piece: packer.pack(piece, level) for piece in data if piece not in packed} | packed
            ratio = sum(len(kept[piece] or piece) for piece in data) / sum(map(len, data))

            def unpack(piece: bytes, kept: dict[bytes, bytes | None] = kept) -> None:
                frame = kept[piece]
                if frame is not None:
                    unpacker.unpack(memoryview(frame), len(piece))

            undone = self._timed(unpack, data)
            found[level] = cost, undone, ratio
            self._stages.append(cost.figure(f"pack at level {level}", ratio=ratio))
        unpacking = found[1][1]
        self._stages.append(unpacking.figure("unpack", "what was packed at level 1"))
        return found

    def _link(self, data: Sequence[bytes]) -> tuple[_Cost, _Cost]:
        """Sending and receiving over loopback, with TLS and for comparison without."""
        with tempfile.TemporaryDirectory(prefix="blocksync-bench-") as folder:
            receiver, sender = (Identity.load_or_create(Path(folder) / name) for name in ("receiver", "sender"))
            server = server_context(receiver, [sender.certificate])
            client = client_context(sender, pin=receiver.fingerprint)
            for name, secure in (("loopback", False), ("loopback with TLS", True)):
                self._cancel.check()
                try:
                    ends = _joined()
                    ours, theirs = _secured(*ends, client, server) if secure else ends
                    with ours, theirs:
                        sending, receiving = _pumped(ours, theirs, data)
                except OSError as error:
                    raise from_os_error(error, NetworkError, "loopback does not carry a connection") from error
                note = f"of it {1e3 * (1 << 30) * receiving.processor:.0f} ms of processor a GiB at the receiver"
                both = _Cost(sending.wall, sending.processor + receiving.processor)
                self._stages.append(both.figure(name, note))
        return sending, receiving

    def _write(self, data: Sequence[bytes]) -> _Cost:
        self._cancel.check()
        folder = self._options.folder or Path(tempfile.gettempdir())
        began, worked = time.perf_counter(), time.process_time()
        try:
            # Without a name: whatever ends this process ends the file.
            with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
                written = 0
                while written < WRITE_BYTES:
                    written += file.write(data[written // PIECE_BYTES % len(data)])
                os.fsync(file.fileno())
        except OSError as error:
            raise from_os_error(error, TargetError, f"cannot write {WRITE_BYTES >> 20} MiB to {folder}") from error
        cost = _Cost((time.perf_counter() - began) / written, (time.process_time() - worked) / written)
        self._stages.append(cost.figure("write", f"a file in {folder}, made durable"))
        return cost

    def _timed(self, work: Callable[[bytes], None], data: Sequence[bytes]) -> _Cost:
        self._cancel.check()
        work(data[0])  # what is set up on first use
        began, worked = time.perf_counter(), time.thread_time()
        done = 0
        while time.perf_counter() - began < STAGE_SECONDS or done < len(data):
            work(data[done % len(data)])
            done += 1
            if time.perf_counter() - began > 3 * STAGE_SECONDS:
                break
        size = sum(len(data[number % len(data)]) for number in range(done))
        return _Cost((time.perf_counter() - began) / size, (time.thread_time() - worked) / size)


def _figure(
    level: int | None,
    read: _Cost,
    digest: _Cost,
    pack: _Cost,
    unpack: _Cost,
    ratio: float,
    sending: _Cost,
    receiving: _Cost,
    write: _Cost,
    link: int,
) -> PassFigure:
    """A first pass at a level: its rate is that of its narrowest stage."""
    here = read.processor + digest.processor + pack.processor + ratio * sending.processor
    there = ratio * receiving.processor + unpack.processor + digest.processor + write.processor
    rates = {
        "read": 1 / read.wall,
        "processor": _cores() / here,
        "target": min(1 / write.wall, _cores() / there),
    }
    if link:
        rates["link"] = link / ratio
    narrowest = min(rates, key=lambda name: rates[name])
    return PassFigure(level=level, rate=rates[narrowest], ratio=ratio, bottleneck=narrowest)


def _pumped(ours: socket.socket, theirs: socket.socket, data: Sequence[bytes]) -> tuple[_Cost, _Cost]:
    received = 0.0

    def take() -> None:
        nonlocal received
        buffer = memoryview(bytearray(PIECE_BYTES))
        began = time.thread_time()
        while theirs.recv_into(buffer):
            pass
        received = time.thread_time() - began

    taker = threading.Thread(target=take, name="bench-receiver", daemon=True)
    taker.start()
    began, worked, sent = time.perf_counter(), time.thread_time(), 0
    while time.perf_counter() - began < LINK_SECONDS:
        for piece in data:
            ours.sendall(piece)
            sent += len(piece)
    work = time.thread_time() - worked
    # As in a transfer that was aborted: the TCP socket below TLS, since a TLS farewell would wait for the other end.
    socket.socket.shutdown(ours, socket.SHUT_WR)
    taker.join()
    wall = time.perf_counter() - began
    return _Cost(wall / sent, work / sent), _Cost(wall / sent, received / sent)


def _joined() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        ours = socket.create_connection(listening.getsockname(), timeout=HANDSHAKE_SECONDS)
        theirs, _ = listening.accept()
    ours.settimeout(None)
    return ours, theirs


def _secured(
    ours: socket.socket, theirs: socket.socket, client: ssl.SSLContext, server: ssl.SSLContext
) -> tuple[socket.socket, socket.socket]:
    found: list[socket.socket] = []
    other = threading.Thread(
        target=lambda: found.append(server.wrap_socket(theirs, server_side=True)),
        name="bench-handshake",
        daemon=True,
    )
    other.start()
    secure = client.wrap_socket(ours)
    other.join(HANDSHAKE_SECONDS)
    if not found:
        raise TimeoutError("the handshake did not end")
    return secure, found[0]


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def sample() -> list[bytes]:
    """What servers' disks hold, roughly: two parts zeros, one and a half each of text and of what does not shrink."""
    chance = random.Random(7)  # noqa: S311 - content to measure with
    pieces = []
    for number in range(SAMPLE_PIECES):
        kind = number % 10
        if kind < 4:
            pieces.append(bytes(PIECE_BYTES))
        else:
            pieces.append(_text(chance) if kind < 7 else chance.randbytes(PIECE_BYTES))
    return pieces


def _text(chance: random.Random) -> bytes:
    words = [bytes(chance.choices(range(97, 123), k=chance.randrange(2, 11))) for _ in range(4000)]
    return b" ".join(chance.choices(words, k=PIECE_BYTES // 5))[:PIECE_BYTES].ljust(PIECE_BYTES)

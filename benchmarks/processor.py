"""What a first pass costs both ends in processor time, against the sum of what its parts cost alone; and where it goes.

    python -m benchmarks.processor [--size 2G] [--rounds 3] [--level 1] [--profile]

A part alone is one thread that does nothing else to the very bytes that the pass moves, in pieces of the same length
and by the same functions: read, digest, pack, send and receive with TLS over loopback, unpack, digest again, write.
Each is measured in processor time, so that other work on the machine does not count, and in each round anew, beside the
pass, since the machine's own speed drifts. What a pass costs beside its parts is threads that wait for each other,
frames, claims, journals and locks.

``--profile`` needs ``perf``: it samples both ends of one pass and tells where each was, by what the sample was part of.
"""

from __future__ import annotations

import argparse
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.data import MIB, make_disk
from benchmarks.ends import Ends
from benchmarks.samples import profile
from benchmarks.tools import free_port
from blocksync.cli.quantities import parse_size
from blocksync.codec import Packer, Unpacker
from blocksync.geometry import DIGEST_BYTES, PAGE_DIGEST_BYTES, Geometry
from blocksync.kernels import KEY_BYTES, ZERO_FLAG, DigestKind, scan
from blocksync.sources.disk import FileSource
from blocksync.targets.disk import FileTarget, create_image
from blocksync.trust.identity import Identity
from blocksync.trust.tls import client_context, server_context

# What goes over loopback is taken from so many payloads, as warm in the caches as one that was just packed.
PAYLOADS = 8
KEY = bytes(range(KEY_BYTES))


class Parts:
    """Seconds of processor of each part, alone.

    Args:
        disk: that the pass moves.
        folder: for the target that the write part fills.
        level: of compression.
    """

    def __init__(self, disk: Path, folder: Path, level: int) -> None:
        self._source = FileSource(str(disk))
        self._folder = folder
        self._level = level
        self._geometry = Geometry(self._source.size)
        self._buffer = memoryview(bytearray(self._geometry.chunk_bytes))
        blocks = self._geometry.chunk_bytes // self._geometry.block_bytes
        self._digests = bytearray(DIGEST_BYTES * blocks)
        self._pages = bytearray(PAGE_DIGEST_BYTES * self._geometry.pages_per_block * blocks)
        self.seconds: dict[str, float] = {}

    def measure(self) -> dict[str, float]:
        """All of them, one after the other."""
        self._add("read", sum(self._timed_read(at) for at in range(0, self._source.size, len(self._buffer))))
        self._add("digest", sum(self._timed_digest(piece)[0] for _, piece in self._pieces()))
        data = [at for at, piece in self._pieces() if self._timed_digest(piece)[1]]
        payloads, wire = self._packing(data)
        self._loopback(payloads, wire)
        self._add("digest again", sum(self._timed_digest(piece)[0] for _, piece in self._pieces(data)))
        self._write(data)
        self._source.close()
        return self.seconds

    def _add(self, name: str, seconds: float) -> None:
        self.seconds[name] = seconds

    def _timed_read(self, at: int) -> float:
        began = time.thread_time()
        self._source.read_into(at, self._buffer[: min(len(self._buffer), self._source.size - at)])
        return time.thread_time() - began

    def _pieces(self, places: list[int] | None = None) -> Iterator[tuple[int, memoryview]]:
        for at in range(0, self._source.size, len(self._buffer)) if places is None else places:
            piece = self._buffer[: min(len(self._buffer), self._source.size - at)]
            self._source.read_into(at, piece)
            yield at, piece

    def _timed_digest(self, piece: memoryview) -> tuple[float, bool]:
        """Seconds, and whether there is anything but zeros."""
        began = time.thread_time()
        flags = scan(piece, self._geometry.block_bytes, DigestKind.XXH3, KEY, self._digests, self._pages)
        return time.thread_time() - began, any(not flag & ZERO_FLAG for flag in flags)

    def _packing(self, data: list[int]) -> tuple[list[bytes], int]:
        packer, unpacker = Packer(), Unpacker()
        packing = unpacking = 0.0
        payloads: list[bytes] = []
        wire = 0
        for number, (_, piece) in enumerate(self._pieces(data)):
            began = time.thread_time()
            packed = packer.pack(piece, self._level) if packer.shrinks(piece) else None
            packing += time.thread_time() - began
            if packed is not None:
                began = time.thread_time()
                unpacker.unpack(memoryview(packed), len(piece))
                unpacking += time.thread_time() - began
            wire += len(piece) if packed is None else len(packed)
            if number < PAYLOADS:
                payloads.append(bytes(piece) if packed is None else packed)
        self._add("pack", packing)
        self._add("unpack", unpacking)
        return payloads, wire

    def _loopback(self, payloads: list[bytes], wire: int) -> None:
        """As many bytes as the pass has on the wire, over one TLS connection."""
        receiver, sender = (Identity.load_or_create(self._folder / name) for name in ("receiving", "sending"))
        server = server_context(receiver, [sender.certificate])
        client = client_context(sender, pin=receiver.fingerprint)
        received: list[float] = []
        with socket.create_server(("127.0.0.1", 0)) as listening:

            def take() -> None:
                with server.wrap_socket(listening.accept()[0], server_side=True) as theirs:
                    buffer = memoryview(bytearray(self._geometry.chunk_bytes))
                    began, left = time.thread_time(), wire
                    while left > 0:
                        left -= theirs.recv_into(buffer)
                    received.append(time.thread_time() - began)

            taker = threading.Thread(target=take, daemon=True)
            taker.start()
            with client.wrap_socket(socket.create_connection(listening.getsockname())) as ours:
                began, sent, number = time.thread_time(), 0, 0
                while sent < wire:
                    piece = payloads[number % len(payloads)][: wire - sent]
                    ours.sendall(piece)
                    sent, number = sent + len(piece), number + 1
                self._add("send with TLS", time.thread_time() - began)
                taker.join()
        self._add("receive with TLS", received[0])

    def _write(self, data: list[int]) -> None:
        path = self._folder / "alone.target"
        create_image(str(path), self._source.size)
        target = FileTarget(str(path), overwrite=False, fresh=True, state_dir=None)
        spent = 0.0
        for at, piece in self._pieces(data):
            began = time.thread_time()
            target.write(at, piece)
            spent += time.thread_time() - began
        began = time.thread_time()
        target.sync()
        self._add("write", spent + time.thread_time() - began)
        target.close()
        path.unlink()


def one_round(disk: Path, place: Path, level: int) -> dict[str, Any]:
    """A pass, less what starting takes, and its parts."""
    place.mkdir()
    size = disk.stat().st_size
    with Ends(place, {"a": size}, ports=(free_port(), free_port())) as ends:
        ends.pair(disk, "a")
        first = ends.send(disk, "a", "--level", str(level))
        nothing = ends.send(disk, "a")
    (place / "a.target").unlink()
    parts = Parts(disk, place, level).measure()
    # A pass without changes stands for the start of both ends, less what it read.
    start = max(nothing.sender + nothing.receiver - parts["read"] - parts["digest"], 0.0)
    return {"sender": first.sender, "receiver": first.receiver, "start": start, "parts": parts}


def measure(folder: Path, *, quick: bool, level: int = 1, size: int = 0, rounds: int = 3) -> dict[str, Any]:
    size = size or (512 if quick else 2048) * MIB
    with tempfile.TemporaryDirectory(dir=folder, prefix="blocksync-processor-") as made:
        disk = Path(made) / "disk.img"
        make_disk(disk, size)
        found = [one_round(disk, Path(made) / str(number), level) for number in range(rounds)]
    return {"size": size, "level": level, "rounds": found}


def table(found: dict[str, Any]) -> list[str]:
    rounds = found["rounds"]
    passes = [one["sender"] + one["receiver"] - one["start"] for one in rounds]
    sums = [sum(one["parts"].values()) for one in rounds]
    ratio = statistics.median(whole / parts for whole, parts in zip(passes, sums, strict=True))
    middle = {name: statistics.median(one["parts"][name] for one in rounds) for name in rounds[0]["parts"]}
    seconds, parts = statistics.median(passes), statistics.median(sums)
    return [
        f"A first pass of {found['size'] // MIB} MiB at level {found['level']} costs both ends together",
        f"{seconds:.2f} s of processor, start not counted: {ratio:.2f} x the sum of its parts alone",
        f"(goal 1.25), {parts:.2f} s:",
        ", ".join(f"{name} {spent:.2f}" for name, spent in middle.items()) + ".",
    ]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.processor", description=__doc__)
    parser.add_argument("--size", type=parse_size, default=parse_size("2G"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--level", type=int, default=1)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm"))
    wanted = parser.parse_args()
    size = wanted.size // MIB * MIB
    if wanted.profile:
        print("\n".join(profile(wanted.folder, size, wanted.level)))
        return 0
    found = measure(wanted.folder, quick=False, level=wanted.level, size=size, rounds=wanted.rounds)
    print("\n".join(table(found)))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Links to measure over: two network namespaces with a shaped pair of devices between, and a proxy that delays."""

from __future__ import annotations

import contextlib
import os
import queue
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

NEAR, FAR = "10.231.7.1", "10.231.7.2"
PIECE_BYTES = 64 << 10


def run(*words: str) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


@dataclass(frozen=True)
class Shaped:
    """A link between two namespaces: commands of the near end begin with ``near``, of the far end with ``far``."""

    near: tuple[str, ...]
    far: tuple[str, ...]
    counter: tuple[str, ...]

    def sent(self) -> int:
        """Bytes that the near end has sent, headers and all."""
        return int(run(*self.counter))


@contextlib.contextmanager
def shaped(rate_bits: int) -> Iterator[Shaped]:
    """Both directions at ``rate_bits`` a second, by tbf; needs root. Everything is gone afterwards."""
    names = [f"bsb-{end}-{os.getpid()}" for end in "ab"]
    made: list[str] = []
    try:
        for name in names:
            run("ip", "netns", "add", name)
            made.append(name)
        near, far = ((("ip", "netns", "exec", name)) for name in names)
        run(*near, "ip", "link", "add", "v0", "type", "veth", "peer", "name", "v0", "netns", names[1])
        burst = max(64 << 10, rate_bits // 8 // 250)
        for prefix, address in ((near, NEAR), (far, FAR)):
            run(*prefix, "ip", "address", "add", f"{address}/24", "dev", "v0")
            run(*prefix, "ip", "link", "set", "v0", "up")
            run(*prefix, "ip", "link", "set", "lo", "up")
            run(
                *prefix, "tc", "qdisc", "add", "dev", "v0", "root", "tbf", "rate", f"{rate_bits}bit",
                "burst", str(burst), "latency", "40ms",
            )  # fmt: skip
        counter = (*near, "cat", "/sys/class/net/v0/statistics/tx_bytes")
        yield Shaped(near, far, (*near, "sh", "-c", f"{' '.join(counter[4:])}"))
    finally:
        for name in made:
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


class Delaying:
    """Carries TCP connections from ports of one address to the same ports of another, late.

    Args:
        listen, to: addresses.
        ports: of both.
        one_way_seconds: added in each direction.
        rate: bytes a second that the direction to ``to`` carries in all, so that a bulk copy has a bound, too.
    """

    def __init__(self, listen: str, to: str, ports: list[int], one_way_seconds: float, rate: int) -> None:
        self._to = to
        self._delay = one_way_seconds
        self._rate = rate
        self._lock = threading.Lock()
        self._free_at = time.monotonic()
        self._sockets = [socket.create_server((listen, port)) for port in ports]
        for sock in self._sockets:
            threading.Thread(target=self._accept, args=(sock,), daemon=True).start()

    def close(self) -> None:
        for sock in self._sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    def _accept(self, sock: socket.socket) -> None:
        while True:
            try:
                near, _ = sock.accept()
                far = socket.create_connection((self._to, sock.getsockname()[1]))
            except OSError:
                return
            for one, other, paced in ((near, far, True), (far, near, False)):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                # What is on its way: enough for the whole rate over the delay.
                way: queue.Queue[tuple[float, bytes]] = queue.Queue(maxsize=512)
                threading.Thread(target=self._take, args=(one, way, paced), daemon=True).start()
                threading.Thread(target=_give, args=(other, way), daemon=True).start()

    def _take(self, sock: socket.socket, way: queue.Queue[tuple[float, bytes]], paced: bool) -> None:
        while True:
            try:
                data = sock.recv(PIECE_BYTES)
            except OSError:
                data = b""
            if paced and data:
                with self._lock:
                    self._free_at = max(self._free_at, time.monotonic() - 0.01) + len(data) / self._rate
                    wait = self._free_at - time.monotonic()
                if wait > 0:
                    time.sleep(wait)
            way.put((time.monotonic() + self._delay, data))
            if not data:
                return


def _give(sock: socket.socket, way: queue.Queue[tuple[float, bytes]]) -> None:
    while True:
        due, data = way.get()
        wait = due - time.monotonic()
        if wait > 0:
            time.sleep(wait)
        try:
            if not data:
                sock.shutdown(socket.SHUT_WR)
                return
            sock.sendall(data)
        except OSError:
            return


def bulk(address: str, port: int, sink: tuple[str, int], size: int) -> float:
    """Seconds that one plain TCP connection takes for ``size`` bytes, until the sink has all of them."""
    with socket.create_server(sink) as listening:
        done: list[float] = []

        def take() -> None:
            taken, _ = listening.accept()
            with taken:
                left = size
                while left:
                    left -= len(taken.recv(1 << 20))
                done.append(time.monotonic())
                taken.sendall(b"k")

        taker = threading.Thread(target=take, daemon=True)
        taker.start()
        began = time.monotonic()
        with socket.create_connection((address, port)) as sock:
            piece = os.urandom(1 << 20)
            for at in range(0, size, len(piece)):
                sock.sendall(piece[: size - at])
            sock.recv(1)
        taker.join()
    return done[0] - began


def zstd_bytes(path: Path, level: int) -> int:
    """What ``zstd -LEVEL`` makes of a file."""
    done = subprocess.run(["sh", "-c", f"zstd -{level} -cq -T0 {path} | wc -c"], check=True, capture_output=True)
    return int(done.stdout)

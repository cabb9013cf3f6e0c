"""A paired transfer beside ten thousand strangers: ``python -m benchmarks.flood``.

Half of the sockets are on the control port and half on the data port, from many addresses of the loopback network; most
say nothing, each fourth a byte now and then. What the receiver closes is opened again, as often as the kernel lets.
Transfers with and without the flood take turns; the ratio of the middle ones is the result.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import selectors
import socket
import statistics
import sys
import tempfile
import time
from multiprocessing.synchronize import Event
from pathlib import Path

from typing_extensions import Self

from benchmarks.ends import Ends

PORTS = 28080, 28703
MIB = 1 << 20
ADDRESSES = 200
# New sockets at most in one turn, and the length of a turn: 4,000 a second.
AT_ONCE = 200
TURN_SECONDS = 0.05


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.flood", description=__doc__.partition("\n")[0])
    parser.add_argument("--sockets", type=int, default=10_000)
    parser.add_argument("--size", type=int, default=1024, help="MiB of each transfer")
    parser.add_argument("--rounds", type=int, default=3)
    wanted = parser.parse_args()
    say(measure(wanted.sockets, wanted.size * MIB, wanted.rounds))
    return 0


def measure(sockets: int, size: int, rounds: int) -> dict[str, object]:
    """Seconds of transfers with and without strangers, and what there was of them."""
    place = "/dev/shm" if os.path.isdir("/dev/shm") else None
    seconds: dict[bool, list[float]] = {False: [], True: []}
    peak = opened = 0
    with tempfile.TemporaryDirectory(prefix="blocksync-flood-", dir=place) as name:
        folder = Path(name)
        source = folder / "source"
        words = (b"blocksync" * (MIB // 9))[: MIB // 2]  # half of it packs well
        with open(source, "wb") as file:
            file.writelines(os.urandom(MIB // 2) + words for _ in range(size // MIB))
        turns = [(flooded, f"s{number}{'ab'[flooded]}") for number in range(rounds) for flooded in (False, True)]
        with Ends(folder, {slot: size for _, slot in turns}, ports=PORTS) as ends:
            ends.pair(source, turns[0][1])
            for flooded, slot in turns:
                if not flooded:
                    seconds[False].append(float(ends.send(source, slot).result["seconds"]))
                else:
                    with Flood(sockets) as flood:
                        seconds[True].append(float(ends.send(source, slot).result["seconds"]))
                    peak, opened = max(peak, flood.peak.value), opened + flood.opened.value
                (folder / f"{slot}.target").write_bytes(b"")
    quiet, loud = statistics.median(seconds[False]), statistics.median(seconds[True])
    return {
        "ratio": round(quiet / loud, 3),
        "alone_seconds": seconds[False],
        "flooded_seconds": seconds[True],
        "sockets_at_once": peak,
        "sockets_opened": opened,
    }


class Flood:
    """Strangers in a process of their own; entered once they are there."""

    def __init__(self, sockets: int) -> None:
        self._sockets = sockets
        self.peak = multiprocessing.Value("l", 0)
        self.opened = multiprocessing.Value("l", 0)
        self._ready, self._stop = multiprocessing.Event(), multiprocessing.Event()

    def __enter__(self) -> Self:
        self._process = multiprocessing.Process(
            target=_strangers, args=(self._sockets, self._ready, self._stop, self.peak, self.opened)
        )
        self._process.start()
        self._ready.wait(60)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._process.join(60)


def _strangers(count: int, ready: Event, stop: Event, peak: object, opened: object) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, count + 500), hard))
    os.nice(5)  # they are another machine's: here they shall cost the receiver, not the processor
    watched = selectors.DefaultSelector()
    made = most = turns = 0
    began = time.monotonic()
    while not stop.is_set():
        for _ in range(min(AT_ONCE, count - len(watched.get_map()))):
            stranger = socket.socket()
            stranger.setblocking(False)
            stranger.bind((f"127.0.{1 + made % ADDRESSES // 100}.{1 + made % 100}", 0))
            stranger.connect_ex(("127.0.0.1", PORTS[made % 2]))
            watched.register(stranger, selectors.EVENT_READ)
            made += 1
        turns += 1
        _look(watched, slow=turns % 40 == 0)
        most = max(most, len(watched.get_map()))
        peak.value, opened.value = most, made  # type: ignore[attr-defined]
        # Full, or as full as the receiver lets it become.
        if most >= count or time.monotonic() - began > 8:
            ready.set()
        stop.wait(TURN_SECONDS)
    for key in list(watched.get_map().values()):
        key.fileobj.close()  # type: ignore[union-attr]


def _look(watched: selectors.BaseSelector, *, slow: bool) -> None:
    """Drop what was closed; let some say a byte."""
    for key, _ in watched.select(0):
        stranger = key.fileobj
        assert isinstance(stranger, socket.socket)
        try:
            gone = not stranger.recv(4096)
        except OSError:
            gone = True
        if gone:
            watched.unregister(stranger)
            stranger.close()
    if slow:
        for index, key in enumerate(list(watched.get_map().values())):
            if index % 4 == 0:
                assert isinstance(key.fileobj, socket.socket)
                try:
                    key.fileobj.send(b"\x16")
                except OSError:
                    continue


def say(what: object) -> None:
    print(json.dumps(what), flush=True)


if __name__ == "__main__":
    sys.exit(main())

"""A proxy between real processes that does one thing wrong to one connection: cuts it at a byte, holds it, or lets its
bytes through one by one.

It is a process of its own with a thread for each direction of a connection, so that whoever forks commands stays
without threads. Told by lines of JSON on a pair of sockets: a rule, which ends what is open and counts from anew; it
answers with what the rule before has met.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import struct
import threading
import time
from dataclasses import asdict, dataclass, field
from typing import Any

from tests.faults.children import die_with_parent

PIECE_BYTES = 65536
DIRECTIONS = ("up", "down")
ACTIONS = ("cut", "reset", "stall", "dribble")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What is done to a connection.

    Args:
        port: ``control`` or ``data``.
        connection: which one of that port's, in the order of their opening, from 0; None for all.
        direction: ``up`` to the receiver, ``down`` to the sender.
        action: ``cut`` closes both halves in order, ``reset`` aborts them, ``stall`` lets no further byte through in
            this direction and keeps all open, ``dribble`` lets them through one by one.
        at: how many bytes go through before.
        pause: seconds between bytes that dribble.
    """

    port: str
    connection: int | None = 0
    direction: str = "up"
    action: str = "cut"
    at: int = 0
    pause: float = 0.0


@dataclass(slots=True, eq=False)
class _Carried:
    """A connection through the proxy."""

    port: str
    near: socket.socket
    far: socket.socket
    rule: Rule | None
    carried: dict[str, int] = field(default_factory=lambda: dict.fromkeys(DIRECTIONS, 0))
    met: bool = False
    ended: threading.Event = field(default_factory=threading.Event)

    def end(self, *, reset: bool = False) -> None:
        """Close both halves; by reset nothing that looks like an end is sent."""
        self.ended.set()
        for each in (self.near, self.far):
            with contextlib.suppress(OSError):
                if reset:
                    each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                # Wakes the threads that read: a socket is closed only when nobody is in it any more.
                each.shutdown(socket.SHUT_RD if reset else socket.SHUT_RDWR)
            each.close()

    def pump(self, direction: str) -> None:
        """Carry one direction to its end, or to what the rule says."""
        source, sink = (self.near, self.far) if direction == "up" else (self.far, self.near)
        rule = self.rule if self.rule is not None and self.rule.direction == direction else None
        try:
            self._carry(source, sink, direction, rule)
        except OSError:
            # A reset is carried on, as any network does.
            self.end(reset=True)

    def _carry(self, source: socket.socket, sink: socket.socket, direction: str, rule: Rule | None) -> None:
        while True:
            most = PIECE_BYTES
            if rule is not None:
                most = min(most, rule.at - self.carried[direction])
                if most <= 0:
                    self.met = True
                    if rule.action != "dribble":
                        self._break(rule)
                        return
                    time.sleep(rule.pause)
                    most = 1
            piece = source.recv(most)
            if self.ended.is_set():
                return
            if not piece:
                sink.shutdown(socket.SHUT_WR)
                return
            sink.sendall(piece)
            self.carried[direction] += len(piece)

    def _break(self, rule: Rule) -> None:
        if rule.action == "stall":
            self.ended.wait()
        else:
            self.end(reset=rule.action == "reset")


class Proxy:
    """A running proxy.

    Args:
        near: address that it listens on.
        far: address that it carries to, at the same ports.
        control, data: ports.
    """

    def __init__(self, near: str, far: str, control: int, data: int) -> None:
        listeners = {"control": _listen(near, control), "data": _listen(near, data)}
        self._told, theirs = socket.socketpair()
        self._pid = os.fork()
        if not self._pid:
            try:
                die_with_parent()
                self._told.close()
                signal.signal(signal.SIGINT, signal.SIG_IGN)
                _Serving(listeners, far, theirs).run()
            finally:
                os._exit(0)
        theirs.close()
        for listener in listeners.values():
            listener.close()
        self._answers = self._told.makefile("r")

    def obey(self, rule: Rule | None) -> dict[str, Any]:
        """Begin anew with a rule, or without; of what went before: ``connections`` with their bytes, and ``met``."""
        self._told.sendall(json.dumps(None if rule is None else asdict(rule)).encode() + b"\n")
        said: dict[str, Any] = json.loads(self._answers.readline())
        return said

    def close(self) -> None:
        self._answers.close()
        self._told.close()
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)


class _Serving:
    """The proxy's own process."""

    def __init__(self, listeners: dict[str, socket.socket], far: str, told: socket.socket) -> None:
        self._listeners, self._far, self._told = listeners, far, told
        self._lock = threading.Lock()
        self._rule: Rule | None = None
        self._open: list[_Carried] = []

    def run(self) -> None:
        for port, listener in self._listeners.items():
            threading.Thread(target=self._accept, args=(port, listener), daemon=True).start()
        for line in self._told.makefile("r"):
            wanted = json.loads(line)
            with self._lock:
                before, self._open = self._open, []
                self._rule = None if wanted is None else Rule(**wanted)
            for each in before:
                each.end()
            said = {
                "met": any(each.met for each in before),
                "connections": [{"port": each.port, **each.carried} for each in before],
            }
            self._told.sendall(json.dumps(said).encode() + b"\n")

    def _accept(self, port: str, listener: socket.socket) -> None:
        far_port = listener.getsockname()[1]
        while True:
            near, _ = listener.accept()
            try:
                far = socket.create_connection((self._far, far_port))
            except OSError:
                # As if there were no proxy: nobody listens there.
                near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                near.close()
                continue
            for each in (near, far):
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                rule = self._rule
                number = sum(each.port == port for each in self._open)
                if rule is not None and (rule.port != port or rule.connection not in (None, number)):
                    rule = None
                made = _Carried(port, near, far, rule)
                self._open.append(made)
            for direction in DIRECTIONS:
                threading.Thread(target=made.pump, args=(direction,), daemon=True).start()


def _listen(address: str, port: int) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((address, port))
    listener.listen(64)
    return listener

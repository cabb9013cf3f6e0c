"""Whoever stops a command is not kept waiting by an NBD server that says nothing, wherever it fell silent.

A server here waits for the connection to end for far less than a client waits for a server.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from blocksync import api
from blocksync.api import Cancel, CopyOptions, ReceiveOptions, SendOptions, TargetSpec
from blocksync.errors import InterruptedTransferError, SourceError
from blocksync.nbd import wire
from blocksync.nbd.connection import TIMEOUT_SECONDS
from blocksync.nbd.wire import Option
from blocksync.sources import open_source
from blocksync.sources.memory import MemorySource
from tests.serving import receiver

MIB = 1 << 20
PATIENCE_SECONDS = TIMEOUT_SECONDS / 4
GREETING = wire.GREETING.pack(wire.MAGIC, wire.OPTION_MAGIC, wire.FIXED_NEWSTYLE | wire.NO_ZEROES)
FLAGS = wire.HAS_FLAGS | wire.SEND_FLUSH
READ = struct.pack(">I", 0x25609513)


def reply(option: int, kind: int, body: bytes = b"") -> bytes:
    return wire.OPTION_REPLY.pack(wire.OPTION_REPLY_MAGIC, option, kind, len(body)) + body


# Everything that a client's handshake needs, said before it asks.
HANDSHAKE = (
    GREETING
    + reply(Option.STRUCTURED_REPLY, wire.REP_ERROR + 1)
    + reply(Option.GO, wire.REP_INFO, wire.INFO_EXPORT_BODY.pack(wire.INFO_EXPORT, MIB, FLAGS))
    + reply(Option.GO, wire.REP_ACK)
)


class Silent:
    """A server that says so much, calls ``then`` once the client has said what it waits for, and says nothing more."""

    def __init__(self, folder: Path, says: bytes, until: bytes, then: Callable[[], None]) -> None:
        self.address = f"nbd+unix:///?socket={folder / 'silent.sock'}"
        self.was_left = False
        self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listening.bind(str(folder / "silent.sock"))
        self._listening.listen(1)
        self._says, self._until, self._then = says, until, then
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        with self._listening, self._listening.accept()[0] as met, contextlib.suppress(TimeoutError):
            met.settimeout(PATIENCE_SECONDS)
            met.sendall(self._says)
            heard = b""
            while self._until not in heard:
                heard += met.recv(65536)
            self._then()
            while met.recv(65536):
                pass
            self.was_left = True

    def check(self) -> None:
        self._thread.join()
        assert self.was_left, "the client waited for its own deadline"


@contextlib.contextmanager
def stopped_by(folder: Path, says: bytes, until: bytes = b"") -> Iterator[tuple[str, Cancel]]:
    """An export whose silence somebody stops; the work in the block must be told so."""
    cancel = Cancel()
    server = Silent(folder, says, until, cancel.set)
    with pytest.raises(InterruptedTransferError):
        yield server.address, cancel
    server.check()


MOMENTS = pytest.mark.parametrize(("says", "until"), [(b"", b""), (GREETING, b"\0"), (HANDSHAKE, READ)])


@MOMENTS
def test_a_source(tmp_path: Path, says: bytes, until: bytes) -> None:
    with receiver(tmp_path) as served, stopped_by(tmp_path, says, until) as (address, cancel):
        options = SendOptions(
            to=served.to, slot="a", code=served.listening.code, state_dir=tmp_path / "sender", snapshot="none"
        )
        api.send(address, options, cancel=cancel)


@MOMENTS
def test_a_local_target(tmp_path: Path, says: bytes, until: bytes) -> None:
    with stopped_by(tmp_path, says, until) as (address, cancel):
        api.copy(MemorySource(MIB), address, CopyOptions(state_dir=tmp_path / "state"), cancel=cancel)


@pytest.mark.parametrize("says", [b"", GREETING])
def test_a_receivers_target(tmp_path: Path, says: bytes) -> None:
    with stopped_by(tmp_path, says) as (address, cancel):
        targets = (TargetSpec(path=address, slot="a"),)
        api.receive(
            ReceiveOptions(
                targets=targets, listen="127.0.0.1", control_port=0, data_port=0, state_dir=tmp_path / "s"
            ),
            cancel=cancel,
        )


def test_a_look_at_a_source(tmp_path: Path) -> None:
    with stopped_by(tmp_path, HANDSHAKE, READ) as (address, cancel):
        api.bench(address, cancel=cancel)


def test_stopped_before_it_is_opened(tmp_path: Path) -> None:
    cancel = Cancel()
    cancel.set()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(str(tmp_path / "queue.sock"))
        listening.listen(1)
        with pytest.raises(SourceError, match="given up"):
            open_source(f"nbd+unix:///?socket={tmp_path / 'queue.sock'}", cancel.watching)

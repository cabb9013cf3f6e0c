"""The local control socket of a running transfer: ``STATE/transfers/ID/control``, mode 0600.

One request a connection: a line of JSON, answered by a line of JSON. The socket also tells who only looks whether the
transfer runs: a process that was killed does not answer. Its path may be longer than a socket's address can be, so
on Linux it is reached through a descriptor of its folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from typing_extensions import Self

from blocksync.errors import BlocksyncError, ProtocolError, StateError, from_os_error

NAME = "control"
LINE_BYTES = 256 << 10
ANSWER_SECONDS = 10.0
_UCRED = struct.Struct("=iII")

Handle = Callable[[dict[str, Any]], dict[str, Any]]


class Door:
    """Answers at the socket while entered.

    Args:
        folder: of the transfer, held by this process.
        handle: gives the answer; its errors are told to whoever asked. Called in a thread of ours.
    """

    def __init__(self, folder: Path, handle: Handle) -> None:
        self._folder = folder
        self._handle = handle
        self._socket: socket.socket | None = None
        self._thread = threading.Thread(target=self._serve, name="transfer-control", daemon=True)

    def __enter__(self) -> Self:
        if not hasattr(socket, "AF_UNIX"):
            return self
        try:
            (self._folder / NAME).unlink(missing_ok=True)
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            with _address(self._folder) as address:
                # The folder is 0700: nobody else reaches the socket before it has its mode.
                self._socket.bind(address)
            (self._folder / NAME).chmod(0o600)
            self._socket.listen(8)
        except OSError as error:
            raise from_os_error(error, StateError, f"cannot make the control socket in {self._folder}") from error
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._socket is None:
            return
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()
        with contextlib.suppress(OSError):
            (self._folder / NAME).unlink(missing_ok=True)

    def _serve(self) -> None:
        assert self._socket is not None
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                connection.settimeout(ANSWER_SECONDS)
                _send(connection, self._answer(connection))

    def _answer(self, connection: socket.socket) -> dict[str, Any]:
        try:
            if not _is_ours(connection):
                raise StateError("another user may not speak to this transfer", remedy="use sudo")
            return {"ok": True, **self._handle(_receive(connection))}
        except BlocksyncError as error:
            return {"ok": False, "message": error.message, "remedy": error.remedy}
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            return {"ok": False, "message": f"the request cannot be understood: {error}", "remedy": ""}


def ask(folder: Path, request: dict[str, Any]) -> dict[str, Any] | None:
    """Put a request to the process that works on a transfer; None where there is none.

    Raises:
        StateError: it says no, or does not answer.
    """
    if not hasattr(socket, "AF_UNIX"):
        return None
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as connection:
        connection.settimeout(ANSWER_SECONDS)
        try:
            with _address(folder) as address:
                connection.connect(address)
        except (FileNotFoundError, ConnectionRefusedError):
            return None
        except OSError as error:
            raise from_os_error(error, StateError, f"cannot reach the transfer in {folder}") from error
        try:
            _send(connection, request)
            said = _receive(connection)
        except (OSError, ValueError) as error:
            raise StateError(f"the transfer in {folder} does not answer: {error}") from error
    if not said.get("ok"):
        raise StateError(str(said.get("message", "it says no")), remedy=str(said.get("remedy") or "") or None)
    return said


def _send(connection: socket.socket, said: dict[str, Any]) -> None:
    connection.sendall(json.dumps(said).encode() + b"\n")


def _receive(connection: socket.socket) -> dict[str, Any]:
    line = bytearray()
    while not line.endswith(b"\n"):
        part = connection.recv(64 << 10)
        if not part or len(line) + len(part) > LINE_BYTES:
            raise ProtocolError("a request on the local control socket is one line of JSON")
        line += part
    said = json.loads(line)
    if not isinstance(said, dict):
        raise ProtocolError("a request on the local control socket is a JSON object")
    return said


def _is_ours(connection: socket.socket) -> bool:
    """Whether the peer is this user or root; where the system does not say, the file's mode has to do."""
    if not hasattr(socket, "SO_PEERCRED"):
        return True
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    _, user, _ = _UCRED.unpack(raw)
    return user in (0, os.geteuid())


@contextlib.contextmanager
def _address(folder: Path) -> Iterator[str]:
    if sys.platform != "linux":
        yield str(folder / NAME)
        return
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{NAME}"
    finally:
        os.close(descriptor)

"""An export as the rooms of sources and targets use it: any number of threads, a few connections.

A further connection is opened only where the server says that several see one disk (CAN_MULTI_CONN), and not
missed where it does not come: ``qemu-nbd`` without ``--shared`` lets a second client wait for ever.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from blocksync.errors import BlocksyncError
from blocksync.nbd import wire
from blocksync.nbd.address import Address
from blocksync.nbd.connection import TIMEOUT_SECONDS, Connection, Work
from blocksync.nbd.failures import Failures
from blocksync.nbd.negotiation import Agreed, Wanted
from blocksync.nbd.transmission import Request
from blocksync.nbd.wire import Command
from blocksync.platforms.dialing import Watching, unwatched

CONNECTIONS = 4
# A request's data: small enough that a chunk is several requests, large enough that few headers travel.
PIECE_BYTES = 128 << 10
# What has no payload may cover more; servers without a fast way must get through it within the timeout.
ZERO_BYTES = 32 << 20
STATUS_BYTES = 1 << 30
_FURTHER_SECONDS = 5.0
_NO_ZEROES = (wire.EINVAL, wire.ENOTSUP, wire.EOVERFLOW)


class Export:
    """Connects at once, so that what is wrong with the address is told where it is opened.

    Args:
        address: of it.
        failures: classes to raise.
        contexts: metadata contexts to choose, where the server has them.
        listed: a prefix of contexts to list.
        timeout: seconds of silence after which a server is taken for dead.
        watching: makes what waits for the server fail, for as long as the export is open.

    Raises:
        BlocksyncError: of the failures' classes.
    """

    def __init__(
        self,
        address: Address,
        failures: Failures,
        *,
        contexts: tuple[str, ...] = (wire.ALLOCATION,),
        listed: str = "",
        timeout: float = TIMEOUT_SECONDS,
        watching: Watching = unwatched,
    ) -> None:
        self.address = address
        self._failures = failures
        self._wanted = Wanted(export=address.export, tls=address.tls, contexts=contexts, listed=listed)
        self._timeout = timeout
        # Its lock is reentrant: a signal handler may abort on top of a call of its own thread.
        self._free = threading.Condition()
        self._closed = False
        self.losses = 0
        """Connections that broke; a target compares it to know what a flush is worth."""
        self._given_up = False
        self._known: set[Connection] = set()
        self._watched = contextlib.ExitStack()
        try:
            self._watched.enter_context(watching(self.abort))
            first = self._made(timeout)
        except BaseException:
            self._watched.close()
            raise
        self.agreed: Agreed = first.agreed
        self._idle = [first]
        self._open = 1
        self._most = CONNECTIONS if self.agreed.flags & wire.CAN_MULTI_CONN else 1
        self._piece = min(PIECE_BYTES, self.agreed.most) // self.agreed.least * self.agreed.least

    def read(self, offset: int, buffer: memoryview) -> None:
        """Fill the buffer; offset and length are multiples of the least block size."""
        self._run(
            (Request(Command.READ, offset + at, len(part), part), None, 0)
            for at, part in _pieces(buffer, self._piece)
        )

    def write(self, offset: int, data: memoryview, *, durably: bool) -> None:
        """Write all; ``durably`` with FUA."""
        flags = wire.CMD_FUA if durably else 0
        self._run(
            (Request(Command.WRITE, offset + at, len(part)), part, flags) for at, part in _pieces(data, self._piece)
        )

    def zero(self, offset: int, length: int, *, durably: bool) -> bool:
        """Make a range zeros by WRITE_ZEROES; False where the server has no such command, or not for this range."""
        if not self.agreed.flags & wire.SEND_WRITE_ZEROES:
            return False
        end = offset + length
        flags = wire.CMD_FUA if durably else 0
        requests = [
            Request(Command.WRITE_ZEROES, at, min(ZERO_BYTES, end - at)) for at in range(offset, end, ZERO_BYTES)
        ]
        try:
            # One at a time: each may take the server as long as writing it all.
            for request in requests:
                self._run(iter([(request, None, flags)]))
        except BlocksyncError:
            if requests and any(each.error is not None and each.error[0] in _NO_ZEROES for each in requests):
                return False
            raise
        return True

    def flush(self) -> None:
        """Everything written before, on any connection, is durable."""
        self._run(iter([(Request(Command.FLUSH, 0, 0), None, 0)]))

    def status(self, context: str, offset: int, length: int) -> Iterator[tuple[int, int, int]]:
        """Yield ``(offset, length, flags)`` of a metadata context, in order, covering the range.

        Raises:
            BlocksyncError: the server does not tell.
        """
        number = self.agreed.contexts[context]
        end = offset + length
        while offset < end:
            request = Request(Command.BLOCK_STATUS, offset, min(STATUS_BYTES, end - offset))
            self._run(iter([(request, None, 0)]))
            told = request.status.get(number)
            if not told:
                raise self._failures.garbled(f"the NBD server of {self.address.text} tells nothing of {context}")
            for count, flags in told:
                # The last one may pass the range that was asked for; what is told twice is told alike.
                here = min(count, end - offset)
                if here > 0:
                    yield offset, here, flags
                    offset += here

    def abort(self) -> None:
        """Make calls under way and all later ones fail; from any thread."""
        with self._free:
            self._given_up = True
            known = tuple(self._known)
            self._free.notify_all()
        for connection in known:
            connection.abort()

    def close(self) -> None:
        """Say goodbye on all connections; may be called twice."""
        with self._free:
            self._closed = True
            idle, self._idle = self._idle, []
            self._open -= len(idle)
        for connection in idle:
            self._end(connection)
        self._watched.close()

    def _made(self, timeout: float) -> Connection:
        """One more connection, open, which :meth:`abort` ends from before its first call on."""
        made = Connection(self.address, self._failures)
        with self._free:
            self._known.add(made)
            if self._given_up:
                made.abort()
        try:
            made.open(self._wanted, timeout)
        except BaseException:
            self._forget(made)
            raise
        return made

    def _end(self, connection: Connection) -> None:
        connection.close()
        self._forget(connection)

    def _forget(self, connection: Connection) -> None:
        with self._free:
            self._known.discard(connection)

    def _run(self, work: Iterator[Work]) -> None:
        with self._borrowed() as connection:
            connection.run(work)

    @contextlib.contextmanager
    def _borrowed(self) -> Iterator[Connection]:
        connection = self._take()
        try:
            yield connection
        finally:
            with self._free:
                if connection.broken:
                    self._open -= 1
                    self.losses += 1
                    self._forget(connection)
                elif self._closed:
                    self._open -= 1
                    self._end(connection)
                else:
                    self._idle.append(connection)
                self._free.notify()

    def _take(self) -> Connection:
        while True:
            with self._free:
                while not self._idle and self._open >= self._most and not self._given_up:
                    self._free.wait()
                if self._given_up:
                    raise self._failures.lost(f"the NBD export {self.address.text} was given up")
                if self._closed:
                    raise self._failures.lost(f"the NBD export {self.address.text} was closed")
                if self._idle:
                    return self._idle.pop()
                self._open += 1
                only = self._open == 1
            made = self._further(only=only)
            if made is not None:
                return made

    def _further(self, *, only: bool) -> Connection | None:
        try:
            made = self._made(self._timeout if only else min(self._timeout, _FURTHER_SECONDS))
        except BaseException as error:
            with self._free:
                self._open -= 1
                if not only and isinstance(error, BlocksyncError):
                    self._most = max(self._open, 1)
                    self._free.notify()
                    return None
                self._free.notify()
            raise
        agreed = made.agreed
        if (agreed.size, agreed.flags, agreed.contexts) != (
            self.agreed.size,
            self.agreed.flags,
            self.agreed.contexts,
        ):
            self._end(made)
            with self._free:
                self._open -= 1
                self._free.notify()
            raise self._failures.plain(
                f"the NBD export {self.address.text} is another one than before: its size or abilities changed",
                remedy="run the same command again",
            )
        made.patient(self._timeout)
        return made


def _pieces(view: memoryview, most: int) -> Iterator[tuple[int, memoryview]]:
    for at in range(0, len(view), most):
        yield at, view[at : at + most]

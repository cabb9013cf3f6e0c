"""The sender's way to a receiver: its address, its pin, pairing where there is none yet."""

from __future__ import annotations

import contextlib
import shutil
import socket
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from blocksync.control.client import CONNECT_SECONDS, HttpControl
from blocksync.control.contact import Contact
from blocksync.engine.cancel import Cancel
from blocksync.engine.outlook import Outlooks
from blocksync.engine.sender import FIRST_BACKOFF_SECONDS, LONGEST_BACKOFF_SECONDS
from blocksync.engine.sending import Route
from blocksync.engine.statedir import copy_folder, rehearsal_folder
from blocksync.errors import BlocksyncError, IncompleteError, NetworkError, TrustError, UsageError, from_os_error
from blocksync.manifest.cache import ManifestCopy
from blocksync.manifest.folder import OsFolder
from blocksync.options import DEFAULT_CONTROL_PORT, AskCode, SendOptions
from blocksync.protocol.messages import OpenAnswer
from blocksync.results import Progress
from blocksync.transports.dial import Dial
from blocksync.transports.link import Link
from blocksync.transports.tls import connect
from blocksync.trust.codes import PairingCode
from blocksync.trust.identity import Identity
from blocksync.trust.pins import Pin, Pins
from blocksync.trust.tls import client_context

DATA_CONNECT_SECONDS = 10.0


def parse_address(text: str) -> tuple[str, int]:
    """``HOST``, ``HOST:PORT``, ``[IPv6]`` or ``[IPv6]:PORT``.

    Raises:
        UsageError: it is none of these.
    """
    wrong = UsageError(f"{text!r} is not HOST or HOST:PORT", remedy="IPv6 addresses go in brackets: [::1]:8080")
    host, separator, port = text.rpartition(":")
    if text.startswith("["):
        inner, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise wrong
        host, separator, port = inner, rest[:1], rest[1:]
    elif text.count(":") > 1:
        raise wrong
    elif not separator:
        host = text
    if not separator:
        return host, DEFAULT_CONTROL_PORT
    # Not more than five digits: Python refuses numbers of thousands in its own way.
    if not host or not port.isascii() or not port.isdigit() or len(port) > 5 or not 0 < int(port) < 1 << 16:
        raise wrong
    return host, int(port)


class Reach:
    """A receiver as this machine's identity reaches it.

    Args:
        state: the state folder, prepared.
        to: ``HOST[:CONTROL_PORT]``.
        code: a pairing code, used only where it is needed.
        ask: asked for one where it is needed and ``code`` is none.
        cancel: ends a pairing, and the opening of a data connection, under way.

    Raises:
        TrustError: not paired and no code, or the pairing failed.
        InterruptedTransferError: cancelled while it paired.
    """

    def __init__(
        self,
        state: Path,
        to: str,
        code: str | None,
        ask: AskCode | None = None,
        *,
        cancel: Cancel | None = None,
    ) -> None:
        self._state = state
        self._cancel = cancel or Cancel()
        self._ask = None if code else ask
        self._host, self._port = parse_address(to)
        self._identity = Identity.load_or_create(state)
        pins = Pins(state)
        pin = pins.find(self._host, self._port)
        parsed = PairingCode.parse(code) if code else None
        if pin is None or (parsed is not None and not parsed.names(pin.fingerprint)):
            pin = self._pair(pins, parsed)
            parsed = None
        self._spare_code = parsed
        self._pins = pins
        self._pin = pin
        self.control = self._connect_control()

    def _pair(self, pins: Pins, code: PairingCode | None) -> Pin:
        if code is None:
            missing = TrustError(
                f"this machine is not paired with {self._host}:{self._port}",
                remedy="give the pairing code that blocksync recv shows there, with --code-file or at the prompt",
            )
            if self._ask is not None:
                self._knock()
            code = self._asked(missing)
            if code is None:
                raise missing
        contact = Contact(self._host, self._port, code, self._identity, name=socket.gethostname())
        with self._cancel.watching(contact.abort):
            try:
                fingerprint, name = contact.make()
            except (NetworkError, IncompleteError) as error:
                # Whoever stopped a pairing that nobody answers is told that it was stopped.
                self._cancel.check(error)
                raise
        return pins.add(self._host, self._port, fingerprint=fingerprint, name=name, since=int(time.time()))

    def _knock(self) -> None:
        """Nobody is asked for the code of a receiver that is not there.

        Raises:
            NetworkError: nobody answers.
        """
        dial = Dial(self._host, self._port, client_context(None))
        with self._cancel.watching(dial.abort):
            try:
                dial.reach(CONNECT_SECONDS)
            except OSError as error:
                doing = f"the control port {self._host}:{self._port} cannot be reached"
                told = from_os_error(error, NetworkError, doing)
                self._cancel.check(told)
                raise told from error
            finally:
                dial.close()

    def _asked(self, reason: TrustError) -> PairingCode | None:
        """A code from whoever can be asked; they are asked once."""
        ask, self._ask = self._ask, None
        text = ask(reason.message) if ask is not None else None
        return PairingCode.parse(text) if text else None

    def pair_again(self, reason: TrustError) -> bool:
        """After the receiver refused us: pair with a code that was not needed so far; False without one."""
        code = self._spare_code or self._asked(reason)
        self._spare_code = None
        if code is None:
            return False
        self._pin = self._pair(self._pins, code)
        self.control.close()
        self.control = self._connect_control()
        return True

    def _connect_control(self) -> HttpControl:
        return HttpControl(self._host, self._port, self._identity, self._pin.fingerprint)

    @contextlib.contextmanager
    def route(self, slot: str, *, own: bool = False) -> Iterator[Route]:
        """For a sender; the manifest's copy is held by one process at a time.

        Args:
            slot: the receiver's name for the target.
            own: with a control connection of its own: a sender that gives up aborts all calls of its connection.

        Raises:
            StateBusyError: another process of this machine sends to that slot.
        """
        with OsFolder(copy_folder(self._state, self._pin.fingerprint, slot)) as folder:
            control = self._connect_control() if own else self.control
            try:
                yield Route(
                    control=control,
                    connect=self._connect_data,
                    copy=ManifestCopy(folder),
                    outlooks=self.outlooks(),
                )
            finally:
                if own:
                    control.close()

    def slots(self, wanted: Sequence[str] = ()) -> list[str]:
        """The slots that this sender may use, in the order the receiver offers them.

        A pairing code that was not needed so far is used where the receiver refuses us, or grants no ``wanted`` slot.

        Raises:
            BlocksyncError: the receiver cannot be asked.
        """
        try:
            granted = self.control.slots()
            missing = next((slot for slot in wanted if slot and slot not in granted), None)
            if missing is not None:
                raise TrustError(f"this machine has no grant for slot {missing}")
        except TrustError as error:
            if not self.pair_again(error):
                raise
            granted = self.control.slots()
        return granted

    def slots_patiently(self, wanted: Sequence[str], options: SendOptions, cancel: Cancel) -> list[str]:
        """As :meth:`slots`, but a receiver that is away for a while is waited for, as a pass would wait.

        Raises:
            BlocksyncError: as :meth:`slots`, after ``options.retry_seconds``.
        """
        began, backoff = time.monotonic(), FIRST_BACKOFF_SECONDS
        while True:
            try:
                with cancel.watching(self.control.abort):
                    return self.slots(wanted)
            except BlocksyncError as error:
                cancel.check(error)
                if not error.retryable or time.monotonic() - began >= options.retry_seconds:
                    raise
                if options.progress is not None:
                    message = f"{error.message}; trying again in {backoff:.1f} s"
                    options.progress(Progress(stage="waiting", message=message))
                cancel.wait(backoff)
                cancel.check(error)
                backoff = min(backoff * 2, LONGEST_BACKOFF_SECONDS)

    @contextlib.contextmanager
    def rehearsal_route(self) -> Iterator[Route]:
        """For a rehearsal, which must not touch the copy of a real slot's manifest."""
        path = rehearsal_folder(self._state) / "sender"
        try:
            with OsFolder(path) as folder:
                yield Route(control=self.control, connect=self._connect_data, copy=ManifestCopy(folder))
        finally:
            shutil.rmtree(path, ignore_errors=True)

    @property
    def identity(self) -> Identity:
        """This machine's."""
        return self._identity

    @property
    def fingerprint(self) -> bytes:
        """Of the receiver's certificate, 32 bytes."""
        return self._pin.fingerprint

    def outlooks(self) -> Outlooks:
        """What was predicted of transfers to this receiver."""
        return Outlooks(self._state, self._pin.fingerprint)

    @property
    def address(self) -> tuple[str, int]:
        """Host and control port."""
        return self._host, self._port

    def _connect_data(self, answer: OpenAnswer) -> Link:
        context = client_context(self._identity, pin=self._pin.fingerprint)
        dial = Dial(self._host, answer.data_port, context)
        with self._cancel.watching(dial.abort):
            return connect(dial, self._pin.fingerprint, timeout=DATA_CONNECT_SECONDS)

    def close(self) -> None:
        self.control.close()

"""SIGINT, SIGTERM and SIGHUP: the first one stops resumably, the second one at once.

A thread of ours hears them through the interpreter's wake-up socket and sets the :class:`Cancel`. The handler that the
interpreter calls does not: it runs on top of whatever the main thread was doing, perhaps holding the very lock that
``Cancel.set`` needs. It raises KeyboardInterrupt only while there is no work that a Cancel could stop, that is before
the work began and while somebody is asked for a pairing code.

A question is a read that blocks in C. A signal that comes just before it begins is noted, and then nobody looks: so the
listening thread pokes the main one for as long as somebody is asked.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

from typing_extensions import Self

from blocksync.cli.output import Output

if TYPE_CHECKING:
    from blocksync.api import Cancel

INTERRUPTED_EXIT_CODE = 130
_SHOW_CURSOR = b"\x1b[?25h\n"
# Does nothing by itself, and nobody else sends it; not there on Windows, where reads of the console end by themselves.
_POKE = getattr(signal, "SIGURG", None)
_POKE_SECONDS = 0.05


class Interrupts:
    """While entered, signals stop the command.

    Args:
        output: says that it is stopping.

    ``before_exit`` is called when a second signal ends the process at once; it must not block.
    """

    def __init__(self, output: Output) -> None:
        self._output = output
        self._cancel: Cancel | None = None
        self._asking = False
        self._answered = threading.Event()
        self._holding = False
        self._held = False
        self._count = 0
        self._installed = False
        self._previous: dict[int, Any] = {}
        self._before_pokes: Any = None
        self.before_exit: Callable[[], None] | None = None
        self._hears, self._wakes = socket.socketpair()
        self._wakes.setblocking(False)

    def __enter__(self) -> Self:
        # In another thread signals are the business of whoever owns the main one.
        if threading.current_thread() is threading.main_thread():
            self._installed = True
            self._install()
        return self

    def _install(self) -> None:
        for number in _heeded():
            self._previous[number] = signal.signal(number, self._handle)
        if _POKE is not None:
            self._before_pokes = signal.signal(_POKE, self._poked)
        signal.set_wakeup_fd(self._wakes.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._listen, name="signals", daemon=True).start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._installed:
            signal.set_wakeup_fd(-1)
            for number, handler in self._previous.items():
                signal.signal(number, handler)
            if _POKE is not None:
                signal.signal(_POKE, self._before_pokes)
        else:
            self._hears.close()
        self._wakes.close()

    @contextlib.contextmanager
    def stopping(self, cancel: Cancel) -> Iterator[None]:
        """During the block a signal sets ``cancel`` instead of raising."""
        self._cancel = cancel
        try:
            if self._count:
                cancel.set()
            yield
        finally:
            self._cancel = None

    @contextlib.contextmanager
    def asking(self) -> Iterator[None]:
        """During the block, which waits for a person, a signal raises KeyboardInterrupt again."""
        self._answered.clear()
        self._asking = True
        try:
            yield
        finally:
            self._asking = False
            self._answered.set()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """For a moment, KeyboardInterrupt waits: what is made meanwhile is known to whoever must end it."""
        self._holding = True
        try:
            yield
        finally:
            self._holding = False
            if self._held:
                self._held = False
                raise KeyboardInterrupt

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        if self._holding:
            self._held = True
        elif self._cancel is None or self._asking:
            raise KeyboardInterrupt

    def _poked(self, _number: int, _frame: FrameType | None) -> None:
        if self._asking:
            self._asking = False
            raise KeyboardInterrupt

    def _insist(self) -> None:
        """Make a question end for which a signal came, wherever the main thread was when it came."""
        main = threading.main_thread().ident
        while _POKE is not None and main is not None and self._asking:
            if self._answered.wait(_POKE_SECONDS):
                return
            signal.pthread_kill(main, _POKE)

    def _listen(self) -> None:
        with self._hears:
            while numbers := self._hears.recv(16):
                for number in numbers:
                    if number in self._previous:
                        self._heard()

    def _heard(self) -> None:
        self._count += 1
        if self._count > 1:
            if self.before_exit is not None:
                self.before_exit()
            if sys.stderr.isatty():
                os.write(sys.stderr.fileno(), _SHOW_CURSOR)
            # Nothing durable depends on an orderly end: what holds after kill -9 holds now.
            os._exit(INTERRUPTED_EXIT_CODE)
        cancel = self._cancel
        if cancel is not None:
            # In a thread: where a terminal is stopped or nobody reads, whoever prints waits for them, and the next
            # signal must still be heard.
            threading.Thread(target=self._say, name="stopping", daemon=True).start()
            cancel.set()
        self._insist()

    def _say(self) -> None:
        self._output.note("stopping, and keeping what is durable; once more stops at once")


def ending(code: int) -> None:
    """From here on, where all is said and done, a signal ends the process with the exit code that it has."""
    for number in _heeded():
        signal.signal(number, lambda *_: os._exit(code))


def _heeded() -> list[signal.Signals]:
    """What stops a command; what it was started to ignore (nohup, a shell's background job) stays ignored."""
    known = (getattr(signal, name, None) for name in ("SIGINT", "SIGTERM", "SIGHUP"))
    return [number for number in known if number is not None and signal.getsignal(number) != signal.SIG_IGN]

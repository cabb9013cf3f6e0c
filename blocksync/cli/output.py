"""All that the command says: results and events on stdout, progress and errors on stderr.

With ``--json`` stdout carries one JSON object a line and nothing else. A reader that went away, or a full disk under
a redirected stdout, must not break a transfer from inside one of its threads: writing never raises, it tells
``on_gone`` once, and the command's end makes an exit code of it.
"""

from __future__ import annotations

import errno
import json
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TextIO

from blocksync.errors import BlocksyncError
from blocksync.trust.names import printable

if TYPE_CHECKING:
    from blocksync.cli.logbook import Logbook

LINE_CHARACTERS = 2000
"""Longest line printed for people; messages may quote long paths, and nothing is longer than that by rights."""


class Output:
    """Where a command's words go.

    Args:
        json_lines: objects on stdout instead of words.
    """

    def __init__(self, *, json_lines: bool = False) -> None:
        self.json_lines = json_lines
        self.quiet = False
        self.verbose = False
        self.lost: OSError | None = None
        self.log: Logbook | None = None
        # Seconds of the passes so far, for whoever draws them; a follower of a year must not grow.
        self.passes: deque[float] = deque(maxlen=60)
        self.on_gone: Callable[[], None] | None = None
        # A live display on the same terminal takes over the printing of lines.
        self.above: Callable[[str], None] | None = None
        self._lock = threading.RLock()

    # -- what commands say ------------------------------------------------------------------------------------

    def event(self, kind: str, facts: Mapping[str, object], *lines: str) -> None:
        """Something happened that people and programs may want to know."""
        self._log(kind, facts)
        if self.quiet:
            return
        if self.json_lines:
            self._object(kind, facts)
        else:
            self._lines(sys.stdout, lines)

    def result(self, facts: Mapping[str, object], *lines: str) -> None:
        """The outcome; said with ``-q`` too."""
        self._log("result", facts)
        if self.json_lines:
            self._object("result", facts)
        else:
            self._lines(sys.stdout, lines)

    def table(self, text: str) -> None:
        """A rendered table, whose cells were neutralised by whoever made it; part of the result."""
        self._write(sys.stdout, text)

    def note(self, *lines: str) -> None:
        """Progress and remarks for people, on stderr."""
        if not self.quiet and not self.json_lines:
            self._lines(sys.stderr, lines)

    def warn(self, text: str) -> None:
        """What must be seen in any mode, on stderr."""
        self._log("warning", {"message": text})
        self._lines(sys.stderr, (f"warning: {text}",))

    def error(self, error: BlocksyncError, *, title: str = "error") -> None:
        """What happened, what is safe, what to do next."""
        self._log("error", {"code": error.code, "message": error.message, "remedy": error.remedy})
        if self.json_lines:
            self._object(
                "error",
                {
                    "code": error.code,
                    "exit_code": error.exit_code,
                    "message": error.message,
                    "remedy": error.remedy,
                    "safe": error.safe,
                },
            )
            return
        lines = [f"{title}: {error.message}"]
        if error.safe:
            lines.append(f"  safe: {error.safe}")
        if error.remedy:
            lines.append(f"  next: {error.remedy}")
        self._lines(sys.stderr, lines)

    def trace(self, text: str) -> None:
        """A traceback, for ``-v`` alone."""
        self._write(sys.stderr, text)

    # -- inside -----------------------------------------------------------------------------------------------

    def _log(self, kind: str, facts: Mapping[str, object]) -> None:
        if self.log is not None:
            self.log.write(kind, facts)

    def _object(self, kind: str, facts: Mapping[str, object]) -> None:
        self._write(sys.stdout, json.dumps({"type": kind, **facts}) + "\n")

    def _lines(self, stream: TextIO, lines: tuple[str, ...] | list[str]) -> None:
        shown = [printable(line, LINE_CHARACTERS) for line in lines]
        if not shown:
            return
        with self._lock:
            if self.above is not None and stream.isatty():
                for line in shown:
                    self.above(line)
                return
            self._write(stream, "".join(f"{line}\n" for line in shown))

    def _write(self, stream: TextIO, text: str) -> None:
        with self._lock:
            if stream is sys.stdout and self.lost is not None:
                return
            try:
                stream.write(text)
                stream.flush()
            except OSError as error:
                self._discard(stream, error)
            except ValueError:
                pass  # closed at the interpreter's end: there is nobody to tell

    def _discard(self, stream: TextIO, error: OSError) -> None:
        """Send what is left in the stream's buffer nowhere, or the interpreter's end complains about it."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
        if stream is sys.stdout and self.lost is None:
            self.lost = error
            if self.on_gone is not None:
                self.on_gone()

    @property
    def reader_left(self) -> bool:
        """Whether whoever read our stdout closed it."""
        return self.lost is not None and self.lost.errno == errno.EPIPE


def stand_in_for_closed() -> None:
    """Give descriptors 0 to 2 that the caller closed to the null device.

    The next file to be opened would get such a number, a target too; and what writes to stderr below Python (a panic of
    the kernels, the C library's last words, a program that is started) would write to the disk.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115 - for as long as we run


def tolerate_odd_characters() -> None:
    """A name that the terminal's encoding lacks is shown escaped instead of ending the command."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")

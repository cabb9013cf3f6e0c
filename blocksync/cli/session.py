"""One call of the command: its output, its signals, and how it ends.

Every end is an exit code and at most one message: errors of ours carry both, a fault in the request is a usage error,
an interruption is 130, and what nobody foresaw is told in a line, with the whole story for ``-v``.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from blocksync.cli.output import Output, stand_in_for_closed, tolerate_odd_characters
from blocksync.cli.signals import Interrupts
from blocksync.errors import BlocksyncError, InterruptedTransferError, UsageError

if TYPE_CHECKING:
    from blocksync.api import Cancel


class Session:
    """What a command's function works with.

    Args:
        output: for all it says.
        interrupts: entered already.
    """

    def __init__(self, output: Output, interrupts: Interrupts) -> None:
        self.output = output
        self.interrupts = interrupts

    def configure(self, *, json_lines: bool, verbose: bool, quiet: bool) -> None:
        """Take over the options that all commands share."""
        self.output.json_lines = json_lines
        self.output.verbose = verbose
        self.output.quiet = quiet
        if not verbose:
            _silence_libraries()

    def log_to(self, path: Path | None) -> None:
        """Also write what is said and done to a file (``--log-file``).

        Raises:
            StateError: it cannot be written.
        """
        if path is None:
            return
        from blocksync.cli.logbook import Logbook

        self.output.log = Logbook(path, self.output.warn)

    @contextlib.contextmanager
    def cancellable(self) -> Iterator[Cancel]:
        """A token for one call of the API, set by signals and when nobody reads stdout any more."""
        from blocksync.api import Cancel

        cancel = Cancel()
        # From a thread: the loss may be noticed in a callback of the engine's that holds locks.
        self.output.on_gone = lambda: threading.Thread(target=cancel.set, name="output-lost", daemon=True).start()
        try:
            with self.interrupts.stopping(cancel):
                yield cancel
        finally:
            self.output.on_gone = None


def run(program: click.Command, words: list[str]) -> int:
    """Run the program on the words of a command line; returns the exit code and never raises."""
    stand_in_for_closed()
    tolerate_odd_characters()
    # Errors in the command line itself are told as JSON too, though it could not be parsed.
    output = Output(json_lines="--json" in words)
    try:
        with _short_reports(output), Interrupts(output) as interrupts:
            code = _guarded(program, words, output, interrupts)
    except KeyboardInterrupt:  # between two lines of our own
        code = InterruptedTransferError.exit_code
    return _after_loss(output, code)


def _guarded(program: click.Command, words: list[str], output: Output, interrupts: Interrupts) -> int:
    try:
        code = program.main(words, prog_name="blocksync", standalone_mode=False, obj=Session(output, interrupts))
        return code if isinstance(code, int) else 0
    except BlocksyncError as error:
        if error.exit_code == 1:
            _trace(output)
        output.error(error, title="stopped" if isinstance(error, InterruptedTransferError) else "error")
        return error.exit_code
    except click.ClickException as error:
        usage = _usage_error(error)
        output.error(usage)
        return usage.exit_code
    except (KeyboardInterrupt, click.Abort):
        stopped = InterruptedTransferError("interrupted", remedy="run the same command again")
        output.error(stopped, title="stopped")
        return stopped.exit_code
    except Exception as error:  # noqa: BLE001 - the last line before the user: bugs become a message
        _trace(output)
        report = "report it with the output of the same command and -v"
        if output.verbose:
            report = "report it with what stands above"
        output.error(BlocksyncError(f"{type(error).__name__}: {error}", remedy=report), title="unexpected")
        return BlocksyncError.exit_code


def _usage_error(error: click.ClickException) -> UsageError:
    context: click.Context | None = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "blocksync"
    return UsageError(error.format_message().rstrip("."), remedy=f"see {path} --help")


def _after_loss(output: Output, code: int) -> int:
    if output.lost is None or output.reader_left or code:
        return code
    output.json_lines = False
    output.error(
        BlocksyncError(
            f"cannot write the output: {output.lost.strerror}",
            remedy="give stdout a place with room",
            safe="what the command did is done",
        )
    )
    return BlocksyncError.exit_code


def _trace(output: Output) -> None:
    if output.verbose:
        output.trace(traceback.format_exc())


@contextlib.contextmanager
def _short_reports(output: Output) -> Iterator[None]:
    """Inside, a thread of ours that dies of a bug says so in a line, not in a page."""

    def told(what: threading.ExceptHookArgs) -> None:
        if what.exc_type is SystemExit:
            return
        name = what.thread.name if what.thread is not None else "?"
        if output.verbose:
            output.trace("".join(traceback.format_exception(what.exc_type, what.exc_value, what.exc_traceback)))
        output.warn(f"unexpected in thread {name}: {what.exc_type.__name__}: {what.exc_value}")

    def unraisable(what: Any) -> None:
        if output.verbose:
            earlier[1](what)

    earlier = threading.excepthook, sys.unraisablehook
    threading.excepthook, sys.unraisablehook = told, unraisable
    try:
        yield
    finally:
        threading.excepthook, sys.unraisablehook = earlier


def _silence_libraries() -> None:
    """What the event loop logs about connections that broke is no news to a user; ``-v`` shows it."""
    import logging

    logging.getLogger().addHandler(logging.NullHandler())

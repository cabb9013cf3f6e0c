"""A pass at the sender, with its retries: each one opens a session anew and plans anew."""

from __future__ import annotations

import contextlib
import time

from blocksync.engine.cancel import Cancel
from blocksync.engine.pace import Pace
from blocksync.engine.sending import Pass, Route, Transfer
from blocksync.errors import BlocksyncError, ReceiverFullError, SlotPreparingError, StateDamagedError
from blocksync.kernels import DigestKind
from blocksync.manifest.format import fitted
from blocksync.options import Digest, SendOptions
from blocksync.platforms.likeness import marks_of
from blocksync.protocol.messages import CONTROL_VERSION, MAX_TEXT_CHARACTERS, OpenRequest
from blocksync.results import SendResult
from blocksync.sources.base import Source

FIRST_BACKOFF_SECONDS = 0.5
LONGEST_BACKOFF_SECONDS = 30.0


class Sender:
    """Sends one source to one slot.

    Args:
        source: open.
        route: to the receiver.
        options: of the caller.
        cancel: ends everything, resumably, when set.
        pace: shared with other senders; one for ``options.bwlimit`` when left out.
    """

    def __init__(
        self, source: Source, route: Route, options: SendOptions, cancel: Cancel, pace: Pace | None = None
    ) -> None:
        self._transfer = Transfer(source, route, options, cancel, pace)
        self._copy_dropped = False

    def run(self) -> SendResult:
        """Make one pass, retrying what can be retried.

        Raises:
            InterruptedTransferError: cancelled.
            BlocksyncError: what a retry cannot mend, or still failed after ``retry_seconds`` without progress.
        """
        transfer = self._transfer
        try:
            transfer.look()
        except BlocksyncError as error:
            transfer.cancel.check(error)
            raise
        backoff = FIRST_BACKOFF_SECONDS
        last_progress = time.monotonic()
        while True:
            before = transfer.tally.counts().wire
            try:
                return self._attempt()
            except BlocksyncError as error:
                transfer.cancel.check(error)
                if not self._worth_retrying(error):
                    raise
                # A receiver that is reading its target is at work, however long that takes; so is a full one.
                if transfer.tally.counts().wire > before or isinstance(
                    error, (SlotPreparingError, ReceiverFullError)
                ):
                    last_progress = time.monotonic()
                if transfer.tally.counts().wire > before:
                    backoff = FIRST_BACKOFF_SECONDS
                # A target that is being read again is at work, not failing: that is waited for in any case.
                preparing = isinstance(error, SlotPreparingError)
                if not preparing and time.monotonic() - last_progress >= transfer.options.retry_seconds:
                    raise
                transfer.retries += 1
                transfer.tell("waiting", message=f"{error.message}; trying again in {backoff:.1f} s")
                transfer.cancel.wait(backoff)
                transfer.cancel.check(error)
                backoff = min(backoff * 2, LONGEST_BACKOFF_SECONDS)
                transfer.tally.restart()

    def _worth_retrying(self, error: BlocksyncError) -> bool:
        if isinstance(error, StateDamagedError) and not self._copy_dropped:
            # Perhaps it is our copy of the manifest, which is only a hint: without it the receiver's is fetched.
            self._copy_dropped = True
            self._transfer.route.copy.drop()
            return True
        return error.retryable

    def _attempt(self) -> SendResult:
        transfer = self._transfer
        source, wanted = transfer.source, transfer.options
        control = transfer.route.control
        transfer.tell("connecting")
        with transfer.cancel.watching(control.abort):
            answer = control.open(
                OpenRequest(
                    version=CONTROL_VERSION,
                    run=transfer.run,
                    slot=wanted.slot,
                    source_identity=fitted(source.identity),
                    source_name=source.name[:MAX_TEXT_CHARACTERS],
                    size=source.size,
                    sector_bytes=source.sector_bytes,
                    block_bytes=wanted.block_bytes,
                    digest=DigestKind.BLAKE3 if wanted.digest is Digest.BLAKE3 else DigestKind.XXH3,
                    connections=wanted.connections,
                    replace=wanted.replace,
                    transfer=wanted.transfer,
                    marks=marks_of([source.name]),
                )
            )
        try:
            return Pass(transfer, answer).run()
        finally:
            # Where this fails, the receiver ends the session by itself when it hears nothing more.
            with contextlib.suppress(BlocksyncError):
                control.end(answer.session)

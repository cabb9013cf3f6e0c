"""A verify on trial: the receiver digests what a rehearsal wrote, or its device, while this end digests as much.

Both at once, as a verify does, since both may share processors; through the same request, so that what is measured has
the receiver's reading of its storage in it, which nothing else of an estimate touches.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass

from blocksync.engine.cancel import Cancel
from blocksync.engine.verify import DIGEST_BYTES, PIECE_BYTES, piece_digests
from blocksync.engine.windows import WINDOW_BYTES
from blocksync.errors import BlocksyncError
from blocksync.estimate.sampling import Picture
from blocksync.estimate.trial import TrialDisk
from blocksync.protocol.messages import CONTROL_VERSION, ControlPort, OpenAnswer, VerifyRequest

PROOF_SECONDS = 2.0
MOST_BYTES = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What a verify on trial showed.

    Args:
        asking: seconds until a request was answered; reading begins then.
        each: seconds a byte of both ends together; here: of this end's digesting alone, without reading.
    """

    asking: float
    each: float
    here: float

    def seconds(self, picture: Picture, read_rate: float) -> float:
        """Of a verify of this source.

        Args:
            read_rate: of the source by one thread, which is what a verify has, bytes a second.
        """
        # Ranges with unused pages are asked for one by one.
        requests = -(-picture.size // WINDOW_BYTES) if picture.unused else 1
        return requests * self.asking + picture.compared * max(self.each, self.here + 1 / max(read_rate, 1.0))


def prove(control: ControlPort, answer: OpenAnswer, disk: TrialDisk, written: int, cancel: Cancel) -> Proof | None:
    """Try a verify.

    Args:
        answer: to the rehearsal's OPEN; its pass is committed, and its scratch slot still there.
        disk: that was sent.
        written: bytes from its beginning that are on the scratch target.
        cancel: stops it.

    Returns:
        None where too little was written, or where the receiver does not let its target be read.

    Raises:
        InterruptedTransferError: cancelled.
    """
    length = min(written, MOST_BYTES) // PIECE_BYTES * PIECE_BYTES
    if not length:
        return None
    request = VerifyRequest(
        version=CONTROL_VERSION,
        slot=answer.slot,
        size=length,
        offset=0,
        length=length,
        piece_bytes=PIECE_BYTES,
        key=secrets.token_bytes(32),
        rehearsal=True,
    )
    began = time.monotonic()
    try:
        with cancel.watching(control.abort):
            _, theirs = control.verify(request)
            answered = time.monotonic()
            done, digesting = _both(theirs, disk, request, answered + PROOF_SECONDS)
    except BlocksyncError as error:
        cancel.check(error)
        return None
    took = time.monotonic() - answered
    return Proof(asking=answered - began, each=took / done, here=digesting / done) if done else None


def _both(theirs: Iterator[bytes], disk: TrialDisk, request: VerifyRequest, deadline: float) -> tuple[int, float]:
    """Bytes that both ends digested until then, and the seconds this end took for them."""
    held = done = 0
    digesting = 0.0
    ours = piece_digests(disk, 0, request.length, PIECE_BYTES, request.key)
    try:
        while done < request.length and (not done or time.monotonic() < deadline):
            before = time.monotonic()
            next(ours)
            digesting += time.monotonic() - before
            done += PIECE_BYTES
            while held < done // PIECE_BYTES * DIGEST_BYTES:
                part = next(theirs, b"")
                if not part:
                    return 0, 0.0
                held += len(part)
    finally:
        close = getattr(theirs, "close", None)
        if close is not None:
            close()
    return done, digesting

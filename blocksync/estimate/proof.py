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
from blocksync.estimate.paces import extremes
from blocksync.estimate.sampling import Picture
from blocksync.estimate.trial import TrialDisk
from blocksync.protocol.messages import CONTROL_VERSION, ControlPort, OpenAnswer, VerifyRequest

# Long enough to see a second pace: what is read at first may find memory that was just given back.
PROOF_SECONDS = 4.0
MOST_BYTES = 2 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What a verify on trial showed.

    Args:
        asking: seconds until a request was answered; reading begins then.
        each: seconds a byte of both ends together; here: of this end's digesting alone, without reading.
        least, most: ``each`` at the fastest and at the slowest pace that held for a while.
    """

    asking: float
    each: float
    here: float
    least: float
    most: float

    def span(self, picture: Picture, read_rate: float) -> tuple[float, float, float]:
        """Seconds of a verify of this source: the likeliest, and at the fastest and the slowest pace that was seen.

        Args:
            read_rate: of the source by one thread, which is what a verify has, bytes a second.
        """
        # Ranges with unused pages are asked for one by one.
        requests = -(-picture.size // WINDOW_BYTES) if picture.unused else 1
        alone = self.here + 1 / max(read_rate, 1.0)
        likely, least, most = (
            requests * self.asking + picture.compared * max(each, alone)
            for each in (self.each, self.least, self.most)
        )
        return likely, least, most


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
            marks, digesting = _both(theirs, disk, request, answered + PROOF_SECONDS)
    except BlocksyncError as error:
        cancel.check(error)
        return None
    if not marks:
        return None
    ended, done = marks[-1]
    each = (ended - answered) / done
    slowest, fastest = extremes([(answered, 0), *marks], 1 / each)
    return Proof(asking=answered - began, each=each, here=digesting / done, least=1 / fastest, most=1 / slowest)


def _both(
    theirs: Iterator[bytes], disk: TrialDisk, request: VerifyRequest, deadline: float
) -> tuple[list[tuple[float, int]], float]:
    """Bytes that both ends had digested at times until then, and the seconds this end took for all of them."""
    held = done = 0
    marks: list[tuple[float, int]] = []
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
                    return [], 0.0
                held += len(part)
            marks.append((time.monotonic(), done))
    finally:
        close = getattr(theirs, "close", None)
        if close is not None:
            close()
    return marks, digesting

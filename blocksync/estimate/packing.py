"""What compression does to the samples: a table of levels, and the sizes on the wire at the levels a rehearsal used."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from blocksync.codec import Packer
from blocksync.engine.adapt import LADDER
from blocksync.estimate.prediction import Packed
from blocksync.estimate.rehearsal import Rehearsal
from blocksync.estimate.results import LevelFigures
from blocksync.estimate.sampling import BLOCK_BYTES, Piece
from blocksync.kernels import is_zero

CHUNK_BYTES = 1 << 20
# A level is measured on this much, or for this long, whichever comes first.
MEASURED_BYTES = 8 << 20
MEASURED_SECONDS = 0.25
# Levels that the rehearsal used for less than this share of its data do not count.
LEAST_SHARE = 0.05
FRAME_BYTES = 64


def level_table(pieces: Sequence[Piece]) -> tuple[LevelFigures, ...]:
    """Ratio and speed of each level that a pass may choose, on the sampled data that is not zero."""
    chunks = _chunks([without_zeros(piece.content) for piece in pieces if piece.content], MEASURED_BYTES)
    if not chunks:
        return ()
    return tuple(_figures(level, chunks) for level in LADDER)


def _figures(level: int | None, chunks: Sequence[bytes]) -> LevelFigures:
    if level is None:
        return LevelFigures(level=None, ratio=1.0, rate=0.0)
    packer = Packer()
    plain = wire = 0
    began = time.perf_counter()
    for chunk in chunks:
        view = memoryview(chunk)
        packed = packer.pack(view, level) if packer.shrinks(view) else None
        plain += len(chunk)
        wire += len(chunk) if packed is None else len(packed)
        if time.perf_counter() - began > MEASURED_SECONDS:
            break
    return LevelFigures(level=level, ratio=plain / wire, rate=plain / max(time.perf_counter() - began, 1e-6))


def _chunks(contents: Sequence[bytes], most: int) -> list[bytes]:
    joined = bytearray()
    # Every so many pieces, so that the few that are measured are spread over the disk.
    every = max(1, sum(map(len, contents)) // most)
    for content in contents[::every]:
        joined += content
    return [bytes(joined[at : at + CHUNK_BYTES]) for at in range(0, len(joined), CHUNK_BYTES)]


def without_zeros(content: bytes) -> bytes:
    """A piece's blocks that are not zero: what is packed and sent."""
    view = memoryview(content)
    blocks = [view[at : at + BLOCK_BYTES] for at in range(0, len(view), BLOCK_BYTES)]
    return b"".join(block for block in blocks if not is_zero(block))


def levels_used(rehearsal: Rehearsal) -> dict[int | None, float]:
    """The shares of the rehearsal's data that went out at each level, once it had found its pace."""
    first, _ = rehearsal.tail
    amounts: dict[int | None, int] = {}
    for earlier, later in zip(rehearsal.moments, rehearsal.moments[1:], strict=False):
        if earlier.seconds >= first.seconds:
            amounts[earlier.level] = amounts.get(earlier.level, 0) + later.changed - earlier.changed
    total = sum(amounts.values())
    if not total:
        return {rehearsal.moments[-1].level: 1.0}
    kept = {level: amount for level, amount in amounts.items() if amount >= LEAST_SHARE * total}
    return {level: amount / sum(kept.values()) for level, amount in kept.items()}


def packed_at(pieces: Sequence[Piece], levels: Mapping[int | None, float]) -> Packed:
    """Sizes of the kept pieces on the wire.

    Args:
        pieces: in the order of the disk.
        levels: and their shares.
    """
    packer = Packer()
    lengths: list[int] = []
    wires: list[float] = []
    for piece in pieces:
        if not piece.content:
            continue
        plain = without_zeros(piece.content)
        # Headers: one frame a chunk.
        wire = FRAME_BYTES * piece.length / CHUNK_BYTES
        for level, share in levels.items():
            packed = packer.pack(plain, level) if plain and level is not None else None
            wire += share * (len(plain) if packed is None else len(packed))
        lengths.append(piece.length)
        wires.append(wire)
    return Packed(lengths=lengths, wires=wires)

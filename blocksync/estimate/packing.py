"""What compression does to the samples: a table of levels, and the sizes on the wire at the levels a rehearsal used."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from blocksync.codec import Packer
from blocksync.engine.adapt import LADDER, START_LEVEL
from blocksync.estimate.prediction import Packed
from blocksync.estimate.rehearsal import Rehearsal
from blocksync.estimate.results import LevelFigures
from blocksync.estimate.sampling import BLOCK_BYTES, Sample
from blocksync.kernels import is_zero

CHUNK_BYTES = 1 << 20
# A level is measured on this much, or for this long, whichever comes first.
MEASURED_BYTES = 8 << 20
MEASURED_SECONDS = 0.25
# Levels that the rehearsal used for less than this share of its data do not count.
LEAST_SHARE = 0.05
FRAME_BYTES = 64
# Packed at each level that was used; the high ones are slow.
PACKED_BYTES = 32 << 20


def level_table(sample: Sample) -> tuple[LevelFigures, ...]:
    """Ratio and speed of each level that a pass may choose, on the data that shrinks; on all of it if none does."""
    shrinking = [piece for piece in sample.pieces if piece.zero + piece.incompressible < piece.length]
    contents = sample.chunks or [piece.content for piece in shrinking or sample.pieces if piece.content]
    chunks = _chunks([without_zeros(content) for content in contents], MEASURED_BYTES)
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


def packed_at(sample: Sample, levels: Mapping[int | None, float], *, adapts: bool = False) -> Packed:
    """Sizes of the kept pieces on the wire.

    Args:
        sample: of the source.
        levels: and their shares.
        adapts: the pass may choose others: none, or the one that passes begin with.
    """
    packer = Packer()
    if adapts:
        levels = {None: 0.0, START_LEVEL: 0.0, **levels}
    gains = {level: chunk_gain(sample, level, packer) for level in levels if level is not None}
    lengths: list[int] = []
    wires: list[float] = []
    totals = dict.fromkeys(levels, 0.0)
    kept = [piece for piece in sample.pieces if piece.content]
    every = max(1, -(-sum(piece.length for piece in kept) // PACKED_BYTES))
    for piece in kept[::every]:
        content = without_zeros(piece.content)
        # Headers: one frame a chunk.
        wire = FRAME_BYTES * piece.length / CHUNK_BYTES
        for level, share in levels.items():
            packed = packer.pack(content, level) if content and level is not None else None
            here = len(content) if packed is None or level is None else len(packed) * gains[level]
            totals[level] += here
            wire += share * here
        lengths.append(piece.length)
        wires.append(wire)
    plain = max(sum(lengths), 1)
    shares = (min(totals.values()) / plain, max(totals.values()) / plain) if adapts else ()
    return Packed(lengths=lengths, wires=wires, levels=_deviation(totals, levels), shares=shares)


def _deviation(totals: Mapping[int | None, float], shares: Mapping[int | None, float]) -> float:
    """Of the totals around their mean, each with its share, relative."""
    mean = sum(shares[level] * total for level, total in totals.items())
    squares = sum(shares[level] * (total - mean) ** 2 for level, total in totals.items())
    return float(squares**0.5 / mean) if mean else 0.0


def chunk_gain(sample: Sample, level: int, packer: Packer) -> float:
    """How much smaller whole chunks become than their pieces one by one: a compressor learns from what it has seen."""
    length = max((piece.length for piece in sample.pieces), default=0)
    whole = apart = 0
    for chunk in sample.chunks:
        plain = without_zeros(chunk)
        packed = packer.pack(plain, level) if plain else None
        if packed is None:
            continue
        parts = [plain[at : at + length] for at in range(0, len(plain), length)]
        whole += len(packed)
        apart += sum(len(packer.pack(part, level) or part) for part in parts)
    return whole / apart if apart else 1.0

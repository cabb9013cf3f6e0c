"""The seeded disk that all tools move: 40 % zeros, 30 % text, 30 % random, in runs of a MiB; and its changes."""

from __future__ import annotations

import random
from pathlib import Path

MIB = 1 << 20
PAGE = 4096
LETTERS = bytes(range(97, 123))


def make_disk(path: Path, size: int, seed: int = 1) -> None:
    """Write the disk in full (no holes), so that every tool reads every byte."""
    chance = random.Random(seed)
    words = [bytes(chance.choices(LETTERS, k=chance.randrange(2, 11))) for _ in range(4000)]
    texts = [(b" ".join(chance.choices(words, k=MIB // 5)))[:MIB].ljust(MIB) for _ in range(16)]
    with path.open("wb") as file:
        for _ in range(size // MIB):
            kind = chance.random()
            if kind < 0.4:
                file.write(bytes(MIB))
            elif kind < 0.7:
                # Each MiB differs, its letters too: a tool that finds repeated content must not gain by it.
                letters = bytes(chance.sample(LETTERS, len(LETTERS)))
                text = bytearray(chance.choice(texts).translate(bytes.maketrans(LETTERS, letters)))
                for at in range(0, MIB, 512):
                    text[at : at + 8] = b"%08x" % chance.getrandbits(32)
                file.write(text)
            else:
                file.write(chance.randbytes(MIB))


def change_pages(path: Path, share: float, seed: int) -> int:
    """Replace a share of the 4 KiB pages, at random; returns the bytes changed."""
    chance = random.Random(seed)
    pages = path.stat().st_size // PAGE
    chosen = chance.sample(range(pages), max(1, int(pages * share)))
    with path.open("r+b") as file:
        for page in sorted(chosen):
            file.seek(page * PAGE)
            file.write(chance.randbytes(PAGE))
    return len(chosen) * PAGE

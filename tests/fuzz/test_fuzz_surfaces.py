"""Every surface with its seeds, with what once broke it, and some mutations; campaigns: ``python -m fuzz``."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from fuzz import surfaces

CRASHES = Path(__file__).resolve().parents[2] / "fuzz" / "crashes"
MUTATIONS = 150


@pytest.mark.parametrize("name", surfaces.NAMES)
def test_seeds_and_their_mutations_give_values_or_typed_errors(name: str) -> None:
    surface = surfaces.load(name)
    seeds = list(surface.seeds())
    assert seeds
    chance = random.Random(name)
    for seed in seeds:
        assert len(seed) <= surface.most_bytes, "the fuzzer would cut this seed"
        surfaces.meets(surface, seed)
    for _ in range(MUTATIONS):
        data = bytearray(chance.choice(seeds))
        for _ in range(chance.randrange(1, 5)):
            at = chance.randrange(len(data) + 1)
            piece = chance.choice((b"", b"\0", b"\xff" * 8, chance.randbytes(1), chance.randbytes(4)))
            data[at : at + chance.randrange(len(piece) + 2)] = piece
        surfaces.meets(surface, bytes(data[: surface.most_bytes]))


@pytest.mark.parametrize(
    "path", sorted(CRASHES.glob("*/*")), ids=lambda path: f"{path.parent.name}-{path.name[:18]}"
)
def test_what_once_broke_a_promise_does_not_any_more(path: Path) -> None:
    surfaces.meets(surfaces.load(path.parent.name), path.read_bytes())


def test_an_input_that_takes_too_much_of_a_processor_breaks_the_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    def spin(data: bytes) -> None:
        while time.process_time() < begin + len(data) / 100:
            pass

    surface = surfaces.Surface(run=spin, seeds=lambda: (), modules=())
    monkeypatch.setattr(surfaces, "INPUT_SECONDS", 0.05)
    begin = time.process_time()
    surfaces.meets(surface, b"")
    with pytest.raises(AssertionError, match="of a processor"):
        surfaces.meets(surface, bytes(20))

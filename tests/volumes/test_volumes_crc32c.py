"""CRC-32C by whole words and by runs of zeros and ones, against the definition a bit at a time."""

from __future__ import annotations

import random

import pytest

from blocksync.volumes.crc32c import crc32c

REFLECTED_POLYNOMIAL = 0x82F63B78


def by_bits(data: bytes, crc: int) -> int:
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (REFLECTED_POLYNOMIAL if crc & 1 else 0)
    return crc


def test_the_value_that_the_definition_checks_itself_with() -> None:
    assert crc32c(b"123456789") ^ 0xFFFFFFFF == 0xE3069283


@pytest.mark.parametrize("length", [0, 1, 3, 64, 127, 128, 511, 512, 513, 639, 640, 1025, 4096])
def test_runs_of_one_value_and_what_lies_between_them(length: int) -> None:
    chance = random.Random(length)
    mixed = b"".join(
        chance.choice((bytes(128), b"\xff" * 128, bytes(64) + b"\xff" * 64, chance.randbytes(128)))
        for _ in range(40)
    )
    for data in (bytes(length), b"\xff" * length, chance.randbytes(length), mixed[:length], mixed[7 : 7 + length]):
        for start in (0xFFFFFFFF, 0, chance.getrandbits(32)):
            assert crc32c(data, start) == by_bits(data, start)
            assert crc32c(memoryview(data), start) == by_bits(data, start)

"""What thin_delta and era_invalidate print, as a broken tool or a broken pool makes it."""

from __future__ import annotations

from collections.abc import Iterator

from blocksync.changes.era import parse_blocks
from blocksync.changes.thin import parse_delta
from fuzz.surfaces import Surface

ERA = 1
SIZE = 1 << 30
GRANULARITY = 65536
# Words that stand for themselves when a byte above 127 names them: a fuzzer seldom guesses an element.
WORDS = (
    b'<superblock uuid="" time="0" transaction="0" flags="0" version="2" data_block_size="128" nr_data_blocks="9">\n',
    b"<diff left=\"1\" right=\"2\">\n", b"</diff>\n", b"</superblock>\n", b"<blocks>\n", b"</blocks>\n",
    b'<different begin="', b'<same begin="', b'<left_only begin="', b'<right_only begin="', b'" length="', b'"/>\n',
    b'<block block="', b'<range begin="', b'" end = "', b"0", b"1", b"7", b"16383", b"16384", b"99999999999999999999",
)  # fmt: skip


def text_of(data: bytes) -> str:
    """Bytes as a tool's output, its words in the place of single bytes."""
    return b"".join(
        WORDS[(byte - 128) % len(WORDS)] if byte > 127 else bytes((byte,)) for byte in data
    ).decode("ascii")  # fmt: skip


def run(data: bytes) -> None:
    if not data:
        return
    text = text_of(data[1:])
    found = parse_blocks(text, GRANULARITY, SIZE) if data[0] & ERA else parse_delta(text, SIZE)
    at = 0
    for extent in found:
        assert at <= extent.offset < extent.end <= SIZE, extent
        at = extent.end


def seeds() -> Iterator[bytes]:
    word = {text: bytes((128 + index,)) for index, text in enumerate(WORDS)}
    one, seven, far = word[b"1"], word[b"7"], word[b"16383"]
    begin, end = word[WORDS[0]] + word[WORDS[1]], word[WORDS[2]] + word[WORDS[3]]
    length, close = word[WORDS[10]], word[WORDS[11]]
    for name in WORDS[6:10]:
        yield (
            b"\0"
            + begin
            + word[name]
            + one
            + length
            + seven
            + close
            + word[name]
            + far
            + length
            + one
            + close
            + end
        )
    blocks = word[WORDS[12]] + one + close + word[WORDS[13]] + seven + word[WORDS[14]] + far + close
    yield b"\x01" + word[WORDS[4]] + blocks + word[WORDS[5]]
    # More digits than Python makes a number of.
    yield b"\x01" + word[WORDS[4]] + word[WORDS[12]] + word[WORDS[-1]] * 220 + close + word[WORDS[5]]
    yield b"\0" + b'<diff left="1" right="2"/>'


SURFACE = Surface(
    run=run, seeds=seeds, modules=("blocksync.changes.xml", "blocksync.changes.thin", "blocksync.changes.era"),
    most_bytes=600,
)  # fmt: skip

"""Text that people type or peers choose: pairing codes, addresses, slots' names, names for a terminal."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator

from blocksync.engine.reach import parse_address
from blocksync.trust.codes import PairingCode
from blocksync.trust.names import check_slot_name, printable
from fuzz.surfaces import Surface


def run(data: bytes) -> None:
    if not data:
        return
    what, text = data[0] % 5, data[1:].decode("utf-8", "surrogateescape")
    if what == 0:
        code = PairingCode.parse(text)
        assert PairingCode.parse(code.text) == code
    elif what == 1:
        _, port = parse_address(text)
        assert 0 < port < 1 << 16
    elif what == 2:
        name = check_slot_name(text)
        assert "/" not in name
        assert not name.startswith(".")
        assert len(name) <= 64
    else:
        limit = 1 + len(data) % 80
        shown = printable(text, limit)
        assert len(shown) <= limit
        assert not any(unicodedata.category(each)[0] == "C" or each in "\u2028\u2029" for each in shown)


def seeds() -> Iterator[bytes]:
    yield b"\0" + PairingCode.make(bytes(32)).text.encode()
    yield b"\0" + PairingCode.make(bytes(range(32))).text.lower().replace("-", " ").encode()
    for address in (b"host", b"host:8080", b"[::1]:8080", b"[::1]", b"::1", b":", b"a:99999", b"a:\xd9\xa1"):
        yield b"\x01" + address
    yield b"\x02web-1.data_disk"
    yield b"\x03\x1b]0;title\x07 \xe2\x80\xae name \xf0\x9f\x92\xa9 a\xcc\x81\xcc\x81\xcc\x81\xcc\x81\xcc\x81\xcc\x81"


SURFACE = Surface(
    run=run, seeds=seeds, modules=("blocksync.trust.codes", "blocksync.trust.names", "blocksync.engine.reach"),
    most_bytes=400,
)  # fmt: skip

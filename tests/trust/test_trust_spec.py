"""docs/TRUST.md says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from blocksync.trust.codes import CODE_PIN_BYTES, CODE_SECRET_BYTES, PairingCode
from blocksync.trust.pairing import PairingReply, PairingRequest

PAGE = (Path(__file__).parents[2] / "docs" / "TRUST.md").read_text(encoding="utf-8")


def test_the_layout_of_the_code() -> None:
    rows = [(int(at), int(size)) for at, size in re.findall(r"^\| (\d+) \| (\d+) \|", PAGE, re.MULTILINE)]
    assert [size for _, size in rows] == [1, CODE_PIN_BYTES, CODE_SECRET_BYTES, 2]
    assert [at for at, _ in rows] == [0, 1, 17, 28]
    assert PairingCode(pin=bytes(16), secret=bytes(11)).text.startswith("P4")


def test_the_members_of_the_messages() -> None:
    for title, kind in (("request", PairingRequest), ("reply", PairingReply)):
        members = re.findall(rf"^\| {title} \| `(\w+)` \|", PAGE, re.MULTILINE)
        assert set(members) == set(kind.__slots__)
        assert len(members) == len(kind.__slots__)

"""What is longer, or nested more deeply, than the inputs that the surfaces are given."""

from __future__ import annotations

from pathlib import Path

import pytest

from blocksync.changes.era import parse_blocks
from blocksync.changes.thin import parse_delta
from blocksync.changes.xml import elements
from blocksync.engine.outlook import Outlooks
from blocksync.engine.reach import parse_address
from blocksync.engine.view import parse_status_address
from blocksync.errors import ChangesUnknownError, PrivilegesError, UsageError
from blocksync.nbd.address import parse_address as parse_nbd
from blocksync.platforms.privileges import find_account
from blocksync.snapshots.records import Records

# Python refuses to make a number of more than 4,300 digits, with an error that is none of ours.
DIGITS = "9" * 5000
NESTED = "[" * 60_000


def test_a_tool_that_prints_a_number_of_thousands_of_digits_is_refused() -> None:
    blocks = f'<blocks>\n<block block="{DIGITS}"/>\n</blocks>\n'
    with pytest.raises(ChangesUnknownError):
        list(parse_blocks(blocks, 65536, 1 << 30))
    delta = f'<superblock data_block_size="128">\n<diff>\n<different begin="{DIGITS}" length="1"/>\n</diff>\n'
    with pytest.raises(ChangesUnknownError):
        list(parse_delta(delta, 1 << 30))


def test_the_end_of_a_line_is_looked_for_once_however_many_elements_it_has() -> None:
    class Line(str):  # noqa: SLOT000
        looks = 0

        def rstrip(self, *_words: object) -> str:
            Line.looks += 1
            return str.rstrip(self)

    class Text(str):  # noqa: SLOT000
        def splitlines(self, keepends: bool = False) -> list[str]:
            return [Line(line) for line in str.splitlines(self, keepends)]

    assert len(list(elements(Text('<block block="1"/>' * 1000 + " ")))) == 1000
    assert Line.looks == 1


@pytest.mark.parametrize("text", [f"host:{DIGITS}", f"[::1]:{DIGITS}"])
def test_a_port_of_thousands_of_digits_is_no_address(text: str) -> None:
    with pytest.raises(UsageError):
        parse_address(text)
    with pytest.raises(UsageError):
        parse_status_address(text.replace("host", "127.0.0.1"))
    with pytest.raises(UsageError):
        parse_nbd(f"nbd://{text}/disk")


def test_a_user_of_thousands_of_digits_is_none() -> None:
    with pytest.raises(PrivilegesError) as caught:
        find_account(DIGITS)
    assert len(caught.value.message) < 200


@pytest.mark.parametrize("content", [NESTED, "[" + DIGITS + "]", '{"transfer": "a", "pid": 1e999, "began": 1}'])
def test_a_hint_or_a_record_in_the_state_folder_that_is_no_such_thing_counts_as_none(
    tmp_path: Path, content: str
) -> None:
    outlooks = Outlooks(tmp_path, b"r" * 32)
    path = outlooks._path("slot")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    assert outlooks.load("slot") is None
    records = Records(tmp_path / "records")
    records.folder.mkdir()
    (records.folder / "a.json").write_text(content)
    assert records.all() == []

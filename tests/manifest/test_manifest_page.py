"""docs/MANIFEST.md says what the code does."""

from __future__ import annotations

import re
import struct
from pathlib import Path

from blocksync.geometry import Geometry
from blocksync.manifest.format import ENTRY, HEADER, RECORD, RecordKind, payload_bytes

PAGE = (Path(__file__).parents[2] / "docs" / "MANIFEST.md").read_text()


def fields_of(form: str) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    at = 0
    for count, kind in re.findall(r"(\d*)([a-zA-Z])", form.lstrip("<")):
        for part in [f"<{count}{kind}"] if kind == "s" else [f"<{kind}"] * int(count or 1):
            found.append((at, struct.calcsize(part)))
            at += struct.calcsize(part)
    return found


def layouts() -> list[list[tuple[int, int]]]:
    tables = re.findall(r"^\| offset \| size \|.*\n\|[-| ]+\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    return [
        [(int(offset), int(size)) for offset, size in re.findall(r"^\| (\d+) \| (\d+) \|", rows, re.MULTILINE)]
        for rows in tables
    ]


def test_header_entry_and_record_are_laid_out_as_the_page_says() -> None:
    assert layouts() == [fields_of(HEADER.format), fields_of(ENTRY.format), fields_of(RECORD.format)]


def test_the_records_are_numbered_as_the_page_says() -> None:
    said = dict(re.findall(r"^\| (\d) \| ([A-Z_]+) \|", PAGE, re.MULTILINE))
    assert said == {str(kind.value): kind.name for kind in RecordKind}


def test_the_manifest_is_as_small_as_the_page_says() -> None:
    disk = Geometry(64 << 40)
    size = 4096 + disk.segment_count * (ENTRY.size + payload_bytes(disk, disk.segment_blocks))
    assert size / disk.size < 0.0013
    assert "0.1223 %" in PAGE
    assert abs(size / disk.size - 0.001223) < 0.000002

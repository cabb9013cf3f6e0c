"""docs/PROTOCOL.md says what the code does."""

from __future__ import annotations

import dataclasses
import re
import struct

from protocol_pages import layouts, names_by_number, tables

from blocksync.protocol import messages
from blocksync.protocol.states import RECEIVER_HEARS, RECEIVER_SENDS, SENDER_HEARS, SENDER_SENDS, State
from blocksync.protocol.wire import HEADER, HELLO, FrameKind

PAGE = "PROTOCOL.md"


def fields_of(form: str) -> list[tuple[int, int]]:
    """``(offset, size)`` of each member of a struct without alignment; padding counts as one."""
    found: list[tuple[int, int]] = []
    at = 0
    for count, kind in re.findall(r"(\d*)([a-zA-Z])", form.lstrip("<")):
        parts = [f"<{count}{kind}"] if kind in "sx" else [f"<{kind}"] * int(count or 1)
        for part in parts:
            size = struct.calcsize(part)
            found.append((at, size))
            at += size
    return found


def test_the_frame_header_and_the_hello_are_laid_out_as_the_page_says() -> None:
    assert layouts(PAGE) == [fields_of(HEADER.format), fields_of(HELLO.format)]


def test_the_kinds_are_numbered_as_the_page_says() -> None:
    assert names_by_number(PAGE, "kind") == [{kind.value: kind.name for kind in FrameKind}]


def test_the_states_are_those_of_the_page() -> None:
    (table,) = (table for table in tables(PAGE) if table[0] == ["state", "sender says", "receiver says"])
    said: dict[State, list[dict[FrameKind, State]]] = {}
    for name, *cells in table[1:]:
        said[State(name)] = [
            {
                FrameKind[kind.strip()]: State(following)
                for kinds, following in re.findall(r"([A-Z, ]+) → (\w+)", cell)
                for kind in kinds.split(",")
                if kind.strip()
            }
            for cell in cells
        ]
    for state in State:
        sender, receiver = said.get(state, [{}, {}])
        assert SENDER_SENDS.get(state, {}) == RECEIVER_HEARS.get(state, {}) == sender
        assert RECEIVER_SENDS.get(state, {}) == receiver
        heard = SENDER_HEARS.get(state, {})
        assert all(receiver[kind] is heard[kind] for kind in heard)


def test_the_messages_have_the_fields_of_the_page() -> None:
    (table,) = (table for table in tables(PAGE) if table[0] == ["message", "field", "meaning"])
    said: dict[str, list[str]] = {}
    for message, field, _ in table[1:]:
        said.setdefault(message, []).append(field)
    built = {
        cls.__name__: [field.name for field in dataclasses.fields(cls)] for cls in messages.Message.__subclasses__()
    }
    assert said == built

"""Messages of the control port are parsed strictly: JSON's types are kept apart, and everything has a bound."""

from __future__ import annotations

import pytest

from blocksync.errors import ProtocolError, VersionSkewError
from blocksync.protocol.messages import CONTROL_VERSION, MAX_TEXT_CHARACTERS, OpenRequest

GOOD = OpenRequest(
    version=CONTROL_VERSION, run=bytes(16), slot="web", source_identity="disk", source_name="disk", size=1 << 20,
    sector_bytes=512, block_bytes=65536, digest=1, connections=2, replace=False,
)  # fmt: skip


def test_a_message_survives_its_way() -> None:
    assert OpenRequest.from_json(GOOD.to_json()) == GOOD


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("size", True), ("size", 1.0), ("size", "1"), ("size", None), ("size", -1), ("size", 1 << 63),
        ("replace", 1), ("replace", 0), ("replace", "true"), ("replace", None), ("rehearsal", 1),
        ("slot", 5), ("slot", None), ("slot", ["web"]), ("slot", "x" * (MAX_TEXT_CHARACTERS + 1)),
        ("run", "00" * 15), ("run", "00" * 17), ("run", "zz" * 16), ("run", 0), ("run", ""),
    ],
)  # fmt: skip
def test_a_value_of_another_type_or_out_of_bounds_is_refused(field: str, value: object) -> None:
    with pytest.raises(ProtocolError, match=f"OpenRequest.{field} "):
        OpenRequest.from_json(GOOD.to_json() | {field: value})


@pytest.mark.parametrize("field", ["size", "slot", "run", "replace"])
def test_a_field_that_is_missing_is_refused_unless_it_has_a_default(field: str) -> None:
    said = GOOD.to_json()
    del said[field]
    with pytest.raises(ProtocolError, match=f"lacks '{field}'"):
        OpenRequest.from_json(said)


def test_optional_fields_have_their_default_and_unknown_ones_are_passed_over() -> None:
    said = GOOD.to_json() | {"news": {"from": "later"}}
    del said["rehearsal"], said["transfer"]
    assert OpenRequest.from_json(said) == GOOD


def test_another_version_is_told_before_its_fields_are_looked_at() -> None:
    with pytest.raises(VersionSkewError):
        OpenRequest.from_json({"version": CONTROL_VERSION + 1, "size": "all of it"})

"""A plan as JSON: for the receiver, for the state folder, and for the system's own record of what was done to it.

What comes back in is somebody else's: the peer's, or a file of the system that is repaired. Every field is
checked, since some of them end up in files of the system (UUIDs) and in offsets of the target.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any, NoReturn, TypeVar

from blocksync.errors import ProtocolError
from blocksync.flatten.aliases import MOST_VOLUMES, Alias
from blocksync.flatten.placing import MOST_TARGETS
from blocksync.flatten.plan import Copy, Plan
from blocksync.flatten.table import GPT_ENTRIES, Slice

MOST_BYTES = 1 << 62
_UUID = re.compile(r"[A-Za-z0-9-]{0,64}")
_WORD = re.compile(r"[A-Za-z0-9+_.:-]{0,128}")
_NAME = re.compile(r"(?:/dev/|PARTUUID=)[A-Za-z0-9+_.:/-]{1,300}")
_TYPE = re.compile(r"0x[0-9a-f]{2}|[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}")
_MOST_NAMES = 16
_MOST_TEXT = 400

T = TypeVar("T")


def to_json(plan: Plan) -> dict[str, Any]:
    """A plan as plain data."""
    return dataclasses.asdict(plan)


def from_json(said: object) -> Plan:
    """The plan in a JSON object.

    Raises:
        ProtocolError: it is none, or a field is out of bounds.
    """
    plan = _plan(said)
    beside = said.get("beside", []) if isinstance(said, dict) else []
    return dataclasses.replace(plan, beside=tuple(_plan(each) for each in _list(beside, MOST_TARGETS - 1)))


def _plan(said: object) -> Plan:
    """Of one target; what a further one has beside it is not looked at."""
    fields = _object(said, Plan)
    plan = Plan(
        table=_one_of(fields["table"], ("gpt", "mbr")),
        identity=_text(fields["identity"], _UUID),
        sector_bytes=_number(fields["sector_bytes"], 512, 4096),
        size=_number(fields["size"], 1, MOST_BYTES),
        firmware=_one_of(fields["firmware"], ("bios", "uefi", "both")),
        slices=tuple(_slice(part) for part in _list(fields["slices"], GPT_ENTRIES)),
        copies=tuple(_copy(copy) for copy in _list(fields["copies"], MOST_VOLUMES)),
        aliases=tuple(_alias(alias) for alias in _list(fields["aliases"], MOST_VOLUMES)),
        grown=tuple(_number(number, 1, GPT_ENTRIES) for number in _list(fields["grown"], GPT_ENTRIES)),
        notes=tuple(_plain(note) for note in _list(fields["notes"], GPT_ENTRIES)),
    )
    _check(plan)
    return plan


def _check(plan: Plan) -> None:
    at = 0
    sizes = {part.number: part.size for part in plan.slices}
    if len(sizes) != len(plan.slices):
        _refuse("two partitions have one number")
    for part in sorted(plan.slices, key=lambda part: part.offset):
        # The first MiB is the table's and the boot loader's.
        if part.offset < max(at, 1 << 20) or part.offset % plan.sector_bytes or part.size % plan.sector_bytes:
            _refuse(f"partition {part.number} lies over another, or not on sectors")
        at = part.offset + part.size
    if at > plan.size:
        _refuse("a partition ends beyond the target")
    for copy in plan.copies:
        if copy.to not in sizes or copy.size > sizes[copy.to]:
            _refuse(f"what goes to partition {copy.to} does not fit there")
    if len({copy.to for copy in plan.copies}) != len(plan.copies):
        _refuse("two sources go to one partition")


def _slice(said: object) -> Slice:
    fields = _object(said, Slice)
    return Slice(
        number=_number(fields["number"], 1, GPT_ENTRIES),
        offset=_number(fields["offset"], 0, MOST_BYTES),
        size=_number(fields["size"], 1, MOST_BYTES),
        type_id=_text(fields["type_id"], _TYPE),
        uuid=_text(fields["uuid"], _UUID),
        name=_plain(fields["name"])[:36],
        bootable=fields["bootable"] is True,
        attributes=_number(fields["attributes"], 0, (1 << 64) - 1),
    )


def _copy(said: object) -> Copy:
    fields = _object(said, Copy)
    return Copy(
        to=_number(fields["to"], 1, GPT_ENTRIES),
        size=_number(fields["size"], 1, MOST_BYTES),
        disk=None if fields["disk"] is None else _number(fields["disk"], 0, 4096),
        partition=_number(fields["partition"], 0, 4096),
        group=_text(fields["group"], _WORD),
        volume=_text(fields["volume"], _WORD),
        filesystem=_text(fields["filesystem"], _WORD),
        uuid=_text(fields["uuid"], _UUID),
        label=_plain(fields["label"]),
    )


def _alias(said: object) -> Alias:
    fields = _object(said, Alias)
    return Alias(
        names=tuple(_text(name, _NAME) for name in _list(fields["names"], _MOST_NAMES)),
        number=_number(fields["number"], 1, GPT_ENTRIES),
        partuuid=_text(fields["partuuid"], _UUID),
        uuid=_text(fields["uuid"], _UUID),
        filesystem=_text(fields["filesystem"], _WORD),
        group=_text(fields["group"], _WORD),
        volume=_text(fields["volume"], _WORD),
        group_uuid=_text(fields["group_uuid"], _UUID),
        volume_uuid=_text(fields["volume_uuid"], _UUID),
    )


def _object(said: object, kind: type) -> dict[str, Any]:
    # These two are not needed: one target has none beside it, and of several their order says which is meant.
    names = [field.name for field in dataclasses.fields(kind) if field.name not in ("beside", "target")]
    if not isinstance(said, dict) or any(name not in said for name in names):
        _refuse(f"a {kind.__name__.lower()} lacks a field")
    return said


def _list(said: object, most: int) -> list[object]:
    if not isinstance(said, (list, tuple)) or len(said) > most:
        _refuse("a list is none, or too long")
    return list(said)


def _number(said: object, least: int, most: int) -> int:
    if not isinstance(said, int) or isinstance(said, bool) or not least <= said <= most:
        _refuse("a number is out of bounds")
    return said


def _text(said: object, pattern: re.Pattern[str]) -> str:
    if not isinstance(said, str) or not pattern.fullmatch(said):
        _refuse("a name or a UUID has characters that none has")
    return said


def _plain(said: object) -> str:
    if not isinstance(said, str) or len(said) > _MOST_TEXT or not said.isprintable():
        _refuse("a text is none, or too long")
    return said


def _one_of(said: object, choices: tuple[str, ...]) -> str:
    if said not in choices:
        _refuse(f"a field is none of {', '.join(choices)}")
    return str(said)


def _refuse(why: str) -> NoReturn:
    raise ProtocolError(f"a flatten plan is unusable: {why}")

"""A target that is divided into partitions: its table, the record of what it was made for, and its parts as targets.

State beside the parts' own manifests: ``plan.json``, what the partitions were made for, written before the table
is; and ``mark.json``, by which writes of others are noticed. The disk's own mark changes with every part that is
written, so it is noted whenever we have finished (:meth:`Ground.settle`) and compared when we begin
(:meth:`Ground.begin`). Where it differs, or where a repair wrote to a part, the part's mark changes and its slot
reads the part again before it trusts any digest.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterable
from typing import Any

from blocksync.errors import FlattenChangedError, StateDamagedError
from blocksync.flatten import record
from blocksync.flatten.plan import Plan
from blocksync.flatten.table import encode
from blocksync.manifest.folder import OsFolder
from blocksync.targets.base import Target
from blocksync.targets.part import PartTarget

_PLAN = "plan.json"
_MARK = "mark.json"
_MOST_STATE_BYTES = 1 << 20


class Ground:
    """Owns the folder; the target stays the caller's.

    Args:
        target: the whole disk, open and fit to be written.
        folder: of the state, held exclusively.
        forget: drops what is known of the parts' content; called before the target is divided anew.
    """

    def __init__(self, target: Target, folder: OsFolder, forget: Callable[[], None]) -> None:
        self.target = target
        self._folder = folder
        self._forget = forget
        self._mark: dict[str, Any] = {"mark": "", "foreign": 0, "repairs": {}}

    @staticmethod
    def known_plan(folder: OsFolder) -> Plan | None:
        """What the target was divided for, None where it was not.

        Raises:
            StateDamagedError: the record cannot be read.
        """
        said = _load(folder, _PLAN)
        return None if said is None else record.from_json(said)

    def begin(self, plan: Plan, *, replace: bool = False) -> bool:
        """Make the table for a plan, or find that it is there.

        Args:
            replace: what was made for another plan may go.

        Returns:
            whether the target was divided anew.

        Raises:
            FlattenChangedError: it was made for other volumes, or somebody divided it since.
            TargetError: it cannot be written.
        """
        there = self.examine(plan, replace=replace)
        self._mark = _load(self._folder, _MARK) or self._mark
        if there:
            if self.known_plan(self._folder) != plan:
                self._save(_PLAN, record.to_json(plan))
            self._look_for_foreign_writes()
            return False
        # In this order: after a crash at any point nothing is believed of a part that is not so.
        self._forget()
        self._save(_PLAN, record.to_json(plan))
        self._mark["foreign"] = int(self._mark["foreign"]) + 1
        self._write_table(plan)
        self.settle()
        return True

    def examine(self, plan: Plan, *, replace: bool = False) -> bool:
        """Whether the table for a plan is there; raises as :meth:`begin` would, and writes nothing."""
        known = self.known_plan(self._folder)
        same = known is not None and _shape(known) == _shape(plan)
        if known is not None and not same and not replace:
            raise FlattenChangedError(
                f"the target {self.target.name} was divided for other volumes or sizes than the source has now"
            )
        if same and self._table_is_there(plan):
            return True
        if same and not self._table_is_gone(plan) and not replace:
            raise FlattenChangedError(f"somebody else changed the partition table of {self.target.name}")
        return False

    def parts(self, plan: Plan) -> dict[int, PartTarget]:
        """Each partition that something is copied to, by its number; the caller closes them."""
        made: dict[int, PartTarget] = {}
        try:
            for copy in plan.copies:
                part = plan.slice(copy.to)
                made[copy.to] = PartTarget(
                    self.target,
                    number=part.number,
                    offset=part.offset,
                    size=part.size,
                    mark=lambda number=part.number: self._part_mark(number),  # type: ignore[misc]
                )
        except BaseException:
            for target in made.values():
                target.close()
            raise
        return made

    def touch(self, numbers: list[int]) -> None:
        """Note, before it happens, that a repair writes to these partitions."""
        repairs = self._mark["repairs"]
        for number in numbers:
            repairs[str(number)] = int(repairs.get(str(number), 0)) + 1
        self._save(_MARK, self._mark)

    def settle(self) -> None:
        """Note the disk's mark: what is on it now is ours."""
        self.target.sync()
        self._mark["mark"] = self.target.write_mark()
        self._save(_MARK, self._mark)

    def close(self) -> None:
        self._folder.close()

    # -- inside -----------------------------------------------------------------------------------------------

    def _part_mark(self, number: int) -> str:
        repairs = self._mark["repairs"].get(str(number), 0)
        return f"{self.target.identity}:{self._mark['foreign']}:{repairs}"

    def _look_for_foreign_writes(self) -> None:
        now = self.target.write_mark()
        if now and self._mark["mark"] and now != self._mark["mark"]:
            self._mark["foreign"] = int(self._mark["foreign"]) + 1
            self._save(_MARK, self._mark)

    def _wanted(self, plan: Plan) -> list[tuple[int, bytes]]:
        return encode(plan.table, plan.identity, plan.slices, self.target.size, plan.sector_bytes)

    def _table_is_there(self, plan: Plan) -> bool:
        return all(self._read(offset, len(data)) == data for offset, data in self._wanted(plan))

    def _table_is_gone(self, plan: Plan) -> bool:
        """Whether there are only zeros: a new disk in the place of the old one, or a crash before the table."""
        return not any(any(self._read(offset, len(data))) for offset, data in self._wanted(plan)[:3])

    def _read(self, offset: int, length: int) -> bytes:
        buffer = bytearray(length)
        self.target.read_into(offset, memoryview(buffer))
        return bytes(buffer)

    def _write_table(self, plan: Plan) -> None:
        # Whatever announced itself here before (a GPT's copies, an old loader) must not speak beside the new table.
        edge = 1 << 20
        self.target.zero(0, edge)
        tail = min(edge, self.target.size - plan.size)
        if tail:
            self.target.zero(self.target.size - tail, tail)
        for offset, data in self._wanted(plan):
            self.target.write(offset, memoryview(data))
        self.target.sync()

    def _save(self, name: str, said: dict[str, Any]) -> None:
        data = json.dumps(said, indent=1).encode()
        file = self._folder.open(f"{name}.new", create=True)
        try:
            file.pwrite(0, data)
            file.sync()
        finally:
            file.close()
        self._folder.replace(f"{name}.new", name)
        self._folder.sync()


def _shape(plan: Plan) -> tuple[object, ...]:
    """What a plan's partitions and contents are, without names that may be learned later."""
    places = tuple((part.number, part.offset, part.size, part.type_id, part.uuid) for part in plan.slices)
    contents = tuple(
        (copy.to, copy.size, copy.group, copy.volume, copy.disk, copy.partition) for copy in plan.copies
    )
    return plan.table, plan.identity, places, contents


def _load(folder: OsFolder, name: str) -> dict[str, Any] | None:
    if not folder.exists(name):
        return None
    file = folder.open(name)
    try:
        data = file.pread(0, _MOST_STATE_BYTES)
    finally:
        file.close()
    try:
        said = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise StateDamagedError(
            f"the record {name} of a flattened target cannot be read", remedy="begin anew with --replace"
        ) from error
    if not isinstance(said, dict):
        raise StateDamagedError(
            f"the record {name} of a flattened target is none", remedy="begin anew with --replace"
        )
    return said


def settle_all(grounds: Iterable[Ground]) -> None:
    """Settle each, also where one fails; the first failure is raised."""
    with contextlib.ExitStack() as exits:
        for ground in grounds:
            exits.callback(ground.settle)


def part_slot(slot: str, number: int) -> str:
    """The name of a partition's slot."""
    return f"{slot}.p{number}"


_PART_SLOT = re.compile(r"(.+)\.p([1-9][0-9]{0,2})")


def whole_slot(name: str) -> str:
    """The slot that a partition's slot belongs to; a name that is none of a part stays as it is."""
    found = _PART_SLOT.fullmatch(name)
    return found[1] if found else name

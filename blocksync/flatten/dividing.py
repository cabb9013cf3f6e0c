"""The receiver's side of ``send --flatten``: slots' targets divided into parts, each of them a slot, and the repair.

A sender sends a plan, which is checked like anything from the network; the table is written here, and the repair runs
here, from the plan that was written down. See :class:`~blocksync.engine.division.Division`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blocksync.engine.slot import Slot
from blocksync.engine.statedir import division_folder, slot_folder
from blocksync.errors import BlocksyncError, FlattenSectorError, FlattenSpaceError, PeerError, ProtocolError
from blocksync.flatten import record
from blocksync.flatten.boottest import boot_test
from blocksync.flatten.ground import Ground, part_slot, settle_all, whole_slot
from blocksync.flatten.plan import Plan
from blocksync.flatten.removal import remove_names
from blocksync.flatten.repair import RepairReport, RepairWishes, repair
from blocksync.flatten.system import firmware_of
from blocksync.manifest.folder import OsFolder

_MOST_LINES = 150
_MOST_CHARACTERS = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class _Divided:
    ground: Ground
    plan: Plan
    parts: dict[str, Slot]


class Dividing:
    """Divides targets of this receiver.

    Args:
        state: its state folder.
        mend: repair the system when the sender says that all is there, and remove names of excluded files; both
            mount what a peer sent.
        boot: then boot an overlay of it.
    """

    def __init__(self, state: Path, *, mend: bool = True, boot: bool = False) -> None:
        self._state = state
        self._mend = mend
        self._boot = boot
        self._divided: dict[str, _Divided] = {}

    def divided(self, name: str) -> bool:
        return (division_folder(self._state, name) / "plan.json").exists()

    def divide(
        self, slots: Sequence[Slot], plan: dict[str, Any], *, replace: bool
    ) -> tuple[list[dict[str, Slot]], bool]:
        wanted = record.from_json(plan)
        if len(slots) != len(wanted.targets):
            raise ProtocolError(f"a plan for {len(wanted.targets)} targets names {len(slots)} slots")
        for slot, alone in zip(slots, wanted.targets, strict=True):
            _check_fit(slot, alone)
        for slot in slots:
            self._drop(slot.name)
        with contextlib.ExitStack() as exits:
            grounds = []
            for slot in slots:
                folder = exits.enter_context(OsFolder(division_folder(self._state, slot.name)))
                grounds.append(Ground(slot.target, folder, functools.partial(self._forget, slot.name)))
            works = list(zip(slots, grounds, wanted.targets, strict=True))
            for _, ground, alone in works:  # all of them, before any is written to
                ground.examine(alone, replace=replace)
            anew = [ground.begin(alone, replace=replace) for _, ground, alone in works]
            found = [self._opened(exits, *work) for work in works]
            exits.pop_all()
        self._divided.update({slot.name: each for slot, each in zip(slots, found, strict=True)})
        return [each.parts for each in found], any(anew)

    def _opened(self, exits: contextlib.ExitStack, slot: Slot, ground: Ground, plan: Plan) -> _Divided:
        """The parts of a target as slots; closed with ``exits``."""
        parts: dict[str, Slot] = {}
        for number, part in ground.parts(plan).items():
            exits.callback(part.close)
            name = part_slot(slot.name, number)
            parts[name] = Slot(name, part, OsFolder(slot_folder(self._state, name)), slot.budget)
            exits.callback(parts[name].close)
        return _Divided(ground=ground, plan=plan, parts=parts)

    def resume(self, slot: Slot) -> dict[str, Slot]:
        if not self.divided(slot.name):
            return {}
        try:
            with OsFolder(division_folder(self._state, slot.name)) as folder:
                plan = Ground.known_plan(folder)
            return self.divide([slot], record.to_json(plan), replace=False)[0][0] if plan is not None else {}
        except BlocksyncError:
            return {}  # whoever asks for it to be divided again is told

    def undo(self, slot: Slot) -> None:
        self._drop(slot.name)
        self._forget(slot.name)
        shutil.rmtree(division_folder(self._state, slot.name), ignore_errors=True)

    def finish(self, slots: Sequence[Slot]) -> dict[str, Any]:
        found = [self._committed(slot) for slot in slots]
        plan = dataclasses.replace(found[0].plan, beside=tuple(each.plan for each in found[1:]))
        report = RepairReport(root=0, changed=(), diff="", notes=() if self._mend else ("not repaired, as asked",))
        settle_all([each.ground for each in found])
        if self._mend:
            try:
                report = repair(
                    [slot.target for slot in slots],
                    plan,
                    RepairWishes(),
                    touch=lambda part: found[part.target].ground.touch([part.number]),
                )
            finally:
                settle_all([each.ground for each in found])
        return self._said(slots, report)

    def _committed(self, slot: Slot) -> _Divided:
        """A target whose parts are all there.

        Raises:
            PeerError: it is none.
        """
        found = self._divided.get(slot.name)
        if found is None:
            raise PeerError(f"slot {slot.name} was not divided by this receiver", remedy="send it with --flatten")
        for name, part in found.parts.items():
            with part.lock:
                store = part.store
                if part.session is not None or store is None or not store.complete or not store.generation:
                    raise PeerError(f"{name} is not committed yet", remedy="send all volumes first")
        return found

    def remove_names(self, slot: Slot, wanted: dict[str, Any]) -> dict[str, Any]:
        if not self._mend:
            return {"removed": 0, "remaining": ["the receiver mounts nothing, as it was asked to (--no-repair)"]}
        found = self._divided.get(whole_slot(slot.name))
        if found is None or found.parts.get(slot.name) is not slot:
            return remove_names(slot.target, wanted)
        number = next(copy.to for copy in found.plan.copies if slot.name.endswith(f".p{copy.to}"))
        ground = found.ground
        ground.settle()
        try:
            return remove_names(
                slot.target,
                wanted,
                path=ground.target.name,
                offset=found.plan.slice(number).offset,
                touch=lambda: ground.touch([number]),
            )
        finally:
            ground.settle()

    def close(self) -> None:
        for name in tuple(self._divided):
            self._drop(name)

    # -- inside -----------------------------------------------------------------------------------------------

    def _said(self, slots: Sequence[Slot], report: RepairReport) -> dict[str, Any]:
        boot: dict[str, Any] | None = None
        if self._boot and report.root:
            folder = division_folder(self._state, slots[0].name) / "boot-test"
            path, *beside = (slot.target.name for slot in slots)
            seen = boot_test(path, firmware=firmware_of(path, *beside), folder=folder, beside=beside)
            boot = dataclasses.asdict(seen)
        return {
            "root": report.root,
            "root_target": report.root_target,
            "changed": [[rule, path[:_MOST_CHARACTERS]] for rule, path in report.changed[:_MOST_LINES]],
            "loaders": [line[:_MOST_CHARACTERS] for line in report.loaders[:_MOST_LINES]],
            "notes": [line[:_MOST_CHARACTERS] for line in report.notes[:_MOST_LINES]],
            "boot": boot,
        }

    def _drop(self, name: str) -> None:
        found = self._divided.pop(name, None)
        if found is None:
            return
        for part in found.parts.values():
            part.close()
        found.ground.close()

    def _forget(self, name: str) -> None:
        """Remove what is known of the parts' content."""
        for folder in (self._state / "slots").glob(f"{name}.p[0-9]*"):
            shutil.rmtree(folder)


def _check_fit(slot: Slot, plan: Plan) -> None:
    target = slot.target
    if plan.sector_bytes != target.sector_bytes:
        raise FlattenSectorError(
            f"the plan counts in sectors of {plan.sector_bytes} bytes, {slot.name} in {target.sector_bytes}"
        )
    if plan.size > target.size:
        raise FlattenSpaceError(
            f"the partitions need {plan.size} bytes, and the target {slot.name} has {target.size}"
        )

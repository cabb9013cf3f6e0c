"""The sender's side of ``send --flatten``: plan, have the target divided, send the volumes, have the system repaired.

Each volume is an ordinary disk of an ordinary transfer to its own slot, so blocks land once, in their final place;
resume, incremental passes, following, the final pass and its receipt are those of any transfer. A volume that is active
on this machine is read through its own device: what a thin pool has in memory is not on its disks yet.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from blocksync.engine.cancel import Cancel
from blocksync.engine.operation import Operation
from blocksync.engine.outlook import Outlook
from blocksync.engine.reach import Reach
from blocksync.errors import FlattenChangedError, FlattenRefusedError, ProtocolError, TrustError, UsageError
from blocksync.flatten import record
from blocksync.flatten.ground import part_slot
from blocksync.flatten.local import wishes_of
from blocksync.flatten.plan import Copy, Plan
from blocksync.flatten.sources import Taking, is_live, pieces, plan_for
from blocksync.options import DiskSpec, FlattenOptions, TransferOptions
from blocksync.platforms.likeness import marks_of
from blocksync.protocol.messages import CONTROL_VERSION, MAX_PLAN_BYTES, DivideRequest, FinishRequest
from blocksync.results import FlattenResult, GroupResult
from blocksync.sources.base import Source
from blocksync.transfers.figures import TransferResult
from blocksync.transfers.forecasts import of_work

_OTHER_FIELDS_BYTES = 8 << 10  # of the request that carries a plan: slots, marks

Opening = Callable[[], AbstractContextManager[list[Source]]]


def transfer_flattened(
    opening: Opening,
    state: Path,
    reach: Reach,
    options: TransferOptions,
    flatten: FlattenOptions,
    cancel: Cancel,
    *,
    still: Taking,
    moving: Taking,
) -> tuple[TransferResult, FlattenResult]:
    """Work on a transfer whose disks are the volumes of some disks; then the repair at the receiver.

    Args:
        opening: opens the disks; once a pass.
        state: the sender's state folder.
        still: opens the devices of active volumes while they stand still, in the final pass.
        moving: opens them in all other passes, as snapshots where that is wanted.

    Raises:
        FlattenRefusedError: the layout; nothing was written.
        FlattenChangedError: the volumes changed their sizes since the target was divided.
        BlocksyncError: as for any transfer.
    """
    with opening() as disks:
        plan = _plan(disks, flatten)
        foreseen = disks[0].identity, disks[0].size
        names = [disk.name for disk in disks]
    slot = _slot(reach, options.send.slot, flatten.onto)
    slots, beside = (slot, *flatten.onto), ",".join(flatten.onto)
    shape = [alone.slices for alone in plan.targets]
    consented = [options.send.replace]
    truth = _Truth(reach.outlooks().of(slot, *foreseen))

    @contextlib.contextmanager
    def opened(taking: Taking) -> Iterator[list[Source]]:
        with opening() as disks:
            now = _plan(disks, flatten)
            if [alone.slices for alone in now.targets] != shape:
                raise FlattenChangedError("the volumes changed their sizes while they were being sent")
            # Each time: the receiver may have been started anew since. Consent is for the first one alone.
            wanted = DivideRequest(
                version=CONTROL_VERSION,
                slot=slot,
                replace=consented[0],
                plan=record.to_json(now),
                marks=marks_of(names),
                beside=beside,
            )
            with truth.timed("divide"):
                reach.control.divide(wanted)
            consented[0] = False
            with pieces(disks, now, taking) as found:
                yield [source for _, _, source in found]

    result = Operation(
        state=state,
        reach=reach,
        opening=lambda: opened(still),
        snapshots=lambda: opened(moving),
        disks=[
            DiskSpec(source=device_of(copy, names), slot=part_slot(slots[index], copy.to))
            for index, copy in plan.placed()
        ],
        options=options,
        cancel=cancel,
    ).run()
    # A difference is a result; the target then stays as it was sent.
    mend = flatten.repair and all(result.verified.values())
    said: dict[str, object] = {}
    if mend:
        with truth.timed("repair"):
            said = reach.control.finish(FinishRequest(version=CONTROL_VERSION, slot=slot, beside=beside))
        if said.get("boot") is not None:
            truth.forget("repair")  # a trial boot was in it
    return result, dataclasses.replace(_told(plan, result, said), forecasts=truth.forecasts(result.passes))


class _Truth:
    """What an estimate said of dividing and repairing, and what they took."""

    def __init__(self, foreseen: Outlook | None) -> None:
        self._spans = {"divide": foreseen.divide, "repair": foreseen.repair} if foreseen is not None else {}
        self._took: dict[str, float] = {}

    @contextlib.contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """The first time of each counts: later ones find what is there."""
        began = time.monotonic()
        yield
        self._took.setdefault(what, time.monotonic() - began)

    def forget(self, what: str) -> None:
        self._took.pop(what, None)

    def forecasts(self, passes: int) -> tuple[dict[str, object], ...]:
        return tuple(
            dataclasses.asdict(each)
            for what, took in self._took.items()
            if (span := self._spans.get(what))
            for each in of_work(what, span, number=passes, took=took)
        )


def _plan(disks: Sequence[Source], flatten: FlattenOptions) -> Plan:
    """The plan, where it fits into one message.

    Raises:
        FlattenRefusedError: it does not, or the layout.
    """
    plan = plan_for(disks, wishes_of(flatten), target_sector_bytes=disks[0].sector_bytes)
    if len(json.dumps(record.to_json(plan))) > MAX_PLAN_BYTES - _OTHER_FIELDS_BYTES:
        raise FlattenRefusedError(
            f"{len(plan.placed())} volumes and partitions are more than one plan can tell a receiver",
            remedy="send each volume group's disks apart, to a target of its own; or flatten on one machine with "
            "blocksync flatten",
        )
    return plan


def device_of(copy: Copy, disks: Sequence[str]) -> str:
    """What a piece is known as: its device where it has one here, so that the final pass can freeze what is mounted.

    Args:
        disks: names of the source disks, in their order.
    """
    if copy.disk is None:
        return is_live(copy) or copy.name
    disk = os.path.realpath(disks[copy.disk])
    between = "p" if disk[-1:].isdigit() else ""
    device = f"{disk}{between}{copy.partition}" if copy.partition else disk
    return device if device.startswith("/dev/") and Path(device).exists() else copy.name


def _slot(reach: Reach, named: str, onto: tuple[str, ...]) -> str:
    """The slot of the first target; where it is not named, the only one that is left beside those of ``onto``."""
    if len({named, *onto}) != 1 + len(onto):
        raise UsageError("one slot is named twice", remedy="name each target's slot once")
    granted = reach.slots([named, *onto])
    missing = next((slot for slot in (named, *onto) if slot and slot not in granted), None)
    if missing is not None:
        raise TrustError(f"this machine has no grant for slot {missing}")
    if named:
        return named
    granted = [slot for slot in granted if slot not in onto]
    if len(granted) != 1:
        raise UsageError(
            f"the receiver has {len(granted)} slots for this machine: {', '.join(granted)}",
            remedy="name one of them with --slot, and further targets with --onto",
        )
    return granted[0]


def _told(plan: Plan, result: TransferResult, said: dict[str, object]) -> FlattenResult:
    boot = said.get("boot")
    return FlattenResult(
        group=GroupResult(disks=result.disks, seconds=result.seconds),
        table=plan.table,
        partitions=tuple((copy.to, copy.name) for _, copy in plan.placed()),
        root=_number(said.get("root", 0)),
        changed=tuple(_pairs(said.get("changed", []))),
        loaders=tuple(_texts(said.get("loaders", []))),
        notes=(*plan.notes, *_texts(said.get("notes", []))),
        boot=boot if isinstance(boot, dict) else None,
        tables=tuple(alone.table for alone in plan.targets),
        targets=tuple(index + 1 for index, _ in plan.placed()),
        root_target=_number(said.get("root_target", 1)),
    )


def _pairs(said: object) -> list[tuple[str, str]]:
    if not isinstance(said, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in said):
        raise ProtocolError("the receiver's report lists no files")
    return [(str(rule), str(path)) for rule, path in said]


def _texts(said: object) -> list[str]:
    if not isinstance(said, list):
        raise ProtocolError("the receiver's report lists no lines")
    return [str(line) for line in said]


def _number(said: object) -> int:
    if not isinstance(said, int):
        raise ProtocolError("the receiver's report names no partition")
    return said

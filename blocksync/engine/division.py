"""What the receiver needs of whoever changes its targets beside passes (flatten): dividing, removing names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from blocksync.control.service import Peer
from blocksync.engine.slot import Slot
from blocksync.errors import PeerError


class Division(Protocol):
    """Divides targets, one or several for a system.

    Blocking; called from several threads, for one slot by one at a time.
    """

    def divided(self, name: str) -> bool:
        """Whether the target of a slot was divided; as far as is written down."""

    def divide(
        self, slots: Sequence[Slot], plan: dict[str, Any], *, replace: bool
    ) -> tuple[list[dict[str, Slot]], bool]:
        """Divide targets, or find them divided like that; refused are all before any is written to.

        Args:
            slots: of the whole targets, in the plan's order; nothing writes through them.
            replace: what they were divided for before may go.

        Returns:
            for each the slots of its parts by name, and whether any was divided anew. They stay the division's to
            close.

        Raises:
            FlattenRefusedError: one is divided for something else, or the plan does not fit.
            ProtocolError: the plan is none.
        """

    def resume(self, slot: Slot) -> dict[str, Slot]:
        """The parts of a target that was divided before this receiver was started; none where it was not."""

    def undo(self, slot: Slot) -> None:
        """Forget that a target was divided: it is about to be overwritten as a whole."""

    def finish(self, slots: Sequence[Slot]) -> dict[str, Any]:
        """Repair the system on some targets, now that all parts are committed.

        Args:
            slots: all of the system, in the order in which they were divided.

        Returns:
            what was done, for JSON.

        Raises:
            PeerError: they are not.
            FlattenError: the repair failed.
        """

    def remove_names(self, slot: Slot, wanted: dict[str, Any]) -> dict[str, Any]:
        """Remove names of excluded files from a target, or from a part of one; nothing writes to it meanwhile.

        Returns:
            ``removed`` and ``remaining``, for JSON.

        Raises:
            ProtocolError: the names are none.
        """

    def close(self) -> None:
        """Close all parts."""


def together(find: Callable[[str], Slot], is_part: Callable[[Slot], bool], name: str, beside: str) -> list[Slot]:
    """The slots of one system's targets.

    Args:
        find: the slot that a peer means by a name, if it may use that.
        is_part: whether a slot is a partition of another one's target.
        name, beside: of a request.

    Raises:
        PeerError: one is a partition, or named twice.
        TrustError: one is not granted.
    """
    slots = [find(each) for each in (name, *(beside.split(",") if beside else ()))]
    for slot in slots:
        if is_part(slot):
            raise PeerError(f"slot {slot.name} is a partition already")
        if sum(each is slot for each in slots) > 1:
            raise PeerError(f"slot {slot.name} is named twice", remedy="name each target's slot once")
    return slots


def make_way(slots: Sequence[Slot], peer: Peer, *, replace: bool) -> None:
    """End what stands in the way of dividing the targets of some slots: sessions, and copies of whole disks.

    Args:
        replace: such copies may go.

    Raises:
        PeerError: one is there, and may not; then none is gone.
        SlotBusyError: somebody is at work on one.
    """
    for slot in slots:
        slot.vacate(peer)
        if slot.store is not None and not replace:
            raise PeerError(
                f"slot {slot.name} holds a copy of a whole disk",
                remedy="send to another slot, or consent with --replace to overwrite that copy",
            )
    for slot in slots:
        if slot.store is not None:
            slot.forget()

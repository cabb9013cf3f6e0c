"""What the receiver needs of whoever changes its targets beside passes (flatten): dividing, removing names."""

from __future__ import annotations

from typing import Any, Protocol

from blocksync.engine.slot import Slot


class Division(Protocol):
    """Divides targets. Blocking; called from several threads, for one slot by one at a time."""

    def divided(self, name: str) -> bool:
        """Whether the target of a slot was divided; as far as is written down."""

    def divide(self, slot: Slot, plan: dict[str, Any], *, replace: bool) -> tuple[dict[str, Slot], bool]:
        """Divide a target, or find it divided like that.

        Args:
            slot: of the whole target; nothing writes through it.
            replace: what it was divided for before may go.

        Returns:
            the slots of its parts by name, and whether it was divided anew. They stay the division's to close.

        Raises:
            FlattenRefusedError: it is divided for something else, or the plan does not fit.
            ProtocolError: the plan is none.
        """

    def resume(self, slot: Slot) -> dict[str, Slot]:
        """The parts of a target that was divided before this receiver was started; none where it was not."""

    def undo(self, slot: Slot) -> None:
        """Forget that a target was divided: it is about to be overwritten as a whole."""

    def finish(self, slot: Slot) -> dict[str, Any]:
        """Repair the system, now that all parts are committed.

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

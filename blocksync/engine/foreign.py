"""Looking for what somebody else wrote to a slot's target while no session did (rule 9 of the design).

A target's *write mark* changes with each write. It is kept where ours end, by a commit or at the end of a session, and
compared where they begin again. Where it is another one all claims are compared with the target, by a thread, since
that takes as long as reading it; whoever wants to send is told to come again.
"""

from __future__ import annotations

import threading

from blocksync.engine.rehash import withdraw_changed
from blocksync.errors import BlocksyncError, SlotPreparingError
from blocksync.manifest.store import SlotStore
from blocksync.targets.base import Target


class ForeignWrites:
    """Of one slot; used under its lock.

    Args:
        target: of the slot.
        name: of the slot.
    """

    def __init__(self, target: Target, name: str) -> None:
        self._target = target
        self._name = name
        self._rehash: threading.Thread | None = None
        self._failure: BlocksyncError | None = None

    def look(self, store: SlotStore) -> None:
        """Before a session.

        Raises:
            SlotPreparingError: somebody wrote, and the claims are being looked at.
            BlocksyncError: that failed.
        """
        if self._rehash is not None:
            if self._rehash.is_alive():
                raise SlotPreparingError(f"somebody wrote to {self._target.name}: its blocks are being re-hashed")
            self._rehash = None
            if self._failure is not None:
                failure, self._failure = self._failure, None
                raise failure
        mark = self._target.write_mark()
        known = store.write_mark
        if not known or not mark or known == mark:
            return
        self._rehash = threading.Thread(
            target=self._run, args=(store, mark), name=f"rehash-{self._name}", daemon=True
        )
        self._rehash.start()
        raise SlotPreparingError(
            f"somebody wrote to {self._target.name} since the last session: its blocks are being re-hashed"
        )

    def _run(self, store: SlotStore, mark: str) -> None:
        try:
            withdraw_changed(self._target, store)
            # From before it was read: who wrote meanwhile is found, too.
            store.rest(mark)
        except BlocksyncError as error:
            self._failure = error

    def note(self, store: SlotStore) -> BlocksyncError | None:
        """After a session that nothing failed in; returns what failed of it.

        Then neither the target's descriptor nor the store may be used any more (rule 3).
        """
        mark = self._target.write_mark()
        if not store.usable or not mark or mark == store.write_mark:
            return None
        try:
            # What is still in the cache would change a device's mark when it is written.
            self._target.sync()
            store.rest(self._target.write_mark())
        except BlocksyncError as error:
            return error
        return None

"""Which rights a receiver has, and when it gives them up (``recv --user``).

As root it opens what only root may open: targets, ports, the file for the pairing code. All that concerns the state
folder it does as the user it is going to be. Then it becomes that user for good, with a helper left for the one
thing that still takes root: opening a target again after a failed sync.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from blocksync.engine.statedir import STATE_NAMES
from blocksync.errors import PrivilegesError
from blocksync.platforms.privileges import acting_as, become, find_account, hand_over
from blocksync.targets.base import Target
from blocksync.targets.opener import Helper


class Rights:
    """The rights of one receiver.

    Args:
        user: to become; None to stay who we are.
        state: the state folder, given to that user.

    Raises:
        PrivilegesError: there is no such user, we are not root, or the folder cannot be given or reached.
    """

    def __init__(self, user: str | None, state: Path) -> None:
        self._account = None
        self._helper: Helper | None = None
        if user is None:
            return
        self._account = find_account(user)
        hand_over(state, self._account, STATE_NAMES)
        with acting_as(self._account):
            if not os.access(state, os.R_OK | os.W_OK | os.X_OK, effective_ids=True):
                raise PrivilegesError(
                    f"the user {user} cannot reach the state folder {state}",
                    remedy="name a folder below one that everybody may enter with --state-dir, as /var/lib/blocksync",
                )

    def of_state(self) -> AbstractContextManager[None]:
        """During the block, the rights that are wanted for the state folder."""
        return acting_as(self._account)

    def give_up(self, targets: Sequence[Target]) -> None:
        """Become the user for good.

        Raises:
            PrivilegesError: it did not work.
        """
        if self._account is None:
            return
        open_now = [(target, number) for target in targets if (number := target.descriptor()) is not None]
        helper = self._helper = Helper([number for _, number in open_now])
        become(self._account)
        for index, (target, _) in enumerate(open_now):
            target.reopen_through(helper.opener(index))

    def close(self) -> None:
        """End the helper, after all targets were closed."""
        if self._helper is not None:
            self._helper.close()

"""What a transfer does next: another pass, the final one, or nothing. Pure; the engine keeps the clock."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from blocksync.transfers.convergence import PassFigures, is_stuck, next_seconds


class Action(enum.Enum):
    """See :class:`Next`."""

    ANOTHER = "another pass"
    FINAL = "final"
    END = "end"
    GIVE_UP = "give up"


@dataclass(frozen=True, slots=True)
class Next:
    """An action, and when it is due: seconds on the clock of the passes; 0 for at once."""

    action: Action
    at: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What the caller wants.

    Args:
        follow: seconds from the beginning of a pass to that of the next; None for no following.
        until_converged: seconds; go on until the next pass is predicted to be this short.
        final: end with a pass of the quiet source.
    """

    follow: float | None = None
    until_converged: float | None = None
    final: bool = False

    def next(
        self, passes: Sequence[PassFigures], *, final_now: bool = False, earlier: Sequence[PassFigures] = ()
    ) -> Next:
        """Decide.

        Args:
            passes: those of this run, oldest first, none of them final.
            final_now: somebody asked for the final pass.
            earlier: those of runs before, from which predictions are made too.
        """
        if final_now:
            return Next(Action.FINAL)
        if not passes:
            return Next(
                Action.ANOTHER if self.follow is not None or self.until_converged is not None else self._last
            )
        if self.until_converged is not None:
            predicted = next_seconds([*earlier, *passes])
            if predicted is not None and predicted <= self.until_converged:
                return Next(Action.FINAL if self.final else Action.END)
            if is_stuck(passes):
                return Next(Action.GIVE_UP)
        elif self.follow is None:
            return Next(Action.END)
        return Next(Action.ANOTHER, passes[-1].began + (self.follow or 0.0))

    @property
    def _last(self) -> Action:
        return Action.FINAL if self.final else Action.ANOTHER

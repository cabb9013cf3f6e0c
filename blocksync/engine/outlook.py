"""What was predicted of a transfer, kept at the sender, so that its end can say how far off that was."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blocksync.engine.statedir import estimates_folder
from blocksync.errors import StateError, from_os_error
from blocksync.results import SendResult

MAX_FILE_BYTES = 64 << 10
Span = tuple[float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """A prediction of a first pass.

    Args:
        source_identity, size: of the source that was sampled.
        seconds, low, high: the likeliest time, and between which it lies.
        made: seconds since 1970.
        passes: seconds of the following passes, where the source was watched.
        pause, verify: seconds as ``(likeliest, least, most)`` of the final pass and of a verify; empty for not known.
        divide, repair: the same of a flattened target.
    """

    source_identity: str
    size: int
    seconds: float
    low: float
    high: float
    made: float
    passes: tuple[float, ...] = ()
    pause: tuple[float, ...] = ()
    verify: tuple[float, ...] = ()
    divide: tuple[float, ...] = ()
    repair: tuple[float, ...] = ()


class Outlooks:
    """The predictions for one receiver's slots.

    Args:
        state: the state folder.
        receiver: its fingerprint.
    """

    def __init__(self, state: Path, receiver: bytes) -> None:
        self._folder = estimates_folder(state) / receiver.hex()[:32]

    def save(self, slot: str, outlook: Outlook) -> None:
        """Keep a prediction in the place of an earlier one.

        Raises:
            StateError: it cannot be written.
        """
        path = self._path(slot)
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            temporary = path.with_suffix(".new")
            temporary.write_text(json.dumps(dataclasses.asdict(outlook)))
            os.replace(temporary, path)
        except OSError as error:
            raise from_os_error(error, StateError, f"cannot keep the prediction in {path}") from error

    def add(self, slot: str, source_identity: str, size: int, *, divide: Span, repair: Span) -> None:
        """Add what is predicted of a flattened target to the prediction for its slot, if it is of this source.

        Raises:
            StateError: it cannot be written.
        """
        outlook = self.of(slot, source_identity, size)
        if outlook is not None:
            self.save(slot, dataclasses.replace(outlook, divide=divide, repair=repair))

    def drop(self, slot: str) -> None:
        """Forget the prediction for a slot, if there is one."""
        with contextlib.suppress(OSError):
            self._path(slot).unlink()

    def load(self, slot: str) -> Outlook | None:
        """The prediction for a slot; None without one. A hint: what cannot be read is none."""
        try:
            with open(self._path(slot), "rb") as file:
                said = json.loads(file.read(MAX_FILE_BYTES))
            values = {name: said[name] for name in ("source_identity", "size", "seconds", "low", "high", "made")}
            several: dict[str, Any] = {
                name: tuple(said.get(name, ())) for name in ("passes", "pause", "verify", "divide", "repair")
            }
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return None
        numbers = [value for name, value in values.items() if name != "source_identity"]
        numbers += [number for each in several.values() for number in each]
        if not all(isinstance(number, (int, float)) for number in numbers):
            return None
        if any(len(several[name]) not in (0, 3) for name in several if name != "passes"):
            return None
        return Outlook(**values, **several)

    def of(self, slot: str, source_identity: str, size: int) -> Outlook | None:
        """The prediction for a slot, where it was made of this source."""
        outlook = self.load(slot)
        if outlook is None or (outlook.source_identity, outlook.size) != (source_identity, size):
            return None
        return outlook

    def compared(self, result: SendResult, source_identity: str) -> SendResult:
        """The result of a pass with what was predicted of it, where that was this pass: a first one, in one piece."""
        first = result.kind == "full" and not result.resumed
        outlook = self.of(result.slot, source_identity, result.size) if first else None
        if outlook is None:
            return result
        return dataclasses.replace(result, predicted=(outlook.seconds, outlook.low, outlook.high))

    def _path(self, slot: str) -> Path:
        return self._folder / f"{slot}.json"


def outlook_of(
    seconds: tuple[float, float, float],
    *,
    source_identity: str,
    size: int,
    passes: tuple[float, ...] = (),
    pause: tuple[float, ...] = (),
    verify: tuple[float, ...] = (),
) -> Outlook:
    """A prediction made now; see :class:`Outlook`."""
    likely, low, high = seconds
    return Outlook(
        source_identity=source_identity,
        size=size,
        seconds=likely,
        low=low,
        high=high,
        made=time.time(),
        passes=passes,
        pause=pause,
        verify=verify,
    )

"""What a transfer may take of a machine in production. Pure: frozen values, and the arithmetic of a day.

A schedule's times are the machine's local time, since that is what its users' day follows.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

DAY_MINUTES = 24 * 60
_WINDOW = re.compile(r"([0-9]{1,2}):([0-9]{2})-([0-9]{1,2}):([0-9]{2})", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class RateWindow:
    """A rate from one minute of the day to another; the end may lie behind midnight (22:00-06:00).

    Args:
        begin, end: minutes since midnight, 0 to 1440.
        rate: bytes a second; 0 for no limit.
    """

    begin: int
    end: int
    rate: int

    def __post_init__(self) -> None:
        if not (0 <= self.begin < DAY_MINUTES and 0 < self.end <= DAY_MINUTES and self.begin != self.end):
            raise ValueError("a window of the day begins and ends between 00:00 and 24:00, and not at once")
        if self.rate < 0:
            raise ValueError("a rate is not negative")

    def holds(self, minute: int) -> bool:
        """Whether a minute of the day lies in it."""
        if self.begin < self.end:
            return self.begin <= minute < self.end
        return minute >= self.begin or minute < self.end


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Rates by time of day; the first window that holds counts.

    Args:
        windows: in the order they are asked.
        otherwise: bytes a second in the rest of the day; 0 for no limit.
    """

    windows: tuple[RateWindow, ...] = ()
    otherwise: int = 0

    def rate_at(self, minute: int) -> int:
        """Bytes a second at a minute of the day; 0 for no limit."""
        return next((window.rate for window in self.windows if window.holds(minute)), self.otherwise)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a transfer may take; all of it can be changed while it runs.

    Args:
        bandwidth: on the wire, of all disks together.
        read: bytes a second read from the sources, all together; 0 for no limit.
        max_latency: seconds; reading backs off while other IO on the source's disks waits longer; 0 for never.
        nice: CPU priority of the process from 0 to 19, and the IO priority that goes with it; None leaves it alone.
    """

    bandwidth: Schedule = Schedule()
    read: int = 0
    max_latency: float = 0.0
    nice: int | None = None

    def __post_init__(self) -> None:
        if self.read < 0 or self.max_latency < 0:
            raise ValueError("a limit is not negative")
        if self.nice is not None and not 0 <= self.nice <= 19:
            raise ValueError("nice is between 0 and 19")


def parse_schedule(text: str, parse_rate: Callable[[str], int]) -> Schedule:
    """Read ``20M`` or ``08:00-18:00=20M,else=0``.

    Args:
        text: windows and rates, separated by commas; ``else`` for the rest of the day.
        parse_rate: reads a rate; raises ValueError.

    Raises:
        ValueError: it is neither; the text says why.
    """
    if "=" not in text:
        return Schedule(otherwise=parse_rate(text))
    windows: list[RateWindow] = []
    otherwise: int | None = None
    for part in text.split(","):
        when, equals, rate = part.strip().partition("=")
        match = _WINDOW.fullmatch(when.strip())
        if equals and when.strip() == "else" and otherwise is None:
            otherwise = parse_rate(rate)
        elif equals and match is not None and otherwise is None:
            windows.append(
                RateWindow(
                    begin=_minute(match[1], match[2]), end=_minute(match[3], match[4]), rate=parse_rate(rate)
                )
            )
        else:
            raise ValueError("is neither a rate nor like 08:00-18:00=20M,else=0 (else comes last)")
    return Schedule(windows=tuple(windows), otherwise=otherwise or 0)


def _minute(hour: str, minute: str) -> int:
    total = int(hour) * 60 + int(minute)
    if int(minute) > 59 or total > DAY_MINUTES:
        raise ValueError(f"{hour}:{minute} is no time of day")
    return total

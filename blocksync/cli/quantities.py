"""Sizes, rates and times as people type and read them. Units are binary: K is 1024 bytes."""

from __future__ import annotations

import re

_SHIFTS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}
_SIZE = re.compile(r"([0-9]{1,19})(?:\.([0-9]{1,9}))?([KMGT]?)(?:IB)?", re.ASCII)


def parse_size(text: str) -> int:
    """Read ``512``, ``64K``, ``1.5G`` or ``2TiB`` as bytes.

    Raises:
        ValueError: it is none of these, or no whole number of bytes; the text says which sizes there are.
    """
    match = _SIZE.fullmatch(text.strip().upper())
    if match is None or (text.strip().upper().endswith("IB") and not match[3]):
        raise ValueError("is no size; write bytes, or a number with K, M, G or T, as in 64K or 1.5G")
    fraction = match[2] or ""
    scaled = int(match[1] + fraction) << _SHIFTS[match[3]]
    divisor: int = 10 ** len(fraction)
    whole, rest = divmod(scaled, divisor)
    if rest:
        raise ValueError("is no whole number of bytes")
    return whole


def show_size(count: float) -> str:
    """``1.50 GiB``: three digits that count, so that columns of them compare at a glance."""
    if count < 1024:
        return f"{count:.0f} B"
    value, units = count / 1024, ["TiB", "GiB", "MiB", "KiB"]
    # 999.5 and more would be shown as four digits, which the next unit says in three.
    while value >= 999.5 and len(units) > 1:
        value /= 1024
        units.pop()
    digits = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:.{digits}f} {units[-1]}"


def show_rate(bytes_per_second: float) -> str:
    return f"{show_size(bytes_per_second)}/s"


def show_seconds(seconds: float) -> str:
    """``0.4 s``, ``12 s``, ``3:07``, ``2:05:09``, ``3 d 04:00``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    if not hours:
        return f"{minutes}:{rest:02d}"
    if hours < 48:
        return f"{hours}:{minutes:02d}:{rest:02d}"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours:02d}:{minutes:02d}"

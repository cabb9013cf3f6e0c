"""Sizes and times as a report tells them."""

from __future__ import annotations


def size(count: float) -> str:
    """``1.5 GiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def rate(count: float) -> str:
    return f"{size(count)}/s"


def milliseconds(count: float) -> str:
    """A round trip: ``0.04 ms``, ``1.2 ms``, ``80 ms``."""
    found = count * 1000
    return f"{found:.2f} ms" if found < 0.95 else f"{found:.1f} ms" if found < 9.5 else f"{found:.0f} ms"


def seconds(count: float) -> str:
    """``0.4 s``, ``12 s``, ``3 min 07 s``, ``2 h 05 min``, ``3 d 4 h``."""
    if count < 10:
        return f"{count:.1f} s"
    whole = round(count)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400 * 2:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"

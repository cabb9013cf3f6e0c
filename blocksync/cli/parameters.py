"""Kinds of option values, and the options that all commands share."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from blocksync.cli.quantities import parse_size
from blocksync.cli.session import Session
from blocksync.limits import Schedule, parse_schedule

F = TypeVar("F", bound=Callable[..., Any])

MAX_LEVEL = 19
# What the system's calls take at most: an offset in a file, and (by far) a wait.
MAX_BYTES = (1 << 63) - 1
MAX_SECONDS = 36_500 * 86_400.0


def sized(least: int = 1, most: int = MAX_BYTES) -> Callable[[str], int]:
    """A kind of value: bytes, as ``4096``, ``64K`` or ``1.5G``.

    Args:
        least, most: what makes sense, inclusive.
    """

    def convert(text: str) -> int:
        try:
            size = parse_size(text)
        except ValueError as error:
            raise click.BadParameter(f"{text!r} {error}") from error
        if not least <= size <= most:
            raise click.BadParameter(f"{text!r} is too {'small' if size < least else 'large'}")
        return size

    return convert


def block_size(text: str) -> int:
    """A power of two from 4 KiB to 16 MiB."""
    size = sized(4 << 10, 16 << 20)(text)
    if size & (size - 1):
        raise click.BadParameter(f"{text!r} is no power of two; use for example 64K")
    return size


def level(text: str) -> int | None:
    """``auto`` (None) or 0 to 19."""
    if text == "auto":
        return None
    if not (text.isascii() and text.isdigit()) or int(text) > MAX_LEVEL:
        raise click.BadParameter(f"{text!r} is neither auto nor a number from 0 to {MAX_LEVEL}")
    return int(text)


_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def duration(least: float = 0.0) -> Callable[[str], float]:
    """A kind of value: seconds, as ``30``, ``30s``, ``15m``, ``2h``, ``1d`` or ``20ms``.

    Args:
        least: what makes sense, seconds.
    """

    def convert(text: str) -> float:
        match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)(ms|s|m|h|d|)", text.strip(), re.ASCII)
        if match is None:
            raise click.BadParameter(f"{text!r} is no time; write for example 30s, 15m or 2h")
        seconds = float(match[1]) * _UNITS[match[2] or "s"]
        if not least <= seconds <= MAX_SECONDS:
            raise click.BadParameter(f"{text!r} is too {'short' if seconds < least else 'long'}")
        return seconds

    return convert


def schedule(text: str) -> Schedule:
    """A rate, or rates by time of day: ``20M`` or ``08:00-18:00=20M,else=0``."""
    try:
        return parse_schedule(text, parse_size)
    except ValueError as error:
        raise click.BadParameter(f"{text!r} {error}") from error


def levels(text: str) -> int | tuple[int, int] | None:
    """As :func:`level`; or two of them, ``1-9``, to choose between."""
    low, dash, high = text.partition("-")
    if not dash:
        return level(text)
    numbers = [int(part) for part in (low, high) if part.isascii() and part.isdigit()]
    if len(numbers) != 2 or not numbers[0] <= numbers[1] <= MAX_LEVEL:
        raise click.BadParameter(
            f"{text!r} is neither auto, a number from 0 to {MAX_LEVEL}, nor two of them as 1-9"
        )
    return numbers[0], numbers[1]


PATH = click.Path(path_type=Path)

log_option = click.option(
    "--log-file", type=PATH, metavar="FILE", help="Also log there, as JSON lines; rotated at 10 MiB, five are kept."
)


def common(*, state: bool = True) -> Callable[[F], F]:
    """Add ``--state-dir`` (where the command has state), ``--json``, ``-v`` and ``-q``.

    The command's function gets the :class:`Session` as its first argument and, where ``state``, the folder (or None)
    as ``state_dir``.
    """

    def decorate(function: F) -> F:
        @functools.wraps(function)
        def run(*, json_lines: bool, verbose: bool, quiet: bool, **values: Any) -> Any:
            session = click.get_current_context().find_object(Session)
            assert session is not None
            session.configure(json_lines=json_lines, verbose=verbose, quiet=quiet)
            return function(session, **values)

        run = click.option("-q", "--quiet", is_flag=True, help="Only errors and the result.")(run)
        run = click.option(
            "-v", "--verbose", is_flag=True, help="Where an error is unexpected, say what led to it."
        )(run)
        run = click.option(
            "--json", "json_lines", is_flag=True, help="One JSON object a line on stdout, the last one the result."
        )(run)
        if state:
            run = click.option(
                "--state-dir",
                type=PATH,
                envvar="BLOCKSYNC_STATE_DIR",
                show_envvar=True,
                metavar="DIR",
                help="Folder of keys, grants, manifests and journals. [default: the system's or the user's]",
            )(run)
        return run  # type: ignore[return-value] # click's decorators keep what a command's function is called with

    return decorate

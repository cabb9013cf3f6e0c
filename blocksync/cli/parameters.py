"""Kinds of option values, and the options that all commands share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from blocksync.cli.quantities import parse_size
from blocksync.cli.session import Session

F = TypeVar("F", bound=Callable[..., Any])

MAX_LEVEL = 19


def sized(least: int = 1, most: int | None = None) -> Callable[[str], int]:
    """A kind of value: bytes, as ``4096``, ``64K`` or ``1.5G``.

    Args:
        least, most: what makes sense, inclusive.
    """

    def convert(text: str) -> int:
        try:
            size = parse_size(text)
        except ValueError as error:
            raise click.BadParameter(f"{text!r} {error}") from error
        if size < least or (most is not None and size > most):
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


PATH = click.Path(path_type=Path)


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

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


class SizeParameter(click.ParamType):
    """Bytes: ``4096``, ``64K``, ``1.5G``.

    Args:
        least: the smallest that makes sense.
        most: the largest one, or None.
    """

    name = "size"

    def __init__(self, *, least: int = 1, most: int | None = None) -> None:
        self._least = least
        self._most = most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        try:
            size = parse_size(value)
        except ValueError as error:
            self.fail(f"{value!r} {error}", param, ctx)
        if size < self._least or (self._most is not None and size > self._most):
            self.fail(f"{value!r} is too {'small' if size < self._least else 'large'}", param, ctx)
        return size


class LevelParameter(click.ParamType):
    """``auto`` (None) or 0 to 19."""

    name = "level"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        if value is None or value == "auto":
            return None
        text = str(value)
        if not (text.isascii() and text.isdigit()) or int(text) > MAX_LEVEL:
            self.fail(f"{text!r} is neither auto nor a number from 0 to {MAX_LEVEL}", param, ctx)
        return int(text)


SIZE = SizeParameter()
RATE = SizeParameter(least=0)
BLOCK_SIZE = SizeParameter(least=4 << 10, most=16 << 20)
LEVEL = LevelParameter()
PATH = click.Path(path_type=Path)


def common(*, state: bool = True) -> Callable[[F], F]:
    """Add ``--state-dir`` (where the command has state), ``--json``, ``-v`` and ``-q``.

    The command's function gets the :class:`Session` as its first argument and, where ``state``, the folder (or None)
    as ``state_dir``.
    """

    def decorate(function: F) -> F:
        @click.pass_obj
        @functools.wraps(function)
        def run(session: Session, *, json_lines: bool, verbose: bool, quiet: bool, **values: Any) -> Any:
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

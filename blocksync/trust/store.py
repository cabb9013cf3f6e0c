"""Small private files, replaced whole: the identity, the grants and the pins stand on these functions.

A file is never changed in place. A writer holds the lock of the file, writes a new one beside it, syncs it, renames it
over the old one and syncs the folder. A reader needs no lock: it sees the old file or the new one. The new file's
name is fixed, since the lock makes its writer the only one; what a killed writer left is overwritten by the next.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from blocksync.errors import BlocksyncError, StateDamagedError, StateError, from_os_error
from blocksync.trust.filelock import PERMISSION_BITS_COUNT, locked, sync_folder

STORE_BYTES = 4 << 20
"""Largest store that is read: a thousand peers with their certificates take less than 1 MiB."""


def private_folder(path: Path, kind: type[BlocksyncError]) -> None:
    """Make a folder that only its owner enters (0700), or check that nobody else may write to an existing one.

    Raises:
        BlocksyncError: of ``kind``: it cannot be made, is no folder, or others may replace the files in it.
    """
    try:
        if not path.is_dir():
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            sync_folder(path.parent)
        mode = path.stat().st_mode
    except OSError as error:
        raise from_os_error(error, kind, f"cannot make the folder {path}") from error
    if PERMISSION_BITS_COUNT and mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise kind(f"others may replace files in {path}", remedy=f"run: chmod go-w '{path}'")


@contextlib.contextmanager
def exclusive(path: Path, kind: type[BlocksyncError]) -> Iterator[None]:
    """Hold the lock that writers of ``path`` share.

    Raises:
        BlocksyncError: of ``kind``: the lock file cannot be made or locked.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(path.with_name(path.name + ".lock")))
        except OSError as error:
            raise from_os_error(error, kind, f"cannot lock {path}") from error
        yield


def read_private(path: Path, limit: int, kind: type[BlocksyncError]) -> bytes | None:
    """Read a whole small file, or None where there is none; never follows a link.

    Raises:
        BlocksyncError: of ``kind``: unreadable, no regular file, larger than ``limit`` bytes, or open to others.
    """
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        descriptor = os.open(path, flags)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise from_os_error(error, kind, f"cannot open {path}") from error
    with open(descriptor, "rb") as file:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise kind(f"{path} is no regular file", remedy="move it away")
        if PERMISSION_BITS_COUNT and mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise kind(
                f"others may read or change {path} (its mode is {stat.S_IMODE(mode):04o})",
                remedy=f"run: chmod 600 '{path}'; if somebody else may have read it, remove it and pair again",
            )
        try:
            data = file.read(limit + 1)
        except OSError as error:
            raise from_os_error(error, kind, f"cannot read {path}") from error
    if len(data) > limit:
        raise kind(f"{path} is larger than the {limit} bytes it may have", remedy="move it away and pair again")
    return data


def write_private(path: Path, data: bytes, kind: type[BlocksyncError]) -> None:
    """Replace a file durably (mode 0600); the caller holds :func:`exclusive`.

    Raises:
        BlocksyncError: of ``kind``; the old file still stands unless only the last sync of the folder failed.
    """
    fresh = path.with_name(path.name + ".new")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    try:
        fresh.unlink(missing_ok=True)
        with open(os.open(fresh, flags, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, path)
        sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            fresh.unlink(missing_ok=True)
        raise from_os_error(error, kind, f"cannot write {path}") from error


class JsonStore:
    """One JSON file of a known version, and its parsed form, which follows the file.

    Every :meth:`load` reads the file and compares its bytes with those parsed last. Times and inode numbers would be
    cheaper to compare, but a file replaced twice within a tick of the filesystem's clock may carry the old
    ones, and a withdrawn grant must not survive on such luck.

    Args:
        path: the file; its folder is made when first written to.
        version: what ``"version"`` must be.
        key: the one other member, a list.
    """

    __slots__ = ("_items", "_key", "_path", "_raw", "_version")

    def __init__(self, path: Path, *, version: int, key: str) -> None:
        self._path = path
        self._version = version
        self._key = key
        self._raw: bytes | None = None
        self._items: tuple[Any, ...] = ()

    @property
    def path(self) -> Path:
        """The file."""
        return self._path

    def load(self, parse: Callable[[object], Any]) -> tuple[Any, ...]:
        """Return what the file holds now; nothing where there is no file.

        Args:
            parse: turns one JSON value into an item; raises ValueError for anything unexpected.

        Raises:
            StateDamagedError: the file is not what :meth:`save` wrote.
            StateError: it cannot be read, or others may change it.
        """
        raw = read_private(self._path, STORE_BYTES, StateError)
        if raw != self._raw:
            self._items = () if raw is None else self._parse(raw, parse)
            self._raw = raw
        return self._items

    def save(self, values: list[dict[str, object]]) -> None:
        """Replace the file; the caller holds :meth:`changing`.

        Raises:
            StateError: it cannot be written, or would become too large to be read again.
        """
        text = json.dumps({"version": self._version, self._key: values}, indent=1, ensure_ascii=True) + "\n"
        if len(text) > STORE_BYTES:
            raise StateError(
                f"{self._path} would become too large", remedy="revoke peers that are no longer needed"
            )
        write_private(self._path, text.encode("ascii"), StateError)

    @contextlib.contextmanager
    def changing(self) -> Iterator[None]:
        """Hold the file's lock around reading, changing and saving it.

        Raises:
            StateError: the folder or the lock cannot be made.
        """
        private_folder(self._path.parent, StateError)
        with exclusive(self._path, StateError):
            yield

    def _parse(self, raw: bytes, parse: Callable[[object], Any]) -> tuple[Any, ...]:
        try:
            # RecursionError: the parser's answer to deeply nested brackets.
            content = json.loads(raw.decode("ascii"))
            if not isinstance(content, dict) or set(content) != {"version", self._key}:
                raise ValueError("unexpected members")
            if content["version"] != self._version:
                raise ValueError(f"version {content['version']!r:.20}")
            values = content[self._key]
            if not isinstance(values, list):
                raise ValueError("no list")
            return tuple(parse(value) for value in values)
        except (ValueError, RecursionError) as error:
            raise StateDamagedError(
                f"{self._path} is damaged or of another version ({error})",
                remedy=f"move {self._path} away and pair again, or restore it from a backup",
            ) from error

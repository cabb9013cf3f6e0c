"""Small private files, replaced whole: the identity, the grants and the pins stand on these functions.

A file is never changed in place. A writer holds the lock of the file, writes a new one beside it, syncs it,
renames it over the old one and syncs the folder. A reader needs no lock: it sees the old file or the new one. The
new file's name is fixed, since the lock makes its writer the only one; what a killed writer left is overwritten
by the next.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Generic, TypeVar

from blocksync.errors import BlocksyncError, StateDamagedError, StateError, from_os_error
from blocksync.platforms.privileges import keep_owner
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
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise kind(f"{path} is no regular file", remedy="move it away")
    with open(descriptor, "rb") as file:
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
            keep_owner(file.fileno(), path.parent)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, path)
        sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            fresh.unlink(missing_ok=True)
        raise from_os_error(error, kind, f"cannot write {path}") from error


_T = TypeVar("_T")


class JsonStore(Generic[_T]):
    """A list of items in one JSON file of a known version, and its parsed form, which follows the file.

    Every :meth:`load` reads the file and compares its bytes with those parsed last. Times and inode numbers would
    be cheaper to compare, but a file replaced twice within a tick of the filesystem's clock may carry the old ones,
    and a withdrawn grant must not survive on such luck.

    Args:
        path: the file; its folder is made when first written to.
        version: what ``"version"`` must be.
        key: the one other member, the list.
        parse: turns one JSON value into an item; raises ValueError, or an error of ours, for anything unexpected.
        dump: turns an item into a JSON object.
    """

    __slots__ = ("_dump", "_key", "_parse", "_path", "_seen", "_version")

    def __init__(
        self,
        path: Path,
        *,
        version: int,
        key: str,
        parse: Callable[[object], _T],
        dump: Callable[[_T], dict[str, object]],
    ) -> None:
        self._path = path
        self._version = version
        self._key = key
        self._parse = parse
        self._dump = dump
        # One attribute for both, so that threads never see the bytes of one file with the items of another.
        self._seen: tuple[bytes | None, tuple[_T, ...]] = (None, ())

    def load(self) -> tuple[_T, ...]:
        """Return what the file holds now; nothing where there is no file.

        Raises:
            StateDamagedError: the file is not what :meth:`save` wrote.
            StateError: it cannot be read, or others may change it.
        """
        raw = read_private(self._path, STORE_BYTES, StateError)
        seen, items = self._seen
        if raw != seen:
            items = () if raw is None else self._parsed(raw)
            self._seen = (raw, items)
        return items

    def save(self, items: Iterable[_T]) -> None:
        """Replace the file durably; the caller holds :meth:`changing`.

        Raises:
            StateError: it cannot be written, or would become too large to be read again.
        """
        content = {"version": self._version, self._key: [self._dump(item) for item in items]}
        data = (json.dumps(content, indent=1) + "\n").encode("ascii")
        if len(data) > STORE_BYTES:
            raise StateError(f"{self._path} would become too large", remedy="remove entries no longer needed")
        write_private(self._path, data, StateError)

    @contextlib.contextmanager
    def changing(self) -> Iterator[None]:
        """Hold the file's lock around loading, changing and saving it.

        Raises:
            StateError: the folder or the lock cannot be made.
        """
        private_folder(self._path.parent, StateError)
        with exclusive(self._path, StateError):
            yield

    def _parsed(self, raw: bytes) -> tuple[_T, ...]:
        try:
            content = json.loads(raw.decode("ascii"))
            values = self._values(content)
            return tuple(self._parse(value) for value in values)
        # RecursionError is the parser's answer to deeply nested brackets.
        except (ValueError, RecursionError, BlocksyncError) as error:
            raise StateDamagedError(
                f"{self._path} is damaged or of another version ({error})",
                remedy=f"restore {self._path} from a backup, or move it away and pair again",
            ) from error

    def _values(self, content: object) -> list[object]:
        if not isinstance(content, dict) or set(content) != {"version", self._key}:
            raise ValueError("unexpected members")
        if content["version"] != self._version:
            raise ValueError("another version")
        values = content[self._key]
        if not isinstance(values, list):
            raise ValueError("no list")  # noqa: TRY004 - bad data, not a bad call
        return values

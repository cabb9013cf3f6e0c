"""A system's files, as data of strangers: nothing in it can lead out of it.

A :class:`Tree` is one filesystem and follows no symlinks at all. :class:`Guest` puts the filesystems of a system
together and resolves paths itself, part by part, with the system's own root as the top: an absolute symlink, or
``..``, never leaves it, whatever the host has at that path. The same resolution serves mounted filesystems,
debugfs and mtools.
"""

from __future__ import annotations

import abc
import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from fnmatch import fnmatchcase

from blocksync.errors import FlattenError, GuestFileError, GuestPathError, from_os_error

Parts = tuple[str, ...]
MOST_LINKS = 40  # as the kernel's MAXSYMLINKS
MOST_NAMES = 20_000  # of one folder
_TEMPORARY = ".blocksync-"


class Tree(abc.ABC):
    """One filesystem. Paths are parts below its root, and no part of them is a symlink."""

    @abc.abstractmethod
    def kind(self, path: Parts) -> str:
        """``file``, ``folder``, ``link``, ``other``, or empty where there is nothing."""

    @abc.abstractmethod
    def names(self, path: Parts) -> list[str]:
        """What a folder holds, without ``.`` and ``..``.

        Raises:
            GuestFileError: more than ``MOST_NAMES``.
        """

    @abc.abstractmethod
    def link(self, path: Parts) -> str:
        """Where a symlink points."""

    @abc.abstractmethod
    def read(self, path: Parts, most: int) -> bytes:
        """A file's content.

        Raises:
            GuestFileError: it has more than ``most`` bytes.
        """

    @abc.abstractmethod
    def write(self, path: Parts, data: bytes, *, mode: int = 0o644) -> None:
        """Make or replace a file; owner, mode and labels of one that was there stay."""

    @abc.abstractmethod
    def make_folder(self, path: Parts) -> None:
        """Make a folder where there is none (0700)."""

    @abc.abstractmethod
    def make_link(self, path: Parts, target: str) -> None:
        """Make a symlink."""

    @abc.abstractmethod
    def remove(self, path: Parts) -> None:
        """Remove a file or a symlink."""

    @abc.abstractmethod
    def sync(self) -> None:
        """Make everything durable."""

    @abc.abstractmethod
    def close(self) -> None:
        """Release what it holds; may be called twice."""


class FolderTree(Tree):
    """A folder of this system (a mounted filesystem) as a tree: each part is opened without following.

    Args:
        descriptor: of the folder; closed with the tree.
        name: for messages.
    """

    def __init__(self, descriptor: int, name: str) -> None:
        self._descriptor = descriptor
        self._name = name

    @contextlib.contextmanager
    def _parent(self, path: Parts) -> Iterator[tuple[int, str]]:
        """The folder that holds the last part."""
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        current = os.dup(self._descriptor)
        try:
            for part in path[:-1]:
                following = os.open(part, flags, dir_fd=current)
                os.close(current)
                current = following
            yield current, path[-1] if path else "."
        except OSError as error:
            where = "/".join(path)
            raise from_os_error(error, GuestFileError, f"{self._name}: /{where}") from error
        finally:
            os.close(current)

    def kind(self, path: Parts) -> str:
        try:
            with self._parent(path) as (folder, name):
                mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
        except GuestFileError as error:
            cause = error.__cause__
            if isinstance(cause, OSError) and cause.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                return ""
            raise
        if stat.S_ISREG(mode):
            return "file"
        if stat.S_ISDIR(mode):
            return "folder"
        return "link" if stat.S_ISLNK(mode) else "other"

    def names(self, path: Parts) -> list[str]:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        found: list[str] = []
        with self._parent(path) as (folder, name):
            descriptor = os.open(name, flags, dir_fd=folder)
            try:
                with os.scandir(descriptor) as entries:
                    for entry in entries:
                        found.append(entry.name)
                        if len(found) > MOST_NAMES:
                            raise GuestFileError(
                                f"{self._name}: /{'/'.join(path)} holds more than {MOST_NAMES} names"
                            )
            finally:
                os.close(descriptor)
        return sorted(found)

    def link(self, path: Parts) -> str:
        with self._parent(path) as (folder, name):
            return os.readlink(name, dir_fd=folder)

    def read(self, path: Parts, most: int) -> bytes:
        # O_NONBLOCK: a FIFO that took the file's place must not hold us.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        with self._parent(path) as (folder, name):
            descriptor = os.open(name, flags, dir_fd=folder)
            with os.fdopen(descriptor, "rb") as file:
                status = os.fstat(descriptor)
                if not stat.S_ISREG(status.st_mode):
                    raise GuestPathError(f"{self._name}: /{'/'.join(path)} is no ordinary file")
                check_size(status.st_size, most, f"{self._name}: /{'/'.join(path)}")
                data = file.read(most + 1)
        check_size(len(data), most, f"{self._name}: /{'/'.join(path)}")
        return data

    def write(self, path: Parts, data: bytes, *, mode: int = 0o644) -> None:
        temporary = _TEMPORARY + secrets.token_hex(8)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with self._parent(path) as (folder, name):
            descriptor = os.open(temporary, flags, 0o600, dir_fd=folder)
            try:
                try:
                    if not _copy_ownership(folder, name, descriptor):
                        os.fchmod(descriptor, mode)
                    view = memoryview(data)
                    while view:
                        view = view[os.write(descriptor, view) :]
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
                os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(temporary, dir_fd=folder)
                raise
            os.fsync(folder)

    def make_folder(self, path: Parts) -> None:
        with self._parent(path) as (folder, name), contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=folder)

    def make_link(self, path: Parts, target: str) -> None:
        with self._parent(path) as (folder, name):
            os.symlink(target, name, dir_fd=folder)

    def remove(self, path: Parts) -> None:
        with self._parent(path) as (folder, name):
            os.unlink(name, dir_fd=folder)

    def sync(self) -> None:
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            raise from_os_error(error, GuestFileError, f"cannot make {self._name} durable") from error

    def close(self) -> None:
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)


def _copy_ownership(folder: int, name: str, descriptor: int) -> bool:
    """Owner, mode and extended attributes (SELinux' label) of the file that is replaced; false where there is none."""
    try:
        old = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except FileNotFoundError:
        return False
    try:
        status = os.fstat(old)
        os.fchown(descriptor, status.st_uid, status.st_gid)
        os.fchmod(descriptor, stat.S_IMODE(status.st_mode))
        for attribute in os.listxattr(old):
            # What this kernel cannot set (a security module's own) is set by the relabelling at the next boot.
            with contextlib.suppress(OSError):
                os.setxattr(descriptor, attribute, os.getxattr(old, attribute))
    finally:
        os.close(old)
    return True


def check_size(size: int, most: int, what: str) -> None:
    """Raise :class:`GuestFileError` for more than ``most`` bytes."""
    if size > most:
        raise GuestFileError(f"{what} has more than {most} bytes: no file of its kind has that")


class Guest:
    """A system put together from its filesystems.

    Args:
        root: its root filesystem.
    """

    def __init__(self, root: Tree) -> None:
        self._trees: dict[Parts, Tree] = {(): root}

    def attach(self, where: str, tree: Tree) -> None:
        """Show a filesystem at its mount point, as fstab says; the folder there need not exist."""
        self._trees[split(where)] = tree

    @property
    def mount_points(self) -> list[str]:
        return ["/" + "/".join(parts) for parts in self._trees]

    def resolve(self, path: str, *, last: bool = True) -> Parts:
        """Follow all symlinks inside the system; parts that do not exist stay as they are.

        Args:
            last: follow the last part too.

        Raises:
            GuestPathError: the links loop.
        """
        waiting = list(reversed(split_raw(path)))
        done: list[str] = []
        links = 0
        while waiting:
            part = waiting.pop()
            if part == "..":
                if done:
                    done.pop()
                continue
            here = (*done, part)
            if (waiting or last) and self._kind(here) == "link":
                links += 1
                if links > MOST_LINKS:
                    raise GuestPathError(f"{path}: its symlinks loop inside the system")
                target = self._tree(here)[0].link(self._tree(here)[1])
                if target.startswith("/"):
                    done.clear()
                waiting.extend(reversed(split_raw(target)))
                continue
            done.append(part)
        return tuple(done)

    def _tree(self, parts: Parts) -> tuple[Tree, Parts]:
        for length in range(len(parts), -1, -1):
            tree = self._trees.get(parts[:length])
            if tree is not None:
                return tree, parts[length:]
        raise AssertionError("a guest has a root")

    def _kind(self, parts: Parts) -> str:
        tree, rest = self._tree(parts)
        return tree.kind(rest) if rest else "folder"

    def kind(self, path: str, *, last: bool = True) -> str:
        """As :meth:`Tree.kind`."""
        return self._kind(self.resolve(path, last=last))

    def names(self, path: str) -> list[str]:
        """What a folder holds; nothing where there is none."""
        parts = self.resolve(path)
        if self._kind(parts) != "folder":
            return []
        tree, rest = self._tree(parts)
        return tree.names(rest)

    def link(self, path: str) -> str:
        tree, rest = self._tree(self.resolve(path, last=False))
        return tree.link(rest)

    def read(self, path: str, most: int) -> bytes | None:
        """A file's content, None where there is none.

        Raises:
            GuestPathError: something is there that is no ordinary file.
            GuestFileError: it is out of proportion.
        """
        parts = self.resolve(path)
        kind = self._kind(parts)
        if not kind:
            return None
        if kind != "file":
            raise GuestPathError(f"{path} leads to no ordinary file inside the system")
        tree, rest = self._tree(parts)
        return tree.read(rest, most)

    def write(self, path: str, data: bytes, *, mode: int = 0o644) -> None:
        parts = self.resolve(path)
        if self._kind(parts) not in ("", "file"):
            raise GuestPathError(f"{path} leads to no ordinary file inside the system")
        tree, rest = self._tree(parts)
        tree.write(rest, data, mode=mode)

    def make_folders(self, path: str) -> None:
        """Make a folder and those above it.

        Raises:
            GuestPathError: something else is in the way.
        """
        parts = self.resolve(path)
        for length in range(1, len(parts) + 1):
            here = parts[:length]
            kind = self._kind(here)
            if not kind:
                tree, rest = self._tree(here)
                tree.make_folder(rest)
            elif kind != "folder":
                raise GuestPathError(f"/{'/'.join(here)} is no folder inside the system")

    def make_link(self, path: str, target: str) -> None:
        tree, rest = self._tree(self.resolve(path, last=False))
        tree.make_link(rest, target)

    def remove(self, path: str) -> None:
        tree, rest = self._tree(self.resolve(path, last=False))
        tree.remove(rest)

    def find(self, pattern: str) -> list[str]:
        """Paths that exist and match; ``*`` stands for anything within one part, but for a leading dot."""
        found = [""]
        for part in split(pattern):
            if "*" not in part:
                found = [f"{path}/{part}" for path in found]
                continue
            found = [
                f"{path}/{name}"
                for path in found
                for name in self.names(path or "/")
                if fnmatchcase(name, part) and not name.startswith(".")
            ]
        return [path for path in found if self.kind(path, last=False)]

    def sync(self) -> None:
        for tree in self._trees.values():
            tree.sync()

    def close(self) -> None:
        for tree in self._trees.values():
            tree.close()


def split_raw(path: str) -> list[str]:
    """The parts of a path, ``..`` included."""
    return [part for part in path.split("/") if part not in ("", ".")]


def split(path: str) -> Parts:
    """The parts of a plain path.

    Raises:
        FlattenError: it goes upwards.
    """
    parts = split_raw(path)
    if ".." in parts:
        raise FlattenError(f"the path {path[:200]} goes upwards")
    return tuple(parts)

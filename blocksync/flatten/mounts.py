"""Filesystems of a target, mounted where nobody else sees them.

All happens in one thread that has a mount namespace of its own: what is mounted there shows nowhere on the host,
and is gone with the thread, however it ends. A partition is reached through a loop device with an offset that
frees itself. Options are always ``nosuid,nodev,noexec``; the tree that is given out is a descriptor, from which
paths are walked without following symlinks (:class:`~blocksync.flatten.tree.FolderTree`).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from blocksync.errors import GuestMountError
from blocksync.flatten.attaching import Piece, joined, looped, ntfs_mounted
from blocksync.flatten.tree import FolderTree

_CLONE_NEWNS = 0x00020000
_MS_REC, _MS_PRIVATE = 0x4000, 1 << 18
_MOUNT_SECONDS = 300  # a journal is replayed
_LOOP_LOOKS, _LOOP_NAP_SECONDS = 100, 0.05  # five seconds: who looks at all loop devices is done in far less
_GUARDS = "nosuid,nodev,noexec"
# xfs: the source may be attached to this machine, with the same UUID.
_KIND_OPTIONS = {"xfs": ",nouuid"}
_LOOK_ONLY = {"ext4": ",noload", "ext3": ",noload", "xfs": ",norecovery"}

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A partition of a target.

    Args:
        path: of the target.
        offset, size: bytes.
        kind: of its filesystem.
        uuid: of it.
        pieces: where it does not lie in one range; ``offset`` is that of the first.
    """

    path: str
    offset: int
    size: int
    kind: str
    uuid: str = ""
    pieces: tuple[Piece, ...] = ()


def privately(work: Callable[[], T]) -> T:
    """Run something in a thread with its own mount namespace.

    Raises:
        GuestMountError: the namespace cannot be had.
        BaseException: whatever ``work`` raises.
    """
    outcome: list[T] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            _leave_host()
            outcome.append(work())
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            failure.append(error)

    thread = threading.Thread(target=run, name="private-mounts")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return outcome[0]


def _leave_host() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS):
        number = ctypes.get_errno()
        raise GuestMountError(
            f"cannot make a mount namespace: {os.strerror(number)}",
            remedy="run as root; without root only ext4 can be repaired (debugfs)",
        )
    if libc.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None):
        raise GuestMountError(f"cannot part from the host's mounts: {os.strerror(ctypes.get_errno())}")


@contextlib.contextmanager
def mounted(place: Place, *, read_only: bool, options: str = "") -> Iterator[tuple[FolderTree, str]]:
    """A filesystem as a tree, and the mounted folder's path (of use in this thread only).

    Args:
        read_only: nothing is written, no journal replayed.
        options: more of the kind's own, as ``subvol=@``.

    Raises:
        GuestMountError: it cannot be mounted.
    """
    if place.kind == "btrfs" and place.uuid and Path(f"/sys/fs/btrfs/{place.uuid}").exists():
        raise GuestMountError(
            f"a btrfs with the UUID {place.uuid} is mounted on this machine: the kernel cannot tell the copy from it",
            remedy="repair on another machine, or unmount the original: blocksync flatten --repair TARGET",
        )
    folder = tempfile.mkdtemp(prefix="blocksync-")
    try:
        with _mount(place, folder, read_only=read_only, options=options):
            tree = FolderTree(
                os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), f"{place.kind} at {place.offset}"
            )
            try:
                yield tree, folder
            finally:
                if not read_only:
                    tree.sync()
                tree.close()
    finally:
        with contextlib.suppress(OSError):
            os.rmdir(folder)


@contextlib.contextmanager
def _mount(place: Place, folder: str, *, read_only: bool, options: str) -> Iterator[None]:
    words = _GUARDS + (f",ro{_LOOK_ONLY.get(place.kind, '')}" if read_only else ",rw")
    words += _KIND_OPTIONS.get(place.kind, "") + (f",{options}" if options else "")
    path = os.path.abspath(place.path)
    release: Callable[[], None] | None = None
    with contextlib.ExitStack() as exits:
        if place.pieces:
            device = exits.enter_context(joined(path, place.pieces))
        elif place.kind == "ntfs":
            device, release = exits.enter_context(looped(path, place.offset, place.size))
        else:
            device = path
            words = f"loop,offset={place.offset},sizelimit={place.size},{words}"
            exits.callback(wait_for_loop, place)
        if place.kind == "ntfs":
            exits.enter_context(ntfs_mounted(device, folder, words))
            if release is not None:
                release()
        else:
            run_tool(["mount", "-t", place.kind, "-o", words, device, folder], GuestMountError)
            exits.callback(run_tool, ["umount", folder], GuestMountError)
        yield


def wait_for_loop(place: Place) -> None:
    """Wait until a loop device of ours is gone, so that the next to open the target does not find it in use.

    The kernel frees it when the last who has it open closes it, and that may be somebody's ``losetup``, which looks
    at all of them. One that stays is left: whoever opens the target is told of it.
    """
    path = os.path.realpath(place.path)
    for _ in range(_LOOP_LOOKS):
        if not any(_is_of(loop, path, place.offset) for loop in Path("/sys/block").glob("loop*/loop")):
            return
        time.sleep(_LOOP_NAP_SECONDS)


def _is_of(loop: Path, path: str, offset: int) -> bool:
    try:
        said = [(loop / name).read_text().rstrip("\n") for name in ("backing_file", "offset", "autoclear")]
    except OSError:
        return False  # it went while we looked
    return said == [path, str(offset), "1"]


def run_tool(
    words: list[str],
    failure: type[GuestMountError],
    *,
    seconds: float = _MOUNT_SECONDS,
    good: tuple[int, ...] = (0,),
) -> str:
    """Run a tool of the host.

    Args:
        good: exit codes of success.

    Raises:
        GuestMountError: it is missing, failed, or took too long.
    """
    try:
        done = subprocess.run(
            words,
            check=False,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            stdin=subprocess.DEVNULL,
        )
    except FileNotFoundError as error:
        raise failure(f"{words[0]} is missing on this machine", remedy=f"install {words[0]}") from error
    except subprocess.TimeoutExpired as error:
        raise failure(f"{words[0]} took more than {seconds:.0f} s") from error
    if done.returncode not in good:
        said = " ".join((done.stderr or done.stdout).split())[:300]
        raise failure(f"{words[0]} failed: {said or done.returncode}")
    return done.stdout

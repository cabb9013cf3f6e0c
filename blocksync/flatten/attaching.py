"""What a filesystem of a target is mounted from, where the kernel's loop device alone does not do.

Two cases: a logical volume that is striped or whose segments lie apart, which device-mapper joins, and NTFS, which a
program of its own mounts. Neither outlives this process for long, however that ends: the devices are marked to go with
their last user, and the kernel ends the program when the thread that started it is gone.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from blocksync.errors import BlocksyncError, GuestMountError
from blocksync.platforms.tools import find_tool, run_tool

NTFS_PROGRAM = "ntfs-3g"
_SECTOR_BYTES = 512
_NAP_SECONDS = 0.05
_MOUNT_SECONDS = 120.0
_GO_SECONDS = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A run of a volume, on one range of a disk or striped over several ranges of one length.

    Args:
        length: bytes of the run.
        offsets: of its ranges on the disk, in bytes, in the order of the stripes.
        stripe_bytes: how much lies on a range before the next one's turn; of no meaning with one range.
    """

    length: int
    offsets: tuple[int, ...]
    stripe_bytes: int = 0

    @property
    def range_bytes(self) -> int:
        """Of each range."""
        return self.length // len(self.offsets)

    def sectors(self) -> bool:
        """Whether all of it lies on whole sectors, as device-mapper wants it."""
        numbers = (self.length, self.range_bytes, self.stripe_bytes, *self.offsets)
        return not any(number % _SECTOR_BYTES for number in numbers)


@contextlib.contextmanager
def looped(path: str, offset: int = 0, size: int = 0) -> Iterator[tuple[str, Callable[[], None]]]:
    """A part of a disk as a loop device, for the block.

    Args:
        path: of the disk.
        offset, size: of the part, in bytes; a size of 0 is the rest.

    Yields:
        the device, and what is to be called once somebody has it open: it then goes with its last user.

    Raises:
        GuestMountError: it cannot be had.
    """
    doing = f"cannot attach {path}"
    limit = ["--sizelimit", str(size)] if size else []
    words = ["losetup", "--find", "--show", "--offset", str(offset), *limit, os.path.abspath(path)]
    device = run_tool(words, GuestMountError, doing).output.strip()
    released = False

    def release() -> None:
        nonlocal released
        released = True
        run_tool(["losetup", "--detach", device], GuestMountError, doing)

    try:
        yield device, release
    finally:
        if not released:
            release()
        _await_gone(device, path)


@contextlib.contextmanager
def joined(path: str, pieces: Sequence[Piece]) -> Iterator[str]:
    """Ranges of a disk as one device, for the block.

    Args:
        path: of the disk.
        pieces: in their order.

    Raises:
        GuestMountError: this machine has no device-mapper, or it refuses.
    """
    doing = "cannot join the pieces of a volume"
    name = f"blocksync-pieces-{secrets.token_hex(4)}"
    with contextlib.ExitStack() as exits:
        lines, at, releases = [], 0, []
        for piece in pieces:
            # A loop device for each range: one over the whole disk would show its physical volume, and LVM would
            # activate it.
            ranges = [exits.enter_context(looped(path, offset, piece.range_bytes)) for offset in piece.offsets]
            releases += [release for _, release in ranges]
            lines.append(_line(at, piece, [loop for loop, _ in ranges]))
            at += piece.length
        run_tool(["dmsetup", "create", name], GuestMountError, doing, stdin="".join(lines))
        try:
            for release in releases:
                release()
            yield f"/dev/mapper/{name}"
        finally:
            # udev may be looking at it: then it goes when udev is done.
            run_tool(["dmsetup", "remove", "--deferred", name], GuestMountError, doing)


def _line(at: int, piece: Piece, loops: Sequence[str]) -> str:
    """A line of device-mapper's table, for a piece that begins at a byte of the volume."""
    place = f"{at // _SECTOR_BYTES} {piece.length // _SECTOR_BYTES}"
    legs = " ".join(f"{loop} 0" for loop in loops)
    if len(loops) == 1:
        return f"{place} linear {legs}\n"
    return f"{place} striped {len(loops)} {piece.stripe_bytes // _SECTOR_BYTES} {legs}\n"


@contextlib.contextmanager
def ntfs_mounted(device: str, folder: str, options: str) -> Iterator[None]:
    """An NTFS, mounted by ``ntfs-3g`` for the block.

    Args:
        device: that it is all of.
        folder: where to mount it.
        options: of the mount.

    Raises:
        GuestMountError: ``ntfs-3g`` is missing or refuses, or Windows was not shut down on it.
    """
    program = find_tool(NTFS_PROGRAM)
    if program is None:
        raise GuestMountError(f"{NTFS_PROGRAM} is missing on this machine", remedy=f"install {NTFS_PROGRAM}")
    # In the foreground, so that it can be told to go; among this thread's mounts, which nobody else sees.
    words = ["setpriv", "--pdeathsig", "TERM", program, "-o", f"no_detach,{options}", device, folder]
    try:
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        raise GuestMountError(f"cannot run setpriv: {error.strerror}") from error
    try:
        _await_mount(process, folder)
        if os.statvfs(folder).f_flag & os.ST_RDONLY:
            raise GuestMountError(f"{NTFS_PROGRAM} mounts it for reading only: Windows was not shut down on it")
        yield
    finally:
        _end(process, folder)


def _await_mount(process: subprocess.Popen[bytes], folder: str) -> None:
    deadline = time.monotonic() + _MOUNT_SECONDS
    while not os.path.ismount(folder):
        if process.poll() is not None:
            assert process.stderr is not None
            said = " ".join(process.stderr.read(4096).decode("utf-8", "replace").split())[:300]
            raise GuestMountError(f"{NTFS_PROGRAM} failed: {said or process.returncode}")
        if time.monotonic() > deadline:
            raise GuestMountError(f"{NTFS_PROGRAM} took more than {_MOUNT_SECONDS:.0f} s")
        time.sleep(_NAP_SECONDS)


def _end(process: subprocess.Popen[bytes], folder: str) -> None:
    """Unmount; the program ends once all is written."""
    with contextlib.suppress(BlocksyncError):
        if os.path.ismount(folder):
            run_tool(["umount", folder], GuestMountError, f"cannot unmount {folder}")
        elif process.poll() is None:
            process.send_signal(signal.SIGTERM)
    try:
        process.wait(_GO_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stderr is not None:
        process.stderr.close()


def _await_gone(device: str, path: str) -> None:
    """Wait until a released loop device is gone, so that the next to open the disk does not find it in use.

    One that stays is left: whoever opens the disk is told of it.
    """
    backing = Path("/sys/block") / os.path.basename(device) / "loop/backing_file"
    deadline = time.monotonic() + _GO_SECONDS
    while time.monotonic() < deadline:
        try:
            if backing.read_text().rstrip("\n") != os.path.realpath(path):
                return
        except OSError:
            return
        time.sleep(_NAP_SECONDS)

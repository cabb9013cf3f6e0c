"""The files of a system on a disk image, through a mount that nobody else sees.

The kernel reads the filesystem: through a read-only loop device over the image and a *detached* mount (fsopen,
fsmount), which has no place in any namespace and is gone with its descriptor. It is mounted read-only, nosuid, nodev,
noexec, and without replaying its journal. Parsing a stranger's filesystem is still the kernel's work, so it is done
for root alone and only for kinds whose superblock was recognised.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator

from blocksync.errors import SourceError, from_os_error
from blocksync.flatten.tree import FolderTree, Guest
from blocksync.platforms import detached_mount
from blocksync.preflight.system import is_system, text_of
from blocksync.volumes.layout import Layout, Partition

# Without these a read-only mount would still replay the journal, onto a device that cannot be written to.
_OPTIONS = {
    "ext2": (),
    "ext3": ("noload",),
    "ext4": ("noload",),
    "xfs": ("norecovery", "nouuid"),
}
LOSETUP_SECONDS = 30


@contextlib.contextmanager
def offline_system(path: str, layout: Layout) -> Iterator[Guest | None]:
    """The system on an image, put together by its own fstab; None where no partition holds one that can be read.

    Args:
        path: of the image.
        layout: of it.

    Raises:
        SourceError: a filesystem cannot be mounted.
    """
    disk = layout.disks[0]
    partitions = [part for part in disk.partitions if part.filesystem and part.filesystem.kind in _OPTIONS]
    with contextlib.ExitStack() as exits:
        trees: dict[str, FolderTree] = {}
        root: FolderTree | None = None
        for part in partitions:
            tree = exits.enter_context(_mounted(path, part))
            assert part.filesystem is not None
            for name in (f"UUID={part.filesystem.uuid}", f"LABEL={part.filesystem.label}", f"PARTUUID={part.uuid}"):
                trees[name.lower()] = tree
            if root is None and is_system(Guest(tree)):
                root = tree
        if root is None:
            yield None
            return
        guest = Guest(root)
        for line in text_of(guest, "etc/fstab").splitlines():
            fields = line.split()
            if len(fields) > 1 and fields[1] in ("/boot", "/usr", "/boot/efi") and fields[0].lower() in trees:
                guest.attach(fields[1], trees[fields[0].lower()])
        yield guest


@contextlib.contextmanager
def _mounted(path: str, part: Partition) -> Iterator[FolderTree]:
    assert part.filesystem is not None
    kind = part.filesystem.kind
    with _loop(path, part.offset, part.size) as device:
        try:
            descriptor = detached_mount(device, kind, _OPTIONS[kind])
        except OSError as error:
            raise from_os_error(
                error, SourceError, f"cannot mount partition {part.number} of {path} to look at it"
            ) from error
        with contextlib.closing(FolderTree(descriptor, f"{path} partition {part.number}")) as tree:
            yield tree


@contextlib.contextmanager
def _loop(path: str, offset: int, size: int) -> Iterator[str]:
    words = ["losetup", "--find", "--show", "--read-only", "--offset", str(offset), "--sizelimit", str(size)]
    try:
        done = subprocess.run(
            [*words, os.path.abspath(path)], check=False, capture_output=True, text=True, timeout=LOSETUP_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SourceError(f"cannot make a loop device over {path}: {error}") from error
    device = done.stdout.strip()
    if done.returncode or not device:
        raise SourceError(f"cannot make a loop device over {path}: {done.stderr.strip()[:200]}")
    try:
        yield device
    finally:
        subprocess.run(["losetup", "--detach", device], check=False, capture_output=True, timeout=LOSETUP_SECONDS)

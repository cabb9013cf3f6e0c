"""Where blocks go."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from blocksync.errors import BlocksyncError, TargetError, TargetRefusedError, from_os_error
from blocksync.extensions import TARGETS, find_extension
from blocksync.platforms.dialing import Watching, unwatched
from blocksync.targets.base import Target

__all__ = ["Target", "open_target"]


def _open_extension(text: str, **wishes: object) -> Target | None:
    """What another package opens (entry point ``blocksync.targets``); its faults are told as the target's."""
    try:
        opener = find_extension(TARGETS, text)
        opened = opener(text, **wishes) if opener is not None else None
    except BlocksyncError:
        raise
    except Exception as error:
        raise TargetError(
            f"the package that opens {text} failed: {type(error).__name__}: {error}",
            remedy="tell whoever made that package",
        ) from error
    if opened is not None and not isinstance(opened, Target):
        raise TargetError(f"the package that opens {text} gave no target", remedy="tell whoever made that package")
    return opened


def open_target(
    path: str,
    *,
    create_size: int | None = None,
    overwrite: bool = False,
    state_dir: Path | None = None,
    watching: Watching = unwatched,
) -> Target:
    """Open a target that is fit to be written (rule 9 of the design).

    Args:
        path: of an image file or a block device, or an NBD address; qcow2 images by their suffix.
        create_size: bytes; makes a new sparse image file, or takes up an existing one of that size if it may be
            written.
        overwrite: consent to a target that is not empty.
        state_dir: must not lie on the target or on anything stacked on it.
        watching: makes what waits for a server fail, now and for as long as the target is open.

    Raises:
        TargetRefusedError: with the reason.
        TargetError: it cannot be opened.
    """
    from blocksync.nbd.address import is_address
    from blocksync.nbd.qemu import is_qcow2
    from blocksync.targets.disk import DeviceTarget, FileTarget, create_image

    extension = _open_extension(path, create_size=create_size, overwrite=overwrite, state_dir=state_dir)
    if extension is not None:
        return extension
    if is_address(path):
        from blocksync.targets.nbd import open_nbd_target

        return open_nbd_target(path, overwrite=overwrite, watching=watching)
    if is_qcow2(path) and (create_size is not None or os.path.isfile(path)):
        from blocksync.targets.nbd import Qcow2Target

        return Qcow2Target(
            path, overwrite=overwrite, create_size=create_size, state_dir=state_dir, watching=watching
        )
    if create_size is not None and not os.path.lexists(path):
        create_image(path, create_size)
        return FileTarget(path, overwrite=overwrite, fresh=True, state_dir=state_dir)
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError as error:
        raise TargetError(
            f"the target {path} does not exist",
            remedy="make a new image file with --create SIZE, or check the path",
        ) from error
    except OSError as error:
        raise from_os_error(error, TargetError, f"cannot open the target {path}") from error
    if stat.S_ISBLK(mode):
        return DeviceTarget(path, overwrite=overwrite, state_dir=state_dir)
    if stat.S_ISREG(mode):
        return FileTarget(path, overwrite=overwrite, fresh=False, state_dir=state_dir, grow_to=create_size)
    kind = "a folder" if stat.S_ISDIR(mode) else "neither a file nor a block device"
    raise TargetRefusedError(f"the target {path} is {kind}", remedy="name an image file or a block device")

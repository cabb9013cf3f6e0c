"""Where blocks go."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from blocksync.errors import TargetError, TargetRefusedError, from_os_error
from blocksync.targets.base import Target

__all__ = ["Target", "open_target"]


def open_target(
    path: str, *, create_size: int | None = None, overwrite: bool = False, state_dir: Path | None = None
) -> Target:
    """Open a target that is fit to be written (rule 9 of the design).

    Args:
        path: of an image file or a block device, or an NBD address; qcow2 images by their suffix.
        create_size: bytes; makes a new sparse image file, or takes up an existing one of that size if it may be
            written.
        overwrite: consent to a target that is not empty.
        state_dir: must not lie on the target or on anything stacked on it.

    Raises:
        TargetRefusedError: with the reason.
        TargetError: it cannot be opened.
    """
    from blocksync.nbd.address import is_address
    from blocksync.nbd.qemu import is_qcow2
    from blocksync.targets.disk import DeviceTarget, FileTarget, create_image

    if is_address(path):
        from blocksync.targets.nbd import open_nbd_target

        return open_nbd_target(path, overwrite=overwrite)
    if is_qcow2(path) and (create_size is not None or os.path.isfile(path)):
        from blocksync.targets.nbd import Qcow2Target

        return Qcow2Target(path, overwrite=overwrite, create_size=create_size, state_dir=state_dir)
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

"""Where blocks come from."""

from __future__ import annotations

import os
import stat

from blocksync.errors import BlocksyncError, SourceError, from_os_error
from blocksync.extensions import SOURCES, find_extension
from blocksync.platforms.dialing import Watching, unwatched
from blocksync.sources.base import Source

__all__ = ["Source", "open_source"]


def open_source(text: str, watching: Watching = unwatched) -> Source:
    """Open what a person names: a disk image, a block device, or a place on some of these.

    Args:
        text: a path; ``disk.img#2``, ``disk.img#vg0/root``, ``a.img,b.img#vg0/root``; or ``NAME:…`` of a package that
            adds sources.
        watching: makes what waits for a server fail, now and for as long as the source is open.

    Raises:
        SourceError: it is missing, forbidden, empty, or neither a file nor a block device.
        LayoutError: a place is not there, or cannot be read.
    """
    from blocksync.sources.windows import WindowsSource, is_windows_device

    if is_windows_device(text) and not os.path.exists(text):
        return WindowsSource(text)
    if "#" in text and not os.path.exists(text):
        from blocksync.sources.volume import open_place_source

        return open_place_source(text, watching)
    return _open_extension(text) or _open_disk(text, watching)


def _open_extension(text: str) -> Source | None:
    """What another package opens (entry point ``blocksync.sources``); its faults are told as the source's."""
    try:
        opener = find_extension(SOURCES, text)
        opened = opener(text) if opener is not None else None
    except BlocksyncError:
        raise
    except Exception as error:
        raise SourceError(
            f"the package that opens {text} failed: {type(error).__name__}: {error}",
            remedy="tell whoever made that package",
        ) from error
    if opened is not None and not isinstance(opened, Source):
        raise SourceError(f"the package that opens {text} gave no source", remedy="tell whoever made that package")
    return opened


def _open_disk(path: str, watching: Watching) -> Source:
    from blocksync.nbd.address import is_address
    from blocksync.nbd.qemu import is_qcow2
    from blocksync.sources.disk import DeviceSource, FileSource

    if is_address(path):
        from blocksync.sources.nbd import open_nbd

        return open_nbd(path, watching)
    if is_qcow2(path):
        from blocksync.sources.nbd import open_qcow2

        return open_qcow2(path, watching)
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        raise from_os_error(error, SourceError, f"cannot open the source {path}") from error
    if stat.S_ISBLK(mode):
        return DeviceSource(path)
    if stat.S_ISREG(mode):
        return FileSource(path)
    kind = "a folder" if stat.S_ISDIR(mode) else "neither a file nor a block device"
    raise SourceError(f"the source {path} is {kind}", remedy="name a disk image or a block device")

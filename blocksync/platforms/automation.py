"""Keeps udev's helpers off a target's content: LVM, MD, btrfs, udisks and systemd would use what arrives.

While a copy grows on a disk it looks like a physical volume, a RAID member or a filesystem. Our O_EXCL keeps others
from claiming the disk while it is open, but the moment it is closed udev looks at it again, and then a volume group is
activated. So a rule in udev's run-time folder makes such devices uninteresting: it stands after 60-persistent-storage,
which finds the type, and before 64-md-raid-assembly, 64-btrfs and 69-lvm, which act on it. It goes when the target is
closed and the events of that have passed. What a killed process left is known by its lock, which died with it; and
nothing outlives a boot, since the folder lies in /run.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

from blocksync.errors import BlocksyncError
from blocksync.platforms.tools import find_tool

RULES = Path("/run/udev/rules.d")
# udev's socket: where it is missing, as in a container, nobody acts on devices.
CONTROL = Path("/run/udev/control")
PREFIX = "62-blocksync-"
SETTLE_SECONDS = 10

_RULE = """\
# The target of a running blocksync; removed when it ends. What was killed is cleaned by: blocksync check --clean
ACTION=="remove", GOTO="blocksync_end"
SUBSYSTEM!="block", GOTO="blocksync_end"
ENV{{MAJOR}}=="{major}", ENV{{MINOR}}=="{minor}", GOTO="blocksync_hold"
ENV{{ID_PART_ENTRY_DISK}}=="{major}:{minor}", GOTO="blocksync_hold"
GOTO="blocksync_end"
LABEL="blocksync_hold"
ENV{{ID_FS_TYPE}}="", ENV{{DM_UDEV_DISABLE_OTHER_RULES_FLAG}}="1", ENV{{SYSTEMD_READY}}="0", ENV{{UDISKS_IGNORE}}="1"
OPTIONS:="nowatch"
LABEL="blocksync_end"
"""


class HeldBack:
    """A rule that stands for one device until :meth:`close`.

    Args:
        device: its number.
    """

    def __init__(self, device: int) -> None:
        self._descriptor = -1
        if not _lives():
            return
        major, minor = os.major(device), os.minor(device)
        self._path = RULES / f"{PREFIX}{major}-{minor}.rules"
        clean()
        with contextlib.suppress(OSError):  # who may not write there has no rights that udev's helpers would lack
            RULES.mkdir(mode=0o755, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
            self._descriptor = os.open(self._path, flags, 0o644)
            _lock(self._descriptor)
            os.write(self._descriptor, _RULE.format(major=major, minor=minor).encode())
            _udevadm("control", "--reload")

    @property
    def stands(self) -> bool:
        """Whether there is a rule: not without udev, nor without the right to make one."""
        return self._descriptor >= 0

    def close(self) -> None:
        """After the device was closed: let the events of that pass, then take the rule away. May be called twice."""
        if self._descriptor < 0:
            return
        _udevadm("settle", f"--timeout={SETTLE_SECONDS}")
        with contextlib.suppress(OSError):  # without root's rights by now: the next start or --clean does it
            os.unlink(self._path)
        os.close(self._descriptor)
        self._descriptor = -1
        _udevadm("control", "--reload")


def clean() -> list[str]:
    """Remove the rules of processes that are gone.

    Returns:
        the paths of what was removed.
    """
    removed = []
    if _lives():
        for path in sorted(RULES.glob(f"{PREFIX}*.rules")):
            with contextlib.suppress(OSError):
                descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
                try:
                    _lock(descriptor)  # refused while its owner lives
                    os.unlink(path)
                    removed.append(str(path))
                finally:
                    os.close(descriptor)
    if removed:
        _udevadm("control", "--reload")
    return removed


def _lives() -> bool:
    return sys.platform == "linux" and CONTROL.exists()


def _lock(descriptor: int) -> None:
    import fcntl

    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _udevadm(*words: str) -> None:
    # A rule that is not read yet, or no longer, harms nothing: udevd looks for changed rules by itself, too.
    tool = find_tool("udevadm")
    if tool is not None:
        with contextlib.suppress(OSError, BlocksyncError, subprocess.TimeoutExpired):
            subprocess.run(
                [tool, *words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=SETTLE_SECONDS + 5,
                check=False,
            )

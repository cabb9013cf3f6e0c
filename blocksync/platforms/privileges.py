"""Becoming somebody with fewer rights, on Linux.

Three steps, in this order: the state folder is *handed over* to an account while we are root; what concerns it is done
*acting as* that account, so that root never follows what somebody else may have put there; and in the end the process
*becomes* the account for good, and cannot go back.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from blocksync.errors import PrivilegesError, from_os_error

_PR_SET_NO_NEW_PRIVS = 38
_PR_SET_DUMPABLE = 4


@dataclass(frozen=True, slots=True)
class Account:
    """Whom to become."""

    name: str
    uid: int
    gid: int


def find_account(name: str) -> Account:
    """An account by its name or number.

    Raises:
        PrivilegesError: there is none, it is root, or we may not become it.
    """
    if os.name != "posix":
        raise PrivilegesError(
            "--user is for systems of the Unix kind", remedy="run the service under its own account"
        )
    import pwd

    try:
        found = pwd.getpwuid(int(name)) if name.isascii() and name.isdigit() else pwd.getpwnam(name)
    except (KeyError, OverflowError, ValueError) as error:
        shown = name[:80]
        raise PrivilegesError(
            f"there is no user {shown}", remedy=f"make one: useradd --system --shell /usr/sbin/nologin {shown}"
        ) from error
    if not found.pw_uid:
        raise PrivilegesError("--user root gives up nothing", remedy="name another user, or leave --user out")
    if os.geteuid():
        raise PrivilegesError(f"only root can become {name}", remedy="start it as root, or leave --user out")
    return Account(found.pw_name, found.pw_uid, found.pw_gid)


def hand_over(folder: Path, account: Account, known: frozenset[str]) -> None:
    """Give a state folder, and all of root's in it, to an account.

    Bottom up: as long as something of root's is left in a folder, the account cannot change that folder under us.

    Args:
        folder: of state.
        account: its new owner.
        known: the names that state has at its top; a folder that holds others is not given away.

    Raises:
        PrivilegesError: it holds what is no state of ours, or what belongs to a third.
    """
    strange = sorted(
        name for name in os.listdir(folder) if name.removesuffix(".lock").removesuffix(".new") not in known
    )
    if strange:
        raise PrivilegesError(
            f"{folder} holds {strange[0]}, which is no state of blocksync's: it is not given to {account.name}",
            remedy="name a folder of its own with --state-dir",
        )
    try:
        for _, folders, files, descriptor in os.fwalk(folder, topdown=False):
            for name in (*folders, *files):
                _give(name, descriptor, account, folder)
        os.chown(folder, account.uid, account.gid)
    except OSError as error:
        raise from_os_error(error, PrivilegesError, f"cannot give {folder} to {account.name}") from error


def _give(name: str, descriptor: int, account: Account, folder: Path) -> None:
    status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
    if status.st_uid == account.uid:
        return
    plain = stat.S_ISDIR(status.st_mode) or (stat.S_ISREG(status.st_mode) and status.st_nlink == 1)
    if status.st_uid or not plain:
        raise PrivilegesError(
            f"{name} in {folder} is a link, or belongs neither to root nor to {account.name}",
            remedy="look at it, and move it away",
        )
    os.chown(name, account.uid, account.gid, dir_fd=descriptor, follow_symlinks=False)


@contextlib.contextmanager
def acting_as(account: Account | None) -> Iterator[None]:
    """For a moment have an account's rights, in all threads; nothing changes without one."""
    if account is None:
        yield
        return
    own = os.getegid()
    try:
        os.setegid(account.gid)
        os.seteuid(account.uid)
        yield
    finally:
        os.seteuid(0)
        os.setegid(own)


def become(account: Account) -> None:
    """Become an account for good: user, group, no further groups, no way back, no new rights by any program.

    Raises:
        PrivilegesError: it did not work; the process must end.
    """
    try:
        os.setgroups([])
        os.setresgid(account.gid, account.gid, account.gid)
        os.setresuid(account.uid, account.uid, account.uid)
    except OSError as error:
        raise from_os_error(error, PrivilegesError, f"cannot become {account.name}") from error
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise PrivilegesError("this system cannot rule out new rights (PR_SET_NO_NEW_PRIVS)")
    # Other processes of that account must not look into this one, which holds a disk and a key.
    libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    with contextlib.suppress(PermissionError):
        os.setuid(0)
        raise PrivilegesError(f"becoming {account.name} left a way back to root")


def keep_owner(descriptor: int, folder: Path) -> None:
    """What root makes in somebody's state folder belongs to that somebody, who could not read it otherwise.

    Raises:
        OSError: it cannot be given.
    """
    if os.name != "posix" or os.geteuid():
        return
    owner = os.stat(folder)
    if owner.st_uid and os.fstat(descriptor).st_uid != owner.st_uid:
        os.fchown(descriptor, owner.st_uid, owner.st_gid)

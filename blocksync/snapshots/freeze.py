"""A source that stands still during the final pass: its filesystems frozen, or what writes to it stopped by hooks.

The work is done by ``watchdog.py`` in a process of its own, which thaws when this one says so, when this one dies, and
when the time is over. Where the watchdog itself is killed, this process thaws; only where both are killed at one
moment does a filesystem stay frozen (``blocksync check --clean`` or ``fsfreeze --unfreeze MOUNT`` is the way out then).
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blocksync.errors import QuietError, from_os_error
from blocksync.platforms import below, loops_over, mounts_of
from blocksync.platforms.waiting import readable
from blocksync.snapshots.records import Records
from blocksync.snapshots.watchdog import FITHAW

WATCHDOG = Path(__file__).with_name("watchdog.py")
HOOK_SECONDS = 600.0
ANSWER_SECONDS = 60.0
"""Freezing writes back what is dirty first, which takes its time on a slow disk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quiet:
    """How the source is made to stand still.

    Args:
        mounts: mount points to freeze; one a filesystem.
        before, after: shell commands; ``after`` always runs once ``before`` was begun.
        seconds: thawed after this long, whatever is still going on.
        environment: for the commands, beside that of the process.
    """

    mounts: tuple[str, ...] = ()
    before: str = ""
    after: str = ""
    seconds: float = 600.0
    environment: tuple[tuple[str, str], ...] = ()


def mounts_over(paths: Sequence[str]) -> list[str]:
    """One mount point for each filesystem that lies on one of these disks or image files.

    Raises:
        QuietError: a path cannot be looked at.
    """
    found: dict[int, str] = {}
    for path in paths:
        try:
            status = os.stat(path)
            numbers = [status.st_rdev] if status.st_rdev else [number for _, number in loops_over(status)]
            for mount in (mount for number in numbers for mount in mounts_of(number)):
                found.setdefault(os.stat(mount).st_dev, mount)
        except OSError as error:
            raise from_os_error(error, QuietError, f"cannot tell what is mounted from {path}") from error
    return list(found.values())


def refuse_own_files(mounts: Sequence[str], folders: Sequence[Path]) -> None:
    """What this process writes must not wait for the thaw: that would be waiting for itself.

    Raises:
        QuietError: one of the folders lies on a filesystem that is to be frozen.
    """
    for mount in mounts:
        frozen = os.stat(mount).st_dev
        for folder in folders:
            if os.stat(folder).st_dev == frozen or frozen in below(os.stat(folder).st_dev):
                raise QuietError(
                    f"{folder} lies on {mount}, which is to be frozen: the transfer would wait for itself",
                    remedy="put the state (and logs) elsewhere, as --state-dir /run/blocksync from the first pass on; "
                    "or use --snapshot, or --pre-final and --post-final, which freeze nothing",
                )


class Stillness:
    """A source that is standing still.

    ``check`` tells whether it still does: to be asked after the last read.
    """

    def __init__(self, process: subprocess.Popen[bytes], quiet: Quiet) -> None:
        self._process = process
        self._quiet = quiet
        self._buffer = b""
        self.until = 0.0

    def ask(self, line: dict[str, object], seconds: float) -> dict[str, Any] | None:
        """One question to the watchdog and its answer; None where it is gone."""
        assert self._process.stdin is not None
        # One that thawed by itself has said so before it ended: its words are still in the pipe.
        with contextlib.suppress(OSError):
            self._process.stdin.write(json.dumps(line).encode() + b"\n")
            self._process.stdin.flush()
        return self._answer(seconds)

    def _answer(self, seconds: float) -> dict[str, Any] | None:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        deadline = time.monotonic() + seconds
        while b"\n" not in self._buffer:
            ready = readable(descriptor, max(0.0, deadline - time.monotonic()))
            part = os.read(descriptor, 65536) if ready else b""
            if not part:
                return None
            self._buffer += part
        line, _, self._buffer = self._buffer.partition(b"\n")
        said: dict[str, Any] = json.loads(line)
        return said

    def check(self) -> None:
        """Raise where the source is not standing still any more.

        Raises:
            QuietError: the time is over, or the watchdog has ended.
        """
        if self._process.poll() is not None or time.monotonic() >= self.until:
            raise QuietError(
                f"the source was let go after {self._quiet.seconds:.0f} s, before the final pass was over",
                remedy="make another pass first, so that less is left for the final one; or raise --freeze-limit",
                safe="the source works as before; what was acknowledged is durable",
            )


@contextlib.contextmanager
def standing_still(quiet: Quiet) -> Iterator[Stillness]:
    """Make the source stand still for the block, and let it go in any case.

    Raises:
        QuietError: it could not be made to, or did not stay so until the end.
    """
    with _noted(quiet.mounts):
        yield from _standing_still(quiet)


@contextlib.contextmanager
def _noted(mounts: Sequence[str]) -> Iterator[None]:
    """What is frozen stands in a record, so that ``check --clean`` thaws it where both processes were killed."""
    if not mounts:
        yield
        return
    records, name = Records(), f"freeze-{secrets.token_hex(4)}"
    with records.running(name):
        records.update(name, frozen=tuple(mounts))
        yield


def _standing_still(quiet: Quiet) -> Iterator[Stillness]:
    environment = {**os.environ, **dict(quiet.environment)}
    try:
        process = subprocess.Popen(
            [sys.executable, "-I", "-B", str(WATCHDOG)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            start_new_session=True,  # a Ctrl-C at the terminal is ours to handle
        )
    except OSError as error:
        raise from_os_error(error, QuietError, "cannot start the watchdog that thaws") from error
    still = Stillness(process, quiet)
    try:
        if still.ask({"mounts": quiet.mounts, "seconds": quiet.seconds, "command": quiet.after}, 30.0) is None:
            raise QuietError("the watchdog that thaws did not start")
        _run_before(quiet, environment)
        said = still.ask({"freeze": True}, ANSWER_SECONDS)
        still.until = time.monotonic() + quiet.seconds
        if said is None:
            raise QuietError(
                f"freezing {', '.join(quiet.mounts)} took longer than {ANSWER_SECONDS:.0f} s; it was given up",
                remedy="try when less is being written, or use --pre-final and --post-final",
            )
        if "error" in said:
            raise _refused(said)
        yield still
    finally:
        held, status = _let_go(still, process, quiet)
    if not held:
        still.until = 0.0
        still.check()
    if status:
        raise QuietError(
            f"the command of --post-final ended with {status}",
            remedy="look at its output, and start again by hand what it should have started",
            safe="the final pass is committed",
        )


def _refused(said: dict[str, Any]) -> QuietError:
    if said["errno"] == errno.EBUSY:
        return QuietError(
            f"{said['mount']} is frozen already, by somebody else",
            remedy=f"if nobody is using that: fsfreeze --unfreeze {said['mount']}",
        )
    remedy = None
    if said["errno"] == errno.EPERM:
        remedy = "run as root"
    return QuietError(f"cannot freeze {said['mount']}: {said['error']}", remedy=remedy)


def _run_before(quiet: Quiet, environment: dict[str, str]) -> None:
    if not quiet.before:
        return
    try:
        done = subprocess.run(
            ["/bin/sh", "-c", quiet.before],
            stdin=subprocess.DEVNULL,
            stdout=sys.__stderr__ if sys.__stderr__ is not None else subprocess.DEVNULL,
            timeout=HOOK_SECONDS,
            check=False,
            env=environment,
        )
    except subprocess.TimeoutExpired as error:
        raise QuietError(f"the command of --pre-final did not end within {HOOK_SECONDS:.0f} s") from error
    except OSError as error:
        raise from_os_error(error, QuietError, "cannot run the command of --pre-final") from error
    if done.returncode:
        raise QuietError(
            f"the command of --pre-final ended with {done.returncode}: the final pass was not begun",
            remedy="look at its output, mend it, and run the same command again",
        )


def _let_go(still: Stillness, process: subprocess.Popen[bytes], quiet: Quiet) -> tuple[bool, int]:
    """Thaw; whether everything had stayed frozen until now, and the exit status of the command."""
    said = still.ask({"thaw": True}, 2 * HOOK_SECONDS)
    while said is not None and "thawed" not in said:  # an answer that came too late
        said = still.ask({}, 2 * HOOK_SECONDS)
    if said is None or "thawed" not in said:
        # The watchdog is gone: what it froze is still frozen.
        held = _thaw_here(quiet.mounts)
        said = {"held": held and process.poll() is None, "status": 0}
        if quiet.after:
            said["status"] = subprocess.run(
                ["/bin/sh", "-c", quiet.after], check=False, timeout=HOOK_SECONDS
            ).returncode
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()
    try:
        process.wait(10.0)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    return bool(said["held"]), int(said["status"])


def _thaw_here(mounts: Sequence[str]) -> bool:
    import fcntl

    held = bool(mounts)
    for mount in reversed(mounts):
        try:
            descriptor = os.open(mount, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fcntl.ioctl(descriptor, FITHAW, 0)
            finally:
                os.close(descriptor)
        except OSError:
            held = False
    return held

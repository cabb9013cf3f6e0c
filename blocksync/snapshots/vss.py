r"""Shadow copies of Windows' volumes: one set of all, taken with the writers, removed whatever happens.

``diskshadow`` makes one set over several volumes in which the writers of applications take part. It is on
servers alone; elsewhere ``Win32_ShadowCopy.Create`` makes one copy after the other without writers. Both make
copies that outlive the program that made them, so what they print is kept in a file of the state folder: it
names the copies also where we died before we could read it. Who finds such a file of a dead process removes them.

No ``begin backup``: a full backup would have databases cut their logs, which is for the machine's backups to
decide. Without it VSS calls the set a copy, and writers keep theirs.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from blocksync.errors import BlocksyncError, ShadowCopyError, SnapshotSpaceError, from_os_error
from blocksync.platforms.shadowtools import ShadowTools
from blocksync.snapshots.vss_codes import CREATE_RETURNS, STORAGE, Trouble, trouble_in, trouble_of

MOST_VOLUMES = 64
"""In one set, says VSS."""
_LOG_BYTES = 1 << 20
_GUID = re.compile(r"\{[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\}", re.IGNORECASE)
_LISTED = re.compile(r"^BLOCKSYNC\|([^|\n]*)\|([^|\n]*)\|([^|\n]*)\|([^|\r\n]*)\r?$", re.MULTILINE)
_CREATED = re.compile(r"BLOCKSYNC-CREATED\|(\d+)\|")
_WRITER = re.compile(r"^\s*[^\n:]+: '([^'\n]+)'\s*$", re.MULTILINE)
_STATE = re.compile(r"\[(\d{1,2})\]")
_FAILED_STATES = frozenset({6, 7, 8, 9, 10, 11, 12})
LIST = (
    "$ErrorActionPreference='Stop'; Get-CimInstance Win32_ShadowCopy | "
    'ForEach-Object { "BLOCKSYNC|$($_.ID)|$($_.SetID)|$($_.VolumeName)|$($_.DeviceObject)" }'
)
CREATE = (
    "$ErrorActionPreference='Stop'; $r = Invoke-CimMethod -ClassName Win32_ShadowCopy -MethodName Create "
    "-Arguments @{{Volume='{volume}'; Context='ClientAccessible'}}; "
    '"BLOCKSYNC-CREATED|$($r.ReturnValue)|$($r.ShadowID)"'
)
REMOVE = (
    "$ErrorActionPreference='Stop'; Get-CimInstance Win32_ShadowCopy -Filter \"ID='{copy}'\" | Remove-CimInstance"
)


@dataclass(frozen=True, slots=True)
class ShadowCopy:
    r"""One copy: its number, its set's, the volume (``\\?\Volume{…}\``) and the device to read, without a backslash at
    the end."""

    copy: str
    group: str
    volume: str
    device: str


@dataclass(frozen=True, slots=True)
class ShadowSet:
    """What was taken.

    Args:
        copies: one of each volume.
        consistency: ``application`` where all writers took part, ``crash-group`` for one instant of all without them,
            ``crash`` for one instant a volume.
        notes: for people.
    """

    copies: tuple[ShadowCopy, ...]
    consistency: str
    notes: tuple[str, ...] = ()


def failed_writers(text: str) -> tuple[list[str], int]:
    """``(names of the failed ones, all)`` from ``vssadmin list writers``.

    It is translated into each language of Windows; the numbers in brackets are not: ``[1]`` is a stable writer,
    ``[5]`` one that waits for completion, and 6 to 12 are those that failed (VSS_WRITER_STATE of vss.h).
    """
    parts = _WRITER.split(text)
    names, states = parts[1::2], parts[2::2]
    failed = [
        f"{name} (state {state[1]})"
        for name, rest in zip(names, states, strict=False)
        if (state := _STATE.search(rest)) is not None and int(state[1]) in _FAILED_STATES
    ]
    return failed, len(names)


class Shadows:
    """Makes and removes shadow copies.

    Args:
        tools: this machine's, or simulated.
        folder: for scripts, records and what programs print; durable, for copies outlive a restart.
        wait: between tries, seconds.
        say: gets what a person should know.
    """

    def __init__(
        self,
        tools: ShadowTools,
        folder: Path,
        *,
        wait: Callable[[float], None] = time.sleep,
        say: Callable[[str], None] = lambda _message: None,
    ) -> None:
        self._tools = tools
        self._folder = folder
        self._wait = wait
        self._say = say

    @contextlib.contextmanager
    def taken(self, volumes: Sequence[str], transfer: str) -> Iterator[ShadowSet]:
        r"""Copies of volumes, gone at the end.

        Args:
            volumes: ``\\?\Volume{…}\``, each once.
            transfer: a name for the record.

        Raises:
            ShadowCopyError: VSS makes none, also after the tries that its answer is worth.
            SnapshotSpaceError: it has no room.
        """
        if len(volumes) > MOST_VOLUMES:
            raise ShadowCopyError(
                f"{len(volumes)} volumes are more than the {MOST_VOLUMES} of a set",
                remedy="send fewer disks at once",
            )
        self.clean()
        log, record = self._folder / f"{transfer}.log", self._folder / f"{transfer}.json"
        pid = os.getpid()
        with _of_the_folder(record):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            began = self._tools.process_began(pid)
            record.write_text(json.dumps({"pid": pid, "began": began, "log": log.name}))
        failed = True
        try:
            yield self._take(volumes, log)
            failed = False
        finally:
            try:
                self._undo(record, log)
            except BlocksyncError as error:
                # What went wrong before is not hidden behind what went wrong now.
                if not failed:
                    raise
                self._say(f"{error.message}: {error.remedy}")

    def clean(self) -> list[str]:
        """Remove the copies of processes that are gone.

        Returns:
            what was done, a line each.

        Raises:
            ShadowCopyError: one cannot be removed; its record stays.
        """
        done = []
        for record in sorted(self._folder.glob("*.json")):
            try:
                given = json.loads(record.read_bytes()[:_LOG_BYTES])
                pid, began = int(given["pid"]), int(given["began"])
            except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
                pid, began = 0, -1
            if began > 0 and self._tools.process_began(pid) == began:
                continue
            # The log's name is ours by the record's, whatever the record says.
            try:
                removed = self._undo(record, record.with_suffix(".log"))
            except PermissionError:
                # Windows keeps a file that is open: what we started still makes a copy. The record stays.
                continue
            done += [f"removed the shadow copy {each.copy} of {each.volume}" for each in removed]
        for answer in self._folder.glob("answer-*.txt"):
            owner = answer.stem.rpartition("-")[2]
            if not owner.isdecimal() or self._tools.process_began(int(owner)) <= 0:
                with contextlib.suppress(OSError):  # open still, by what its process started: the next time
                    answer.unlink(missing_ok=True)
        return done

    def _take(self, volumes: Sequence[str], log: Path) -> ShadowSet:
        together = self._tools.installed("diskshadow.exe")
        if together:
            made = self._tried(lambda: self._diskshadow(volumes, log))
        else:
            made = []
            for volume in volumes:
                made += self._tried(lambda each=volume: self._create(each, log))  # type: ignore[misc]
        found = {each.volume.lower(): each for each in made}
        missing = [volume for volume in volumes if volume.lower() not in found]
        if missing:
            raise ShadowCopyError(f"VSS says that it made shadow copies, and lists none of {', '.join(missing)}")
        copies = tuple(found[volume.lower()] for volume in volumes)
        if not together:
            note = "diskshadow is not on this machine: the copies were made without the writers of applications"
            return ShadowSet(copies, "crash", (note,))
        if len({each.group for each in copies}) != 1:
            return ShadowSet(copies, "crash", ("VSS made the copies in more than one set",))
        failed, count = failed_writers(self._said(["vssadmin.exe", "list", "writers"], "list the writers")[1])
        if failed or not count:
            what = f"writers failed: {', '.join(failed[:5])}" if failed else "VSS lists no writers"
            return ShadowSet(
                copies, "crash-group", (f"{what}; the copies are of one instant, as after a power cut",)
            )
        return ShadowSet(copies, "application")

    def _tried(self, make: Callable[[], list[ShadowCopy] | Trouble]) -> list[ShadowCopy]:
        attempt = 1
        while True:
            made = make()
            if not isinstance(made, Trouble):
                return made
            attempt += 1
            if attempt > made.tries:
                kind = SnapshotSpaceError if made.number in STORAGE else ShadowCopyError
                number = f"0x{made.number:08X} {made.name}" if made.number else "without a number"
                tries = f" after {made.tries} tries" if made.tries > 1 else ""
                raise kind(f"VSS makes no shadow copy{tries}: {number}", remedy=made.remedy)
            seconds = made.wait_before(attempt)
            self._say(f"VSS makes no shadow copy now ({made.name}); once more in {seconds:.0f} s")
            self._wait(seconds)

    def _diskshadow(self, volumes: Sequence[str], log: Path) -> list[ShadowCopy] | Trouble:
        metadata, script = log.with_suffix(".cab"), log.with_suffix(".dsh")
        lines = ["set context persistent", f'set metadata "{metadata}"', "set verbose on"]
        lines += [f"add volume {volume} alias BLOCKSYNC_{number}" for number, volume in enumerate(volumes)]
        lines += ["create", "exit"]
        start = log.stat().st_size if log.exists() else 0
        try:
            with _of_the_folder(script):
                script.write_text("\r\n".join(lines) + "\r\n")
            code = self._run(["diskshadow.exe", "/s", str(script)], log, "make shadow copies")
        finally:
            for path in (script, metadata):
                path.unlink(missing_ok=True)
        return self._made(_text(log, start), volumes) if not code else trouble_in(_text(log, start))

    def _create(self, volume: str, log: Path) -> list[ShadowCopy] | Trouble:
        start = log.stat().st_size if log.exists() else 0
        code = self._run(_powershell(CREATE.format(volume=volume.replace("'", "''"))), log, "make a shadow copy")
        text = _text(log, start)
        answer = _CREATED.search(text)
        if code or answer is None:
            return trouble_in(text)
        if int(answer[1]):
            return trouble_of(CREATE_RETURNS.get(int(answer[1]), 0))
        return self._made(text, [volume])

    def _made(self, text: str, volumes: Sequence[str]) -> list[ShadowCopy]:
        """The copies that a program's output names, as the system lists them."""
        wanted = {volume.lower() for volume in volumes}
        return [each for each in self._named(text) if each.volume.lower() in wanted]

    def _named(self, text: str) -> list[ShadowCopy]:
        numbers = {number.lower() for number in _GUID.findall(text)}
        return [each for each in self.listed() if each.copy.lower() in numbers] if numbers else []

    def listed(self) -> list[ShadowCopy]:
        """All shadow copies of this machine.

        Raises:
            ShadowCopyError: it does not list them.
        """
        code, text = self._said(_powershell(LIST), "list the shadow copies")
        if code:
            trouble = trouble_in(text)
            raise ShadowCopyError(f"cannot list the shadow copies: {_first(text)}", remedy=trouble.remedy)
        return [ShadowCopy(*found) for found in _LISTED.findall(text) if _GUID.fullmatch(found[0])]

    def _undo(self, record: Path, log: Path) -> list[ShadowCopy]:
        removed = self._named(_text(log, 0))
        for each in removed:
            code, text = self._said(_powershell(REMOVE.format(copy=each.copy)), "remove a shadow copy")
            if code:
                raise ShadowCopyError(
                    f"cannot remove the shadow copy {each.copy}: {_first(text)}",
                    remedy=f"vssadmin delete shadows /shadow={each.copy}, or blocksync check --clean",
                )
        for path in (log, log.with_suffix(".dsh"), log.with_suffix(".cab"), record):
            path.unlink(missing_ok=True)
        return removed

    def _said(self, words: Sequence[str], doing: str) -> tuple[int, str]:
        answer = self._folder / f"answer-{os.getpid()}.txt"
        with _of_the_folder(answer):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            answer.unlink(missing_ok=True)
        try:
            return self._run(words, answer, doing), _text(answer, 0)
        finally:
            answer.unlink(missing_ok=True)

    def _run(self, words: Sequence[str], log: Path, doing: str) -> int:
        try:
            return self._tools.run(words, log)
        except OSError as error:
            raise from_os_error(error, ShadowCopyError, f"cannot {doing}") from error


def _powershell(script: str) -> list[str]:
    return ["powershell.exe", "-NoProfile", "-NonInteractive", "-Command", script]


def _text(log: Path, start: int) -> str:
    """What was printed from ``start`` on; its end where it is long. Only ASCII of it is looked at."""
    try:
        with log.open("rb") as file:
            file.seek(max(start, log.stat().st_size - _LOG_BYTES))
            return file.read(_LOG_BYTES).replace(b"\r\n", b"\n").decode("utf-8", "replace")
    except FileNotFoundError:
        return ""


def _first(text: str) -> str:
    return next((line.strip()[:200] for line in text.splitlines() if line.strip()), "nothing was said")


@contextlib.contextmanager
def _of_the_folder(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise from_os_error(error, ShadowCopyError, f"cannot write {path}") from error

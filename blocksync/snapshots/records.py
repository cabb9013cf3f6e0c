"""What runs now, on a filesystem that a reboot empties: who has taken snapshots, suspended devices, frozen
filesystems.

A record is written before the deed and removed after its undoing. Whoever finds one whose process is gone knows
what is left to undo; whoever finds a process alive leaves its things alone.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from blocksync.errors import SnapshotError, from_os_error

FOLDER = Path("/run/blocksync")
_MOST_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One transfer's.

    Args:
        transfer: its name, part of the tags.
        pid, began: of its process; ``began`` in clock ticks since boot, so that a reused number is no living process.
        suspended: device-mapper names that are or may be suspended.
        frozen: mount points that are or may be frozen.
    """

    transfer: str
    pid: int
    began: int
    suspended: tuple[str, ...] = ()
    frozen: tuple[str, ...] = ()

    @property
    def alive(self) -> bool:
        """Whether its process still runs."""
        return began_of(self.pid) == self.began


def began_of(pid: int) -> int:
    """Start time of a process in clock ticks since boot; 0 where there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return 0
    # The command's name may hold spaces and parentheses itself: fields count from the last one.
    fields = text.rpartition(")")[2].split()
    return int(fields[19]) if fields[0:1] not in (["Z"], ["X"]) else 0


@dataclass(slots=True)
class Records:
    """The folder of records.

    Args:
        folder: of them; another one in tests.
    """

    folder: Path = field(default_factory=lambda: FOLDER)

    @contextlib.contextmanager
    def running(self, transfer: str) -> Iterator[None]:
        """This process has begun a transfer that takes snapshots."""
        self.write(Record(transfer=transfer, pid=os.getpid(), began=began_of(os.getpid())))
        try:
            yield
        finally:
            self.remove(transfer)

    def update(self, transfer: str, *, suspended: tuple[str, ...] = (), frozen: tuple[str, ...] = ()) -> None:
        """Replace what a running transfer has suspended and frozen."""
        for record in self.all():
            if record.transfer == transfer:
                self.write(replace(record, suspended=suspended, frozen=frozen))

    def write(self, record: Record) -> None:
        path = self.folder / f"{record.transfer}.json"
        temporary = path.with_suffix(".new")
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            temporary.write_text(json.dumps(asdict(record)))
            temporary.replace(path)
        except OSError as error:
            raise from_os_error(error, SnapshotError, f"cannot write {path}") from error

    def remove(self, transfer: str) -> None:
        with contextlib.suppress(OSError):
            (self.folder / f"{transfer}.json").unlink()

    def all(self) -> list[Record]:
        """Every record that can be read; what cannot is none of ours."""
        found: list[Record] = []
        if not self.folder.is_dir():
            return found
        for path in sorted(self.folder.glob("*.json")):
            try:
                if path.stat().st_size > _MOST_BYTES:
                    continue
                given = json.loads(path.read_text())
                found.append(
                    Record(
                        transfer=str(given["transfer"]),
                        pid=int(given["pid"]),
                        began=int(given["began"]),
                        suspended=tuple(str(name) for name in given["suspended"]),
                        frozen=tuple(str(name) for name in given["frozen"]),
                    )
                )
            except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
                continue
        return found

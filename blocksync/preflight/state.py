"""The state folder; apart from the rest, since every send looks at it and must start quickly."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from blocksync.errors import StateError, from_os_error
from blocksync.preflight import findings
from blocksync.preflight.findings import Finding, found
from blocksync.preflight.quantities import size_of

# 80 bytes for each block of 64 KiB, the new manifest beside the old one, and a journal.
MANIFEST_SHARE = 2 * 80 / (64 << 10)
JOURNAL_BYTES = 64 << 20


def state_findings(state: Path, size: int) -> Iterator[Finding]:
    """Whether the state folder can be written and has room.

    Args:
        state: the folder.
        size: of the disks whose manifests go there, bytes.
    """
    try:
        with tempfile.TemporaryFile(dir=state):
            pass
        free = shutil.disk_usage(state).free
    except OSError as error:
        mapped = from_os_error(error, StateError, f"the state folder {state} cannot be written to")
        yield found(findings.STATE_UNUSABLE, mapped.message, mapped.remedy)
        return
    needed = int(size * MANIFEST_SHARE) + JOURNAL_BYTES
    if free < needed:
        yield found(
            findings.STATE_SPACE,
            f"the state folder {state} has {size_of(free)} free and may need {size_of(needed)}",
        )

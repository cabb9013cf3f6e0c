"""A blocking agent: follows a disk until passes are short, then cuts over, verifies and keeps the receipt.

    python examples/sync_agent.py DISK HOST[:PORT] CODE_FILE RECEIPT

Everything is one call, which runs until it is done; Ctrl-C stops it resumably, and starting it again goes on. For
asyncio see ``agent.py``.
"""

from __future__ import annotations

import sys
from pathlib import Path

from blocksync.api import (
    DiskSpec,
    Limits,
    Progress,
    Schedule,
    SendOptions,
    TransferEvent,
    TransferOptions,
    transfer,
)
from blocksync.errors import BlocksyncError

SHORT_SECONDS = 30.0


def moved(progress: Progress) -> None:
    """Called from a thread of the engine about once a second: note it, and return."""
    if progress.size:
        print(
            f"{progress.slot} {progress.stage} {progress.done / progress.size:.1%} {progress.message}", flush=True
        )


def happened(event: TransferEvent) -> None:
    """States, passes, verdicts: what an agent reports home."""
    print(event.kind, event.transfer, event.facts, flush=True)


def main(arguments: list[str]) -> int:
    if len(arguments) != 4:
        print(__doc__, file=sys.stderr)
        return 2
    disk, to, code_file, receipt = arguments
    options = TransferOptions(
        send=SendOptions(to=to, code=Path(code_file).read_text().strip(), progress=moved),
        until_converged=SHORT_SECONDS,
        final=True,
        # Without these two the disk's mounted filesystems are frozen.
        pre_final="true",
        post_final="true",
        verify=True,
        limits=Limits(bandwidth=Schedule(otherwise=200 << 20), nice=5),
        receipt=Path(receipt),
        on_event=happened,
    )
    try:
        result = transfer([DiskSpec(source=disk)], options)
    except BlocksyncError as error:
        print(f"error: {error}\n{error.remedy}", file=sys.stderr)
        return error.exit_code
    return 0 if all(result.verified.values()) else 9


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

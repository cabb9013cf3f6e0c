"""A migration agent in one file: passes until little changes, a last pass with the source quiet, then verification.

    python examples/agent.py DISK HOST[:PORT] CODE_FILE

An agent of yours would take its orders from somewhere; the part that matters is here. Cancelling (Ctrl-C) at any moment
leaves everything resumable: start it again and it goes on.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from blocksync.api import Progress, SendOptions, SendResult, VerifyOptions, asend, averify
from blocksync.errors import BlocksyncError

# When a pass takes less than this, the next one is short enough for a cutover.
SHORT_SECONDS = 30.0
MAX_PASSES = 20


def tell(progress: Progress) -> None:
    """Called from a thread of the engine about once a second."""
    share = progress.done / progress.size if progress.size else 0.0
    print(f"{progress.stage:12} {share:6.1%}  {progress.wire >> 20:6} MiB sent  {progress.message}", flush=True)


async def quiet_the_source() -> None:
    """Here your agent stops the services that write to the disk (or takes a snapshot to send from)."""


async def one_pass(disk: str, to: str, code: str | None) -> SendResult:
    result = await asend(disk, SendOptions(to=to, code=code, progress=tell))
    print(f"generation {result.generation}: {result.changed} bytes changed, {result.seconds:.1f} s")
    return result


async def migrate(disk: str, to: str, code: str | None) -> bool:
    for _ in range(MAX_PASSES):
        if (await one_pass(disk, to, code)).seconds < SHORT_SECONDS:
            break
    await quiet_the_source()
    await one_pass(disk, to, None)
    verdict = await averify(disk, VerifyOptions(to=to, progress=tell))
    for offset, length in verdict.differing:
        print(f"differs: {length} bytes at {offset}")
    return verdict.identical


def main(arguments: list[str]) -> int:
    if len(arguments) != 3:
        print(__doc__, file=sys.stderr)
        return 2
    disk, to, code_file = arguments
    try:
        code = Path(code_file).read_text().strip()
        return 0 if asyncio.run(migrate(disk, to, code)) else 9
    except BlocksyncError as error:
        print(f"error: {error}\n{error.remedy}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

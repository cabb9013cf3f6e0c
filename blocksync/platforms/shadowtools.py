"""Windows: the programs that make, list and remove shadow copies, and nothing else.

Everything above knows :class:`ShadowTools` alone, so that it is tested on other systems against a simulated one. What a
program prints goes to a file from its first byte: it is there also when this process is killed while the program
goes on and makes a copy that nobody waits for.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from blocksync.platforms.windows import system_calls

TOOL_SECONDS = 900.0
"""Writers may hold back for minutes each, one after the other; after this long none of them will answer."""


class ShadowTools(Protocol):
    """What of Windows' programs is used."""

    def installed(self, program: str, /) -> bool:
        """Whether a program is there: ``diskshadow.exe`` is on servers alone."""
        ...

    def run(self, words: Sequence[str], log: Path, /) -> int:
        """Run a program to its end; what it prints is appended to ``log``.

        Returns:
            its exit code.

        Raises:
            OSError: it cannot be run, or did not end in time.
        """
        ...

    def process_began(self, pid: int, /) -> int:
        """When a process was made, in units that never repeat; 0 where it does not run."""
        ...


class SystemShadowTools:
    """:class:`ShadowTools` of this machine."""

    def installed(self, program: str, /) -> bool:
        return shutil.which(program) is not None

    def run(self, words: Sequence[str], log: Path, /) -> int:
        try:
            with log.open("ab") as output:
                done = subprocess.run(
                    list(words),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    check=False,
                    timeout=TOOL_SECONDS,
                )
        except subprocess.TimeoutExpired as error:
            raise TimeoutError(f"{words[0]} did not end within {TOOL_SECONDS:.0f} s") from error
        return done.returncode

    def process_began(self, pid: int, /) -> int:
        return system_calls().process_began(pid)


def system_tools() -> ShadowTools:
    """This machine's."""
    return SystemShadowTools()

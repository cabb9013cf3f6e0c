"""Administration tools of the system, run as subprocesses: lvm2, device-mapper, thin-provisioning-tools.

Always in the C locale, so that what they say can be read; in a session of their own, so that Ctrl-C on our
terminal does not cut one off in the middle; never through a shell.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from blocksync.errors import BlocksyncError, from_os_error

_MESSAGE_CHARACTERS = 600
_PATHS = "/usr/sbin:/sbin:/usr/bin:/bin:/usr/local/sbin:/usr/local/bin"
TOOL_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Said:
    """What a tool printed, and its exit code."""

    code: int
    output: str
    errors: str

    @property
    def words(self) -> str:
        """Its complaint in one line, for a message."""
        lines = [line.strip() for line in (self.errors or self.output).splitlines() if line.strip()]
        told = "; ".join(line for line in lines if not line.startswith("WARNING: ")) or "; ".join(lines)
        return told[:_MESSAGE_CHARACTERS]


def find_tool(name: str) -> str | None:
    """The path of a program; system folders are looked into also where PATH leaves them out."""
    return shutil.which(name) or shutil.which(name, path=_PATHS)


def run_tool(
    words: Sequence[str],
    kind: type[BlocksyncError],
    doing: str,
    *,
    check: bool = True,
    timeout: float = TOOL_SECONDS,
    variables: Mapping[str, str] | None = None,
    stdin: str = "",
) -> Said:
    """Run a tool to its end.

    Args:
        words: its name and arguments.
        kind: class to raise.
        doing: the action and its object, for the message.
        check: whether an exit code other than 0 is an error.
        timeout: seconds; it is killed then.
        variables: more of the environment.
        stdin: what it reads.

    Raises:
        BlocksyncError: of ``kind``; it is not there, failed, or did not end.
    """
    program = find_tool(words[0])
    if program is None:
        raise kind(f"{doing}: {words[0]} is not installed", remedy=f"install the package that has {words[0]}")
    environment = {**os.environ, "LC_ALL": "C", "LVM_SUPPRESS_FD_WARNINGS": "1", **(variables or {})}
    try:
        done = subprocess.run(
            [program, *words[1:]],
            input=stdin,
            capture_output=True,
            check=False,
            timeout=timeout,
            env=environment,
            start_new_session=True,
            text=True,
            encoding="utf-8",
            errors="replace",
        )
    except subprocess.TimeoutExpired as error:
        raise kind(f"{doing}: {words[0]} did not end within {timeout:.0f} s") from error
    except OSError as error:
        raise from_os_error(error, kind, f"{doing}: cannot run {words[0]}") from error
    said = Said(done.returncode, done.stdout, done.stderr)
    if check and said.code:
        raise kind(f"{doing}: {said.words or f'{words[0]} ended with {said.code}'}")
    return said

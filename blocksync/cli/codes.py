"""Where a sender's pairing code comes from: a file, the environment, an argument, or somebody at a terminal."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from blocksync.cli.display import Display
from blocksync.cli.session import Session
from blocksync.errors import TrustError, UsageError, from_os_error
from blocksync.options import AskCode

VARIABLE = "BLOCKSYNC_CODE"
TRIES = 3
# A code has 48 characters and a few separators; what is longer is another file.
MAX_FILE_BYTES = 4096


def given_code(session: Session, to: str, code: str | None, code_file: Path | None) -> str | None:
    """The code that the command was given, if any.

    Raises:
        UsageError: it was given twice.
        TrustError: the file cannot be read.
    """
    if code is not None and code_file is not None:
        raise UsageError("--code and --code-file are both given", remedy="give the pairing code once")
    if code is not None:
        if not _is_loopback(to):
            session.output.warn(
                "--code shows the pairing code to everybody who can list this machine's processes; "
                "prefer --code-file, BLOCKSYNC_CODE or the prompt"
            )
        return code
    if code_file is not None:
        return _read(code_file)
    return os.environ.get(VARIABLE) or None


def _read(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            raw = file.read(MAX_FILE_BYTES)
    except OSError as error:
        raise from_os_error(error, TrustError, f"cannot read the pairing code from {path}") from error
    text = raw.decode("utf-8", "replace").strip()
    if not text:
        raise TrustError(f"the file {path} holds no pairing code", remedy="copy there what blocksync recv shows")
    return text


def _is_loopback(to: str) -> bool:
    host = to[1:].partition("]")[0] if to.startswith("[") else to.partition(":")[0]
    return host.lower() in ("localhost", "::1") or host.startswith("127.")


def asker(session: Session, display: Display) -> AskCode | None:
    """A question at the terminal; None where there is nobody to ask."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return None

    def ask(reason: str) -> str | None:
        display.pause()
        try:
            with session.interrupts.asking():
                return _ask(session, reason)
        finally:
            display.resume()

    return ask


def _ask(session: Session, reason: str) -> str | None:
    from blocksync.trust.codes import PairingCode

    session.output.warn(reason)
    for _ in range(TRIES):
        text: str = click.prompt("Pairing code that blocksync recv shows there", type=str, err=True)
        try:
            PairingCode.parse(text)
        except TrustError as error:
            session.output.warn(error.message)
            continue
        return text
    return None

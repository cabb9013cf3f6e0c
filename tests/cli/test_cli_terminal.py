"""On a terminal: the question for a pairing code, the live display, Ctrl-C at the question."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_processes import MIB, environment, limited, make_disk, receiver

fcntl = pytest.importorskip("fcntl", reason="terminals are made differently here")
termios = pytest.importorskip("termios", reason="terminals are made differently here")

Answer = Callable[[bytes], "bytes | None"]


def on_terminal(words: list[str], answer: Answer, columns: int = 120) -> tuple[int, str]:
    """Run a command on a terminal of its own; ``answer`` sees all that was shown and says what to type, once."""
    terminal, inside = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "blocksync", *words],
        stdin=inside,
        stdout=inside,
        stderr=inside,
        env=environment(TERM="xterm", COLUMNS=str(columns), LINES="40"),
        start_new_session=True,
        # Only a controlling terminal makes a signal of Ctrl-C.
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0) and None,
    )
    os.close(inside)
    shown = bytearray()
    with limited(process):
        try:
            _converse(terminal, answer, shown)
        finally:
            os.close(terminal)
            status = process.wait()
    text = shown.decode("utf-8", "replace")
    assert "Traceback" not in text
    return status, text


def _converse(terminal: int, answer: Answer, shown: bytearray) -> None:
    typed = 0
    while True:
        try:
            part = os.read(terminal, 65536)
        except OSError:  # how a terminal says that its last user left
            return
        if not part:
            return
        shown += part
        reply = answer(bytes(shown[typed:]))
        if reply is not None:
            typed = len(shown)
            os.write(terminal, reply)


def test_a_code_is_asked_for_and_progress_is_live(folder: Path) -> None:
    disk = make_disk(folder / "source.img", 16 * MIB, data=6 * MIB)
    with receiver(folder, size=16 * MIB) as there:
        answers = iter([b"nonsense\n", there.code.encode() + b"\n"])
        code, shown = on_terminal(
            ["send", str(disk), "--to", there.to, "--state-dir", str(folder / "s"), "--bwlimit", "3M"],
            lambda new: next(answers) if b"shows there: " in new else None,
        )
        assert code == 0, shown
        assert "is not paired" in shown
        assert "instead of 48" in shown
        assert "disk: full pass" in shown
        assert "━" in shown
        assert "limited by the link" in shown
        assert "committed as generation 1" in shown
        assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h") >= 1  # the cursor comes back


def test_interrupting_the_question(folder: Path, disk: Path) -> None:
    with receiver(folder) as there:
        code, shown = on_terminal(
            ["send", str(disk), "--to", there.to, "--state-dir", str(folder / "s")],
            lambda new: b"\x03" if b"shows there: " in new else None,
        )
        assert code == 130, shown
        assert "stopped: interrupted" in shown


def test_nobody_is_asked_for_the_code_of_a_receiver_that_is_not_there(folder: Path, disk: Path) -> None:
    code, shown = on_terminal(
        ["send", str(disk), "--to", "127.0.0.1:1", "--state-dir", str(folder / "s")],
        lambda new: pytest.fail("a code was asked for") if b"shows there: " in new else None,
    )
    assert code == 8, shown
    assert "the control port 127.0.0.1:1 cannot be reached" in shown


def test_status_is_read_in_a_narrow_window(folder: Path, disk: Path) -> None:
    state = str(folder / "s")
    with receiver(folder) as there:
        words = ["send", str(disk), "--to", there.to, "--state-dir", state, "--code", there.code]
        assert on_terminal(words, lambda _new: None)[0] == 0
    for columns in (50, 70, 120):
        code, shown = on_terminal(["status", "--state-dir", state], lambda _new: None, columns)
        lines = [line.rstrip("\r") for line in re.sub(r"\x1b\[[0-9;]*m", "", shown).split("\n")]
        assert code == 0
        assert max(map(len, lines)) <= columns
        joined = "".join(line[10:] if columns < 100 else line for line in lines)
        assert str(disk) in joined or columns == 120
        assert any(line.startswith("transfer") for line in map(str.strip, lines))
        # A word stands whole on a line, however narrow.
        assert any("waiting" in line for line in lines)

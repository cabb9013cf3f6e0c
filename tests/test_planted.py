"""The runner of planted bugs leaves nothing behind."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from tests.planted import __main__ as planted


def gone(pid: int) -> bool:
    """Whether a process has ended; one that nobody has waited for yet has."""
    status = Path(f"/proc/{pid}/stat")
    for _ in range(200):
        try:
            if status.read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.05)
    return False


def test_what_a_gate_began_ends_with_it(tmp_path: Path) -> None:
    code, said = planted._ended(["sh", "-c", "sleep 300 & echo $!; exit 3"], tmp_path, {})
    assert code == 3
    assert gone(int(said))


def test_what_a_gate_that_hangs_began_ends_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planted, "GATE_SECONDS", 1)
    with pytest.raises(subprocess.TimeoutExpired):
        planted._ended(["sh", "-c", "sleep 300 & echo $! > pid; wait"], tmp_path, {})
    assert gone(int((tmp_path / "pid").read_text()))

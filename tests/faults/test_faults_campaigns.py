"""The campaigns of ``python -m tests.faults``, some runs of each; the gate and long campaigns are that command."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def campaign(*words: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults", *words], cwd=ROOT, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, (done.stdout[-6000:], done.stderr[-3000:])
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[0])
    return said


def test_killed_at_an_operation_either_end_resumes_and_no_claim_is_false() -> None:
    said = campaign("kills", "--runs", "16", "--workers", "2", "--strace", "8")
    assert said["runs"] >= 14, said


def test_a_failing_sync_rename_or_write_of_the_receiver_is_told_and_mended_by_running_again() -> None:
    said = campaign("errors", "--scene", "incremental", "--end", "receiver", "--kind", "ENOSPC", "--workers", "2")
    assert said["runs"] > 30, said


def test_a_way_that_is_cut_at_any_byte_costs_a_retry_or_is_told_and_nothing_else() -> None:
    said = campaign("proxy", "--step", "701", "--workers", "2")
    assert said["runs"] > 40, said
    assert {f"scene {name}" for name in ("incremental", "pairing", "verify")} <= set(said["faults"])
    assert {"cut data up", "reset data up", "cut control down", "reset control down"} <= set(said["faults"])


def test_at_every_so_many_bytes_of_a_whole_session_the_way_may_break_or_hold() -> None:
    broken = campaign("sweep", "--step", "97", "--workers", "2")
    held = campaign("sweep", "--action", "stall", "--action", "dribble", "--step", "499", "--workers", "8")
    for name in ("incremental", "pairing", "fetching", "verify"):
        assert broken["faults"][f"scene {name}"] > 20, broken
        assert held["faults"][f"scene {name}"] > 5, held
    assert {
        f"{action} {port} {way}"
        for action in ("cut", "reset")
        for port in ("control", "data")
        for way in ("up", "down")
    } <= set(broken["faults"])

"""Random runs of both ends, as programs of their own: the seam must be in place before the package is imported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def simulate(*words: str, hash_seed: str = "0") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.simulation", *words],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


def test_no_run_breaks_a_promise() -> None:
    ended = simulate("--runs", "600", "--jobs", "1")
    assert ended.returncode == 0, ended.stderr
    said = json.loads(ended.stdout)
    assert said["runs"] == 600
    assert said["violations"] == 0
    assert len(said["faults"]) == 30, "every kind of fault happens"


def test_a_seed_is_the_same_run_in_every_process() -> None:
    for seed in ("3", "1316", "2309"):
        one, other = simulate("--seed", seed), simulate("--seed", seed, hash_seed="77")
        assert one.returncode == 0
        assert len(one.stdout.splitlines()) > 3
        assert one.stdout == other.stdout


def test_a_disk_that_is_still_full_is_not_called_healthy() -> None:
    for seed in ("702600", "619747", "996560"):
        assert simulate("--seed", seed).returncode == 0


@pytest.mark.parametrize(
    "mistake", ["acknowledged before the claim is durable", "a claim before the target's sync"]
)
def test_a_run_sees_a_broken_promise(mistake: str) -> None:
    program = f"""
import sys
from tests.simulation import seam
seam.install()
from blocksync.engine.landing import Landing
from blocksync.targets.disk import FileTarget
from blocksync.manifest.journal import Journal
if {mistake!r}.startswith("acknowledged"):
    def sync(self, upto):
        self.durable = max(self.durable, upto)
    Journal.sync = sync
else:
    FileTarget.sync = lambda self: None
from tests.simulation.campaign import campaign
print(sum(len(total.violations) for total in campaign(1, 400, 1)))
"""
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(ended.stdout) >= 5

"""Some flips; the gate is ``python -m tests.flips``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_every_flip_is_caught_in_every_place() -> None:
    words = [sys.executable, "-m", "tests.flips", "--flips", "400", "--jobs", "2"]
    done = subprocess.run(words, cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout[-4000:], done.stderr[-3000:])
    said = json.loads(done.stdout)
    places = {name.partition(":")[0] for name in said["caught"]}
    assert len(places) == 10, said

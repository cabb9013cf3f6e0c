"""The rule that keeps udev off a target: who owns it, and who may take it away. What it does is tested in tests/vm."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from blocksync.platforms import automation
from blocksync.platforms.automation import HeldBack, clean

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="udev is Linux's")

DEVICE = os.makedev(8, 16)
NAME = "62-blocksync-8-16.rules"


@pytest.fixture
def rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "control").touch()
    monkeypatch.setattr(automation, "CONTROL", tmp_path / "control")
    monkeypatch.setattr(automation, "RULES", tmp_path / "rules.d")
    monkeypatch.setattr(automation, "find_tool", lambda _name: None)
    return tmp_path / "rules.d"


def test_a_rule_stands_until_it_is_closed(rules: Path) -> None:
    held = HeldBack(DEVICE)
    assert held.stands
    text = (rules / NAME).read_text()
    assert 'ENV{MAJOR}=="8", ENV{MINOR}=="16"' in text
    assert 'ENV{ID_PART_ENTRY_DISK}=="8:16"' in text
    assert clean() == []  # its owner lives
    held.close()
    held.close()
    assert list(rules.iterdir()) == []


def test_what_a_killed_process_left_is_removed_by_the_next_one_and_nothing_else(rules: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path; from blocksync.platforms import automation as a;"
        "a.CONTROL, a.RULES = Path(sys.argv[1]), Path(sys.argv[2]); a.find_tool = lambda _: None;"
        "h = a.HeldBack(os.makedev(8, 32)); os.kill(os.getpid(), 9)"
    )
    words = [sys.executable, "-c", program, str(automation.CONTROL), str(rules)]
    assert subprocess.run(words, check=False).returncode == -9
    (rules / "60-theirs.rules").write_text("# somebody's\n")
    assert (rules / "62-blocksync-8-32.rules").exists()
    held = HeldBack(DEVICE)
    assert sorted(path.name for path in rules.iterdir()) == ["60-theirs.rules", NAME]
    held.close()


def test_without_udev_nothing_is_written(rules: Path) -> None:
    automation.CONTROL.unlink()
    held = HeldBack(DEVICE)
    assert not held.stands
    held.close()
    assert not rules.exists()
    assert clean() == []


def test_a_link_in_the_rules_place_is_not_followed(rules: Path, tmp_path: Path) -> None:
    rules.mkdir()
    theirs = tmp_path / "theirs"
    theirs.write_text("precious")
    (rules / NAME).symlink_to(theirs)
    assert not HeldBack(DEVICE).stands
    assert theirs.read_text() == "precious"

"""The ledger of campaigns."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.ledger import BEGIN_MARK, END_MARK, LEDGER, PAGE, record, totals, write_totals


def test_runs_of_a_gate_add_up(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.jsonl"
    record(gate="schedules", count=10, seconds=1.5, seeds=(1, 10), faults={"cut": 3}, ledger=ledger)
    record(gate="schedules", count=5, seconds=0.5, seeds=(11, 15), faults={"cut": 1, "crash": 2}, ledger=ledger)
    record(gate="fuzz/frames", count=7, seconds=2, failures=1, ledger=ledger)
    found = totals(ledger.read_text().splitlines())
    assert list(found) == ["schedules", "fuzz/frames"]
    assert (found["schedules"].runs, found["schedules"].count, found["schedules"].seconds) == (2, 15, 2.0)
    assert found["schedules"].faults == {"cut": 4, "crash": 2}
    assert found["fuzz/frames"].failures == 1


def test_of_planted_bugs_the_last_run_counts(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.jsonl"
    record(gate="planted bugs", count=60, seconds=1, failures=2, faults={"manifest": 60}, ledger=ledger)
    record(gate="planted bugs", count=61, seconds=1, faults={"manifest": 61}, ledger=ledger)
    total = totals(ledger.read_text().splitlines())["planted bugs"]
    assert (total.runs, total.count, total.failures, total.faults) == (2, 61, 0, {"manifest": 61})


def test_an_unknown_gate_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no gate"):
        record(gate="shedules", count=1, seconds=1, ledger=tmp_path / "ledger.jsonl")


def test_totals_go_between_the_marks_and_nowhere_else(tmp_path: Path) -> None:
    ledger, page = tmp_path / "ledger.jsonl", tmp_path / "page.md"
    record(gate="kills", count=1234, seconds=7200, ledger=ledger)
    page.write_text(f"before\n{BEGIN_MARK}\nold\n{END_MARK}\nafter\n")
    write_totals(page, ledger)
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "| kills | 1 | 1,234 |" in text
    assert "2.0 h" in text


def test_the_ledger_and_its_page_are_sound() -> None:
    lines = LEDGER.read_text().splitlines()
    totals(lines)
    for line in lines:
        assert set(json.loads(line)) == {
            "commit", "changed", "when", "gate", "count", "seeds", "faults", "seconds", "failures"
        }  # fmt: skip
    assert BEGIN_MARK in PAGE.read_text()

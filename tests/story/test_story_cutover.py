"""The whole story with a writer at work: estimate, check, first pass, follow, converge, final, verify, receipt."""

from __future__ import annotations

import json

import pytest

from benchmarks.cutover import main


def test_a_source_that_is_written_to_all_the_while_arrives_as_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--size", "64M", "--rate", "1M", "--until", "20s", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["written"] > 0
    assert not [finding for finding in found["findings"] if finding["severity"] == "error"]
    numbers = [each["number"] for each in found["passes"]]
    assert numbers == list(
        range(2, 2 + len(numbers))
    )  # the first pass was a command of its own, of the same transfer
    assert found["passes"][-1]["disks"][0]["kind"] == "final"
    assert found["passes"][-1]["disks"][0]["consistency"] == "application"
    assert 0 < found["predicted_final_seconds"] <= 20

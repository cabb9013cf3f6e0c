"""The whole story with a writer at work: estimate, check, first pass, follow, converge, final, verify, receipt."""

from __future__ import annotations

import json

import pytest

from benchmarks.cutover import main


def test_a_source_that_is_written_to_all_the_while_arrives_as_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--size", "64M", "--rate", "1M", "--until", "20s", "--watch", "5s", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["written"] > 0
    assert found["followed"] >= 3
    assert 0 < found["lag"] < 60
    assert not [finding for finding in found["findings"] if finding["severity"] == "error"]
    numbers = [each["number"] for each in found["passes"]]
    assert numbers == list(
        range(2, 2 + len(numbers))
    )  # the first pass was a command of its own, of the same transfer
    assert found["passes"][-1]["disks"][0]["kind"] == "final"
    assert found["passes"][-1]["disks"][0]["consistency"] == "application"
    told = {(each["what"], each["by"]) for each in found["forecasts"]}
    assert {("pass", "estimate"), ("pause", "estimate"), ("pause", "passes"), ("verify", "estimate")} <= told
    assert all(0 <= each["low"] <= each["likely"] <= each["high"] for each in found["forecasts"])
    assert found["pause"] >= max(each["took"] for each in found["forecasts"] if each["what"] == "pause")

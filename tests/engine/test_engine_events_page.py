"""docs/EVENTS.md says what the code writes."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from blocksync.control.watching import SLOT_METRICS, metrics

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "EVENTS.md").read_text()


def rows(heading: str) -> dict[str, str]:
    section = PAGE.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:2] == "| "
    ]
    return {row[0].strip("`"): row[-1] for row in cells if row[0][:1] == "`"}


def calls(path: str, name: str) -> list[ast.Call]:
    """The calls of a function or method of this name."""
    return [
        node
        for node in ast.walk(ast.parse((ROOT / path).read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) == name
    ]


def test_every_event_that_is_told_stands_on_the_page_with_its_fields() -> None:
    documented = {
        kind: set(re.findall(r"`(\w+)`", fields)) for kind, fields in rows("Events of a transfer").items()
    }
    told: dict[str, set[str | None]] = {}
    told_by = [*calls("blocksync/engine/operation.py", "tell"), *calls("blocksync/engine/logbook.py", "tell")]
    for call in told_by:
        assert isinstance(call.args[0], ast.Constant)
        told[call.args[0].value] = {keyword.arg for keyword in call.keywords}
    assert set(told) == set(documented)
    told["verified"] = documented["verified"]  # a whole VerifyResult; the next test looks at its fields
    assert told == documented


def test_a_verify_is_told_whole() -> None:
    import dataclasses

    from blocksync.results import VerifyResult

    listed = set(re.findall(r"`(\w+)`", rows("Events of a transfer")["verified"]))
    assert listed <= {field.name for field in dataclasses.fields(VerifyResult)}


def test_every_stage_of_a_sender_stands_on_the_page() -> None:
    stages = set()
    for path, name in (
        ("blocksync/engine/sending.py", "_tell"),
        ("blocksync/engine/sending.py", "tell"),
        ("blocksync/engine/sender.py", "tell"),
    ):
        stages |= {call.args[0].value for call in calls(path, name) if isinstance(call.args[0], ast.Constant)}
    for path in (
        "blocksync/engine/verify.py",
        "blocksync/engine/logbook.py",
        "blocksync/engine/reach.py",
        "blocksync/api/opening.py",
    ):
        for call in calls(path, "Progress"):
            stages |= {
                k.value.value for k in call.keywords if k.arg == "stage" and isinstance(k.value, ast.Constant)
            }
    assert stages == set(rows("Progress"))


def test_every_metric_and_field_of_the_status_stands_on_the_page() -> None:
    fields = {field: 0 for _, _, field in SLOT_METRICS.values()}
    view = {"version": "1", "started": 1.0, "memory": 1, "slots": [{"slot": "a", **fields}]}
    types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", metrics(view), re.MULTILINE))
    section = PAGE.split("\n## A receiver's page, health and metrics\n", 1)[1]
    assert dict(re.findall(r"^\| `(\w+)` \| (gauge|counter) \|", section, re.MULTILINE)) == types
    names = {
        key.value
        for node in ast.walk(ast.parse((ROOT / "blocksync/engine/view.py").read_text()))
        if isinstance(node, ast.Dict)
        for key in node.keys
        if isinstance(key, ast.Constant)
    }
    assert names <= set(re.findall(r"`(\w+)`", section))

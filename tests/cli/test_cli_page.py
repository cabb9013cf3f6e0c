"""``docs/COMMAND.md`` says what the command does."""

from __future__ import annotations

import dataclasses
import re

from cli_processes import ROOT

from blocksync import errors
from blocksync.cli.demo.story import Step
from blocksync.cli.display import HAPPENINGS, facts_of
from blocksync.cli.program import EPILOG
from blocksync.results import DiskOutcome, FlattenResult, Listening, Progress

PAGE = (ROOT / "docs" / "COMMAND.md").read_text()


def rows(heading: str) -> dict[str, list[str]]:
    """The rows of the first table after a heading, by their first cell."""
    table = PAGE.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line[:1] == "|"
    ]
    return {row[0].strip("`"): row[1:] for row in cells[2:]}


def names(cell: str) -> set[str]:
    return set(re.findall(r"`([a-z_]+)`", cell))


def test_the_objects_have_the_fields_of_the_page() -> None:
    said = {kind: names(row[1]) for kind, row in rows("Streams").items()}
    assert said["progress"] == set(facts_of(Progress(stage="done")))
    assert said["listening"] == {field.name for field in dataclasses.fields(Listening)} | {"to"}
    assert said["step"] == {field.name for field in dataclasses.fields(Step)}
    assert said["error"] == {"code", "exit_code", "message", "remedy", "safe"}
    assert said["disk"] == {field.name for field in dataclasses.fields(DiskOutcome)}
    assert set(said) == {"progress", "listening", "step", "disk", "error", "result", *HAPPENINGS} | {
        "transfer",
        "state",
        "pass",
        "verified",
        "receipt",
        "flattened",
    }
    assert said["flattened"] == {field.name for field in dataclasses.fields(FlattenResult)} - {"group"}


def test_the_exit_codes_are_those_of_the_errors_and_of_the_help() -> None:
    on_page = {int(code) for code in rows("Exit codes")}
    of_errors = {0} | {
        kind.exit_code
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.BlocksyncError)
    }
    assert on_page == of_errors
    assert {int(code) for code in re.findall(r"\b\d+\b", EPILOG)} == on_page

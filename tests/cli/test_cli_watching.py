"""The live display at several widths, and the log behind every display."""

from __future__ import annotations

import io
import json
import stat
import sys
from pathlib import Path

import pytest
from cli_processes import MIB, command, receiver

from blocksync.cli.live import LiveDisplay, _rows, sparkline
from blocksync.cli.logbook import FILES_KEPT, Logbook
from blocksync.cli.output import Output
from blocksync.cli.speed import Speed
from blocksync.errors import StateError
from blocksync.results import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def drawn(width: int, monkeypatch: pytest.MonkeyPatch, *, color: bool = True) -> list[str]:
    """The display of two disks and three passes, as lines of plain text."""
    from rich.console import Console

    page = Terminal()
    monkeypatch.setattr(sys, "stderr", page)
    output = Output()
    output.passes.extend((15.0, 5.0, 1.6))
    console = Console(file=page, force_terminal=True, width=width, highlight=False, no_color=not color)
    with LiveDisplay(output, console) as display:
        for step in range(1, 8):
            for slot in ("root", "a-slot-with-a-rather-long-name"):
                display(
                    Progress(
                        stage="transferring",
                        slot=slot,
                        size=1000 * MIB,
                        done=step * 50 * MIB,
                        read=step * 50 * MIB,
                        wire=step * 20 * MIB,
                        changed=step * 40 * MIB,
                        kind="full",
                        level=3,
                        bottleneck="link",
                    )
                )
        plain = Console(file=io.StringIO(), width=width, force_terminal=False, highlight=False)
        plain.print(display._render())
        shown = plain.file
        assert isinstance(shown, io.StringIO)
        return shown.getvalue().splitlines()


@pytest.mark.parametrize("width", [20, 40, 63, 64, 80, 160])
def test_nothing_is_wider_than_the_window_and_the_facts_are_there(
    width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = drawn(width, monkeypatch)
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    assert text.count("35 %") == 2
    assert "passes" in text
    if width >= 40:
        for fact in ("ETA", "ratio 2.00", "limited by the link", "reading", "350 MiB of 0.98 GiB", "15 s to 1.6 s"):
            assert fact in text, fact


def test_what_has_no_size_has_no_bar() -> None:
    from rich.console import Console

    console = Console(width=60, file=io.StringIO(), force_terminal=True)
    console.print(_rows(Progress(stage="waiting", message="for the next pass"), Speed(), 60))
    assert isinstance(console.file, io.StringIO)
    assert "%" not in console.file.getvalue()
    assert "waiting" in console.file.getvalue()


def test_without_colours_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn(80, monkeypatch, color=False)
    assert isinstance(sys.stderr, Terminal)
    assert "\x1b[3" not in sys.stderr.getvalue()


def test_a_plot_has_the_heights_of_its_values() -> None:
    assert sparkline([8, 4, 1, 0]) == "█▅▂▁"
    assert sparkline([0.0, 0.0]) == "▁▁"
    assert sparkline([]) == ""


def test_the_uncertainty_is_that_of_the_rates_seen() -> None:
    steady, jumpy = Speed(), Speed()
    for second in range(10):
        steady.saw(second, second * 100)
        jumpy.saw(second, second * 100 + (50 if second % 2 else 0))
    assert steady.spread(1000) == 0
    around = jumpy.spread(1000)
    remaining = jumpy.remaining(1000)
    assert around is not None
    assert remaining is not None
    assert 0 < around < remaining
    assert Speed().spread(1) is None


# -- logs -----------------------------------------------------------------------------------------------------------


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_both_ends_logs_name_the_transfer(folder: Path, disk: Path) -> None:
    near_log, far_log = folder / "near.log", folder / "far.log"
    with receiver(folder, "--log-file", far_log) as there:
        near = ("--to", there.to, "--state-dir", folder / "s", "-q", "--log-file", near_log)
        assert command("send", disk, *near, "--code", there.code).code == 0
        failed = command("send", folder / "gone", *near)
        assert failed.code == 4
        there.run.end(15)
    ours, theirs = lines(near_log), lines(far_log)
    (transfer,) = {line["transfer"] for line in ours if "transfer" in line}
    assert {line["event"] for line in theirs if line.get("transfer") == transfer} == {"opened", "committed"}
    assert {line["event"] for line in ours} >= {"transfer", "state", "pass", "progress", "result", "error"}
    assert all({"at", "pid", "event"} <= set(line) for line in (*ours, *theirs))
    assert stat.S_IMODE(near_log.stat().st_mode) == 0o600
    assert there.code not in far_log.read_text()


def test_a_log_is_rotated_and_bounded(folder: Path) -> None:
    lost: list[str] = []
    book = Logbook(folder / "log", lost.append, most=1000)
    for number in range(200):
        book.write("event", {"number": number, "text": "x" * 50})
    book.close()
    files = sorted(path.name for path in folder.glob("log*"))
    assert files == ["log", *(f"log.{number}" for number in range(1, FILES_KEPT + 1))]
    assert all((folder / name).stat().st_size <= 1000 for name in files)
    assert lines(folder / "log")[-1]["number"] == 199
    assert lost == []


def test_progress_is_logged_when_it_says_something_new(folder: Path) -> None:
    now = 0.0
    book = Logbook(folder / "log", lambda _text: None, clock=lambda: now)
    for second in range(150):
        now = float(second)
        book.progress(Progress(stage="transferring", slot="a", done=second))
    book.progress(Progress(stage="waiting", slot="a", message="cut"))
    book.close()
    assert [line["done"] for line in lines(folder / "log")] == [0, 60, 120, 0]


def test_a_log_that_cannot_be_written_is_told_once(folder: Path) -> None:
    with pytest.raises(StateError, match="cannot write the log"):
        Logbook(folder / "no" / "such", lambda _text: None)
    lost: list[str] = []
    book = Logbook(folder / "log", lost.append)
    book.write("one", {})
    (folder / "log").unlink()
    book.close()
    folder.joinpath("log").mkdir()
    for _ in range(3):
        book.write("two", {})
    assert len(lost) == 1

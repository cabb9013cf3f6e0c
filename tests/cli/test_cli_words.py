"""The pure parts of the command: sizes, rates, lines of progress, targets as they are typed, tables."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
from pathlib import Path

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blocksync.cli import codes, receiving
from blocksync.cli.display import LineDisplay, line_of
from blocksync.cli.grid import draw
from blocksync.cli.output import Output
from blocksync.cli.parameters import duration, levels, sized
from blocksync.cli.quantities import parse_size, show_rate, show_seconds, show_size
from blocksync.cli.speed import WINDOW_SECONDS, Speed, ratio
from blocksync.errors import TargetError, UsageError
from blocksync.results import Listening, Progress


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


# -- quantities -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("4096", 4096),
        ("64K", 65536),
        ("64k", 65536),
        ("10M", 10 << 20),
        ("1.5G", 3 << 29),
        ("2T", 2 << 40),
        ("2TiB", 2 << 40),
        (" 1G ", 1 << 30),
        ("0.5K", 512),
    ],
)
def test_sizes_that_are_read(text: str, size: int) -> None:
    assert parse_size(text) == size


def test_sizes_and_times_are_no_larger_than_what_a_system_call_takes() -> None:
    assert sized()("8388607T") == 8388607 << 40
    for text in ("8388608T", "9999999999999T"):
        with pytest.raises(click.BadParameter, match="too large"):
            sized()(text)
    assert duration()("36500d") == 36_500 * 86_400
    with pytest.raises(click.BadParameter, match="too long"):
        duration()("999999999d")


@pytest.mark.parametrize(
    "text", ["", "K", "-1", "1X", "1KB", "1iB", "1e3", "0x10", "1 K", "0.3K", "\u0661", "1.", "9" * 30]
)
def test_sizes_that_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no"):
        parse_size(text)


@given(st.integers(0, 1 << 50))
def test_a_size_in_bytes_is_read_as_it_stands(size: int) -> None:
    assert parse_size(str(size)) == size
    assert parse_size(f"{size}K") == size * 1024


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.00 KiB"),
        (10 << 10, "10.0 KiB"),
        ((1 << 20) - 1, "1.00 MiB"),
        (999 << 10, "999 KiB"),
        (256 << 20, "256 MiB"),
        (3 << 40, "3.00 TiB"),
        (5000 << 40, "5000 TiB"),
    ],
)
def test_sizes_that_are_shown(size: int, shown: str) -> None:
    assert show_size(size) == shown
    assert show_rate(size) == f"{shown}/s"


@given(st.floats(0, 1e16))
def test_a_shown_size_keeps_three_digits(size: float) -> None:
    number = show_size(size).split()[0]
    assert len(number.replace(".", "")) <= 4 or size > 999 << 40


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1:00"),
        (187, "3:07"),
        (7509, "2:05:09"),
        (3 * 86400 + 4 * 3600, "3 d 04:00"),
    ],
)
def test_times_that_are_shown(seconds: float, shown: str) -> None:
    assert show_seconds(seconds) == shown


# -- progress -------------------------------------------------------------------------------------------------------


def test_the_rate_is_that_of_the_last_seconds() -> None:
    speed = Speed()
    assert speed.rate == 0
    assert speed.remaining(5) is None
    speed.saw(0, 0)
    speed.saw(1, 1000)
    assert speed.rate == 1000
    for second in range(2, 60):
        speed.saw(second, 1000 + 10 * (second - 1))
    assert speed.rate == pytest.approx(10)
    assert speed.remaining(100) == pytest.approx(10)
    speed.saw(60, 0)  # a retry
    assert speed.rate == 0
    speed.saw(60 + WINDOW_SECONDS, 30)
    assert speed.rate == pytest.approx(30 / WINDOW_SECONDS)


def moment(stage: str = "transferring", **facts: object) -> Progress:
    return Progress(**{"stage": stage, "slot": "disk", "size": 1000 << 20, **facts})  # type: ignore[arg-type]


def test_a_line_says_what_a_person_wants_to_know() -> None:
    speed = Speed()
    speed.saw(0, 0)
    speed.saw(10, 500 << 20)
    line = line_of(
        moment(done=500 << 20, wire=100 << 20, changed=250 << 20, kind="full", level=3, bottleneck="link"), speed
    )
    assert line == (
        "disk: full pass, 50 %, 500 MiB of 0.98 GiB, 50.0 MiB/s, ETA 10 s, wire 100 MiB, ratio 2.50, level 3, "
        "limited by the link"
    )
    assert ratio(moment()) is None
    assert line_of(moment(size=0), Speed()) == "disk: transferring, 0 %, 0 B of 0 B"


def test_lines_come_every_few_seconds_and_remarks_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    display = LineDisplay(Output(), clock)
    display(moment("connecting"))
    display(moment("connecting"))
    for second in range(12):
        clock.now = 100.0 + second
        display(moment(done=second << 20, kind="incremental"))
    display(moment("waiting", message="cut\x1b[2J; trying again in 0.5 s"))
    display(moment("done"))
    display(moment("opened", message="told elsewhere"))
    said = capsys.readouterr()
    assert said.out == ""
    lines = said.err.splitlines()
    assert lines[0] == "disk: connecting"
    assert [line.split(",")[0] for line in lines[1:-1]] == ["disk: incremental pass"] * 3
    assert "1.00 MiB/s" in lines[2]
    assert lines[-1] == "disk: waiting: cut\\x1b[2J; trying again in 0.5 s"


def test_objects_come_at_most_twice_a_second(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    display = LineDisplay(Output(json_lines=True), clock)
    for step in range(20):
        clock.now = 100.0 + step / 10
        display(moment("verifying", done=step))
    display(moment("waiting", message="now"))
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [each["done"] for each in said] == [0, 5, 10, 15, 0]
    assert set(said[0]) >= {"type", "stage", "slot", "size", "done", "durable", "wire", "read", "level", "message"}


def test_quiet_means_errors_and_results_alone(capsys: pytest.CaptureFixture[str]) -> None:
    for as_json in (False, True):
        output = Output(json_lines=as_json)
        output.quiet = True
        LineDisplay(output)(moment())
        output.event("paired", {}, "paired")
        output.note("remark")
        output.result({"a": 1}, "result")
        said = capsys.readouterr()
        assert said.out == ('{"type": "result", "a": 1}\n' if as_json else "result\n")
        assert said.err == ""


def test_an_error_says_what_is_safe_and_what_is_next(capsys: pytest.CaptureFixture[str]) -> None:
    error = TargetError("no\x07 room", remedy="make [bold]room[/]", safe="all of it")
    Output().error(error)
    assert capsys.readouterr().err == "error: no\\x07 room\n  safe: all of it\n  next: make [bold]room[/]\n"
    Output(json_lines=True).error(error)
    assert json.loads(capsys.readouterr().out) == {
        "type": "error",
        "code": "BS0500",
        "exit_code": 5,
        "message": "no\x07 room",
        "remedy": "make [bold]room[/]",
        "safe": "all of it",
    }


def test_the_live_display_shows_slots_and_takes_text_literally(monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.console import Console

    from blocksync.cli.live import LiveDisplay

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    page = Terminal()
    monkeypatch.setattr(sys, "stderr", page)
    output = Output()
    console = Console(file=page, force_terminal=True, width=100, highlight=False)
    with LiveDisplay(output, console) as display:
        display(moment("connecting", slot=""))
        display(moment(slot="[red]x[/]\x1b[5m", done=250 << 20, kind="full", wire=1))
        output.note("a remark [b]above[/b]")
        display.pause()
        display.resume()
        display._live.refresh()
    shown = page.getvalue()
    assert "[red]x[/]\\x1b[5m: full pass" in shown
    assert " 25 %" in shown
    assert "a remark [b]above[/b]" in shown
    assert "\x1b[5m" not in shown
    display(moment("done"))
    assert output.above is None


# -- what is typed --------------------------------------------------------------------------------------------------


def test_targets_as_they_are_typed(folder: Path) -> None:
    odd = folder / "a=b.img"
    odd.touch()
    specs = receiving.target_specs(
        (f"root={folder}/r.img", str(odd), f"{folder}/c=d.img"), 1 << 20, (f"{folder}/./r.img",)
    )
    assert [(spec.slot, spec.path) for spec in specs] == [
        ("root", f"{folder}/r.img"),
        ("", str(odd)),
        ("", f"{folder}/c=d.img"),
    ]
    assert [spec.overwrite for spec in specs] == [True, False, False]
    assert {spec.create_size for spec in specs} == {1 << 20}
    for targets, overwrite in ((("../x=a",), ("b",)), ((".x=a",), ()), (("x=",), ())):
        with pytest.raises(UsageError):
            receiving.target_specs(targets, None, overwrite)


def test_a_size_is_for_files_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receiving, "_is_device", lambda path: path.startswith("/dev/"))
    specs = receiving.target_specs(("a=/dev/x", "b=y.img"), 512, ())
    assert [spec.create_size for spec in specs] == [None, 512]
    with pytest.raises(UsageError, match="device"):
        receiving.target_specs(("a=/dev/x",), 512, ())


@pytest.mark.parametrize(
    ("to", "loopback"),
    [
        ("localhost", True),
        ("127.0.0.9:8080", True),
        ("[::1]:8080", True),
        ("db1:8080", False),
        ("[fe80::1]", False),
    ],
)
def test_where_a_code_in_the_arguments_is_no_risk(to: str, loopback: bool) -> None:
    assert codes._is_loopback(to) is loopback


def test_the_line_to_type(capsys: pytest.CaptureFixture[str]) -> None:
    from blocksync.cli.session import Session
    from blocksync.cli.signals import Interrupts

    output = Output()
    with Interrupts(output) as interrupts:
        session = Session(output, interrupts)
        listening = Listening(control_port=8080, data_port=8703, code="C-O", fingerprint="ab", slots=("one",))
        receiving._introduce(session, listening, "fe80::1")
        several = Listening(control_port=81, data_port=82, code="C-O", fingerprint="ab", slots=("one", "two"))
        receiving._introduce(session, several, "db1.example.org")
        receiving._introduce(session, listening, "")
    lines = capsys.readouterr().out.splitlines()
    assert "pairing code: C-O" in lines
    assert "  blocksync send SOURCE --to [fe80::1]" in lines
    assert "  blocksync send SOURCE --to db1.example.org:81 --slot two" in lines
    assert lines[-1].startswith("  blocksync send SOURCE --to ")
    assert "0.0.0.0" not in lines[-1]


def test_tables_take_their_cells_literally() -> None:
    text = draw("", ("name", "size"), [("[red]evil[/]\x1b[2J", "1"), ("x" * 200, "12345")], numbers=("size",))
    assert "[red]evil[/]\\x1b[2J" in text
    assert "x" * 200 in text
    assert not text.startswith("\n")


def test_an_interrupt_waits_for_what_must_be_known() -> None:
    from blocksync.cli.signals import Interrupts

    reached: list[str] = []

    def work(interrupts: Interrupts) -> None:
        with interrupts.held():
            os.kill(os.getpid(), signal.SIGINT)
            reached.append("the end of the block")
        reached.append("what follows it")

    # The thread that counts signals ends the process at the second one: here is only one.
    with Interrupts(Output()) as interrupts, pytest.raises(KeyboardInterrupt):
        work(interrupts)
    assert reached == ["the end of the block"]


@pytest.mark.parametrize(
    ("text", "meant"), [("auto", None), ("0", 0), ("19", 19), ("1-9", (1, 9)), ("0-3", (0, 3))]
)
def test_levels(text: str, meant: int | tuple[int, int] | None) -> None:
    assert levels(text) == meant


@pytest.mark.parametrize("text", ["", "20", "-1", "1-", "-9", "9-1", "1-20", "1-2-3", "one", "1 - 9"])
def test_what_is_no_level(text: str) -> None:
    with pytest.raises(click.BadParameter):
        levels(text)

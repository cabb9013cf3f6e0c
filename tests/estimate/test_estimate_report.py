"""The report's page, the kept prediction, and the command from end to end."""

from __future__ import annotations

import dataclasses
import random
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from blocksync import api
from blocksync.cli.estimating import summary
from blocksync.engine.outlook import Outlooks, outlook_of
from blocksync.estimate.plots import bars
from blocksync.estimate.report import page
from blocksync.estimate.results import (
    ChangeFigures,
    EstimateResult,
    LevelFigures,
    LinkFigures,
    PassFigures,
    Range,
    SourceFigures,
)
from blocksync.estimate.words import rate, seconds, size
from blocksync.results import SendResult
from tests.serving import MIB, receiver

GIB = 1 << 30


def result(**changes: object) -> EstimateResult:
    figures = SourceFigures(
        size=100 * GIB,
        holes=20 * GIB,
        unused=10 * GIB,
        data=70 * GIB,
        samples=600,
        sampled=600 * MIB,
        zero_share=0.2,
        incompressible_share=0.3,
        read_rate=500.0 * MIB,
        levels=(LevelFigures(level=None, ratio=1, rate=0), LevelFigures(level=3, ratio=2.5, rate=200.0 * MIB)),
    )
    made = EstimateResult(
        source="/dev/<b>x</b>",
        slot="web",
        to="host",
        generation=0,
        figures=figures,
        link=LinkFigures(round_trip=0.012, rates=((1, 10.0 * MIB), (4, 12.0 * MIB))),
        seconds=Range(likely=4000, low=3500, high=4600),
        preparation=0.4,
        transfer=Range(likely=3990, low=3490, high=4590),
        commit=3.0,
        verify=Range(likely=300, low=200, high=400),
        wire=Range(likely=40 * GIB, low=38 * GIB, high=42 * GIB),
        rate=18.0 * MIB,
        bottleneck="link",
        level=3,
        target="file",
        changes=ChangeFigures(
            watched=600,
            points=((75, 10.0 * MIB), (600, 50.0 * MIB)),
            rate=150_000,
            hot=100.0 * MIB,
            passes=(PassFigures(seconds=150, changed=90.0 * MIB, wire=50.0 * MIB),),
            converges=False,
            pause=Range(likely=140, low=100, high=190),
            needed=50.0 * MIB,
        ),
        took=20,
    )
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


class Strict(HTMLParser):
    """Every element that is opened is closed, in order."""

    VOID = frozenset({"meta", "rect", "path", "circle"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_where_no_end_of_the_changes_was_seen_none_is_told() -> None:
    found = result().changes
    assert found is not None
    assert not found.steady
    assert any("written again and again" in line for line in summary(result()))
    steady = result(changes=dataclasses.replace(found, hot=40.0 * GIB))
    assert any("no less at the end of" in line for line in summary(steady))
    assert "no less at the end" in page(steady)
    assert "40" not in "".join(line for line in summary(steady) if line.startswith("changes"))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"changes": None},
        {"seconds": None, "transfer": None, "wire": None, "verify": None, "link": None, "changes": None, "to": ""},
    ],
)
def test_the_page_is_whole_and_needs_nothing_from_elsewhere(changes: dict[str, object]) -> None:
    text = page(result(**changes))
    parser = Strict()
    parser.feed(text)
    assert parser.open == []
    assert not parser.seen & {"script", "img", "link", "iframe", "object"}
    assert not re.search(r"https?:|url\(|@import", text)
    assert "prefers-color-scheme:dark" in text
    assert "<b>x</b>" not in text
    assert not re.search(r"(nan|inf|None)\b", text)


def test_bars_are_shares_of_the_longest_and_their_words_are_text_of_the_page() -> None:
    drawn = bars([("pass <2>", 1.0, "2 min"), ("quiet", 0.0, "0 s")], "a", [(0.5, 4.0), (0.0, 0.0)])
    assert "pass &lt;2&gt;" in drawn
    assert re.findall(r"(?:left|width):([\d.]+)%", drawn) == ["25.0", "12.5", "87.5", "0.4"]
    assert "<svg" not in drawn


def test_the_summary_tells_the_phases_and_what_would_do() -> None:
    text = "\n".join(summary(result()))
    for part in ("limited by the link", "preparation", "transfer", "completion", "12 ms", "would do", "pass 2"):
        assert part in text


def test_words() -> None:
    assert [size(n) for n in (0, 1023, 1536, 150 * MIB, 3 << 40)] == [
        "0 B",
        "1.0 KiB",
        "1.5 KiB",
        "150 MiB",
        "3.0 TiB",
    ]
    assert rate(1536) == "1.5 KiB/s"
    assert [seconds(n) for n in (0.44, 12, 187, 7500, 360_000)] == [
        "0.4 s",
        "12 s",
        "3 min 07 s",
        "2 h 05 min",
        "4 d 4 h",
    ]


def sent(**changes: object) -> SendResult:
    made = SendResult(
        slot="a",
        kind="full",
        generation=1,
        size=GIB,
        read=GIB,
        changed=GIB,
        zero=0,
        wire=GIB,
        resent=0,
        resumed=0,
        retries=0,
        seconds=11.0,
        level=3,
        bottleneck="link",
        root="",
        consistency="live",
    )
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


def test_a_first_pass_in_one_piece_is_compared_with_its_prediction(tmp_path: Path) -> None:
    outlooks = Outlooks(tmp_path, b"r" * 32)
    assert outlooks.compared(sent(), "disk").predicted is None
    outlooks.save("a", outlook_of((10.0, 9.0, 12.0), source_identity="disk", size=GIB))
    assert outlooks.compared(sent(), "disk").predicted == (10.0, 9.0, 12.0)
    for other in (sent(kind="incremental"), sent(resumed=5), sent(size=2 * GIB), sent(slot="b")):
        assert outlooks.compared(other, "disk").predicted is None
    assert outlooks.compared(sent(), "another disk").predicted is None
    assert Outlooks(tmp_path, b"s" * 32).compared(sent(), "disk").predicted is None


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b'{"seconds": 1}', b"\xff" * 9])
def test_a_damaged_prediction_is_none(tmp_path: Path, content: bytes) -> None:
    outlooks = Outlooks(tmp_path, b"r" * 32)
    outlooks.save("a", outlook_of((10.0, 9.0, 12.0), source_identity="disk", size=GIB))
    (path,) = tmp_path.rglob("a.json")
    path.write_bytes(content)
    assert outlooks.load("a") is None


def test_estimate_then_send_from_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blocksync.estimate.estimator.PROBE_SECONDS", 0.2)
    monkeypatch.setattr("blocksync.estimate.estimator.REHEARSAL_SECONDS", 0.5)
    disk = tmp_path / "disk.img"
    disk.write_bytes(random.Random(1).randbytes(3 * MIB) + bytes(MIB))
    with receiver(tmp_path) as served:
        options = api.EstimateOptions(
            to=served.to, slot="a", code=served.listening.code, state_dir=tmp_path / "sender", watch=0.2, seed=1
        )
        found = api.estimate(str(disk), options)
        assert found.slot == "a"
        assert found.target == "file"
        assert found.seconds is not None
        assert found.wire is not None
        assert found.wire.likely == pytest.approx(3 * MIB, rel=0.25)
        assert found.changes is not None
        assert (found.changes.rate, found.changes.converges) == (0.0, True)
        assert found.link is not None
        assert [count for count, _ in found.link.rates] == [1, 2, 4]
        happened = api.send(str(disk), api.SendOptions(to=served.to, slot="a", state_dir=tmp_path / "sender"))
        assert happened.predicted == (found.seconds.likely, found.seconds.low, found.seconds.high)
        again = api.estimate(str(disk), dataclasses.replace(options, code=None, watch=0.0))
        assert again.generation == 1
    assert page(found).startswith("<!doctype html>")


def test_without_a_receiver_the_source_alone_is_sampled(tmp_path: Path) -> None:
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(MIB) + random.Random(1).randbytes(MIB))
    found = api.estimate(str(disk))
    assert (found.seconds, found.link, found.slot) == (None, None, "")
    assert found.figures.data == 2 * MIB
    assert found.figures.zero_share == pytest.approx(0.5, abs=0.1)


def test_a_flattened_targets_phases_and_the_dirty_map_are_shown() -> None:
    span = Range(likely=7.0, low=3.0, high=21.0)
    made = result(divide=span, repair=span)
    shown = page(made)
    assert shown.index("dividing the target") < shown.index(">preparation<") < shown.index(">repair<")
    assert "by samples" in shown
    assert made.changes is not None
    told = dataclasses.replace(made, changes=dataclasses.replace(made.changes, tracker="nbd-bitmap"))
    assert "dirty map told (nbd-bitmap)" in page(told)
    lines = summary(told)
    assert any("dividing the target before it 7.0 s (3.0 s to 21 s)" in line for line in lines)
    assert any("repairing the system at the end 7.0 s" in line for line in lines)
    assert "  told by the source's dirty map (nbd-bitmap)" in lines
    assert "dividing" not in page(result())

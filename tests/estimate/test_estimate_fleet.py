"""The plan of a fleet against a case that was computed by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.fleet import Server, Site, drawn, fair_rates, plan, read_estimates, report, wave

SITE = Site(link=100.0, disks=1000.0, slots=2, at_once=9)


def test_shares_are_even_up_to_what_each_can_take() -> None:
    assert fair_rates([10.0, 100.0, 100.0], 90.0) == [10.0, 40.0, 40.0]
    assert fair_rates([10.0, 20.0], 90.0) == [10.0, 20.0]


def test_a_wave_of_two_servers() -> None:
    # Both at 50 B/s: the small one is done at 10 s; the large one has 500 B left, at 100 B/s until 15 s; 3 s a pass.
    large = Server("large", wire=1000.0, rate=100.0, changes=10.0)
    small = Server("small", wire=500.0, rate=100.0, changes=0.0)
    done = wave([large, small], SITE)
    assert done.first_seconds == pytest.approx(18.0)
    # Then, at 50 B/s each, 10 B/s of changes: 3 + 180/50, 3 + 66/50, 3 + 43.2/50, 3 + 38.64/50, and no shorter.
    assert done.seconds == pytest.approx(18.0 + 6.6 + 4.32 + 3.864 + 3.7728)
    assert done.pauses == pytest.approx((3.7728, 3.0))
    assert (done.endless, done.bound) == ((), "link")


def test_who_writes_faster_than_it_can_send_is_named() -> None:
    done = wave([Server("busy", wire=1000.0, rate=10.0, changes=20.0)], SITE)
    assert done.endless == ("busy",)
    assert done.bound == "servers"


def test_what_binds_is_told_apart() -> None:
    servers = [Server(str(at), wire=1000.0, rate=100.0, changes=0.0) for at in range(4)]
    assert [each.bound for each in plan(servers, Site(link=100.0, disks=50.0, slots=2, at_once=9))] == [
        "target disks"
    ] * 2
    assert [each.servers for each in plan(servers, Site(link=1e9, disks=1e9, slots=3, at_once=9))] == [3, 1]
    assert "slots" in report(plan(servers, SITE), SITE)[0]


def test_a_thousand_servers_are_planned_and_a_seed_says_which() -> None:
    assert drawn(1000, 1) == drawn(1000, 1) != drawn(1000, 2)
    site = Site(link=1.25e9, disks=2e9, slots=32, at_once=64)
    waves = plan(drawn(1000, 1), site)
    assert sum(each.servers for each in waves) == 1000
    # No plan is faster than the link.
    assert sum(each.seconds for each in waves) > sum(server.wire for server in drawn(1000, 1)) / site.link


def test_estimates_are_read_and_incomplete_ones_are_refused(tmp_path: Path) -> None:
    said = {"wire": {"likely": 800}, "transfer": {"likely": 8.0}, "changes": {"rate": 5.0}}
    (tmp_path / "a.json").write_text("{}\n" + json.dumps(said) + "\n")
    assert read_estimates(tmp_path) == [Server("a", 800, 100.0, 5.0)]
    (tmp_path / "b.json").write_text(json.dumps({**said, "changes": None}))
    with pytest.raises(ValueError, match="--watch"):
        read_estimates(tmp_path)

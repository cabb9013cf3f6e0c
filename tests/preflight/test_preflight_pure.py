"""Snapshots, shadow copies and clocks, from what systems say."""

from __future__ import annotations

import pytest

from blocksync.preflight.network import Answer, clock_skew, hello_findings
from blocksync.preflight.quantities import size_of
from blocksync.preflight.shadows import failed_writers, shadow_findings
from blocksync.preflight.snapshots import snapshot_findings
from blocksync.volumes.layout import Disk, Group, Layout, Volume

GIB = 1 << 30


def layout(*volumes: Volume) -> Layout:
    groups = (
        Group(name="vg", uuid="g", extent_bytes=4 << 20, seqno=1, exported=False, complete=True, volumes=volumes),
    )
    return Layout(disks=(Disk(name="d", size=100 * GIB),), groups=groups if volumes else ())


def volume(kind: str = "linear") -> Volume:
    return Volume(name="root", group="vg", uuid="u", size=40 * GIB, type=kind)


def codes(found: Layout, mounted: list[str], free: dict[str, int] | None) -> list[str]:
    return [finding.code for finding in snapshot_findings("/dev/sda", found, mounted, lambda: free)]


def test_snapshots_by_what_is_below_the_mounts() -> None:
    assert codes(layout(volume()), [], None) == ["BS2204"]
    assert codes(layout(), ["/"], {}) == ["BS2202"]
    assert codes(layout(volume()), ["/"], None) == ["BS2202"]
    assert codes(layout(volume()), ["/"], {"vg": 5 * GIB}) == ["BS2201"]
    assert codes(layout(volume()), ["/"], {"vg": 1 * GIB}) == ["BS2203"]
    assert codes(layout(volume("thin")), ["/"], {"vg": 0}) == ["BS2201"]
    assert codes(layout(volume("thin-pool"), volume("thin")), ["/"], {"vg": 0}) == ["BS2201"]


WRITERS = """vssadmin 1.1 - Volume Shadow Copy Service administrative command-line tool
(C) Copyright 2001-2013 Microsoft Corp.

Writer name: 'System Writer'
   Writer Id: {e8132975-6f93-4464-a53e-1050253ae220}
   Writer Instance Id: {a4fc2a4f-1d2d-4e39-9d4e-7f8f6e0c0000}
   State: [%d] Stable
   Last error: No error

Writer name: 'SqlServerWriter'
   Writer Id: {a65faa63-5ea8-4ebc-9dbd-a0c4db26912a}
   Writer Instance Id: {b4fc2a4f-1d2d-4e39-9d4e-7f8f6e0c0000}
   State: [%d] Failed
   Last error: Non-retryable error
"""
GERMAN = WRITERS.replace("Writer name", "Verfassername").replace("State", "Status").replace("Failed", "Fehler")
SERVICE = "[SC] QueryServiceConfig SUCCESS\n        START_TYPE         : %d   DEMAND_START\n"


def said(service: tuple[int, str], writers: tuple[int, str]) -> list[str]:
    answers = {"sc.exe": service, "vssadmin.exe": writers}
    return [finding.code for finding in shadow_findings(lambda words: answers[words[0]])]


@pytest.mark.parametrize("text", [WRITERS, GERMAN])
def test_writers_that_failed_are_named(text: str) -> None:
    assert failed_writers(text % (1, 8)) == (["SqlServerWriter (state 8)"], 2)
    assert failed_writers(text % (1, 5)) == ([], 2)


def test_the_shadow_copy_service_and_its_writers() -> None:
    assert said((0, SERVICE % 3), (0, WRITERS % (1, 1))) == ["BS2213"]
    assert said((0, SERVICE % 3), (0, WRITERS % (1, 9))) == ["BS2212"]
    assert said((0, SERVICE % 4), (0, "")) == ["BS2211"]
    assert said((1060, "no such service"), (0, "")) == ["BS2211"]
    assert said((0, SERVICE % 3), (2, "Error: 0x8000FFFF")) == ["BS2211"]


def test_a_clock_is_compared_in_seconds() -> None:
    assert clock_skew("Thu, 01 Jan 1970 00:10:00 GMT", 100.0) == 500.5
    assert clock_skew("yesterday", 0.0) is None
    assert clock_skew(None, 0.0) is None
    # What answers may be anybody; numbers that no C integer holds are no date either.
    assert clock_skew(f"Mon, 01 Jan {'9' * 30} 00:00:00 GMT", 0.0) is None
    assert clock_skew(f"Mon, 01 Jan 2001 00:00:00 +{'9' * 30}", 0.0) is None


def greeted(**changes: object) -> list[str]:
    from blocksync import __version__

    hello = {"control": 1, "version": __version__, **changes}
    answer = Answer(status=200, said=hello, clock_skew=0.4, fingerprint=None, mtu=None)
    return [finding.code for finding in hello_findings(answer, "there")]


def test_versions_and_clocks_are_said() -> None:
    assert greeted() == []
    assert greeted(version="9.9") == ["BS2015"]
    assert greeted(control=2) == ["BS2016"]
    assert greeted(version=None) == ["BS2005"]
    late = Answer(status=200, said={"control": 1, "version": "x"}, clock_skew=-90.0, fingerprint=None, mtu=None)
    skew = list(hello_findings(late, "there"))[-1]
    assert (skew.code, "90 s behind" in skew.what) == ("BS2014", True)


def test_sizes() -> None:
    assert [size_of(count) for count in (0, 999, 1024, 1.5 * GIB, 3 << 40)] == [
        "0 B",
        "999 B",
        "1.0 KiB",
        "1.5 GiB",
        "3.0 TiB",
    ]

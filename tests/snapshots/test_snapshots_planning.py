"""Sizes, records, what lvm2 prints: the parts of snapshots that need no device-mapper."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blocksync.errors import SnapshotError, UsageError
from blocksync.snapshots import Wishes, take
from blocksync.snapshots.cleaning import clean
from blocksync.snapshots.records import Record, Records, began_of
from blocksync.snapshots.sizing import LEAST_BYTES, Origin, divide, most_useful, wanted
from blocksync.snapshots.volumes import Volume, device_name, parse_volumes
from tests.devices import image, loop_device, need_root

MIB, GIB = 1 << 20, 1 << 30


def origin(size: int, rate: float = 0.0) -> Origin:
    return Origin(size=size, written_a_second=rate)


def test_a_quiet_volume_gets_a_tenth_and_a_busy_one_what_it_writes_meanwhile() -> None:
    assert wanted(origin(100 * GIB)) == 10 * GIB
    # 100 GiB at 100 MB/s take 1074 s; twice 20 MB/s over that time are 43 GB.
    assert wanted(origin(100 * GIB, 20e6)) == pytest.approx(2 * 20e6 * 100 * GIB / 1e8, rel=0.01)
    assert wanted(origin(100 * GIB, 1e9)) == most_useful(100 * GIB)
    assert wanted(origin(16 * MIB)) == most_useful(16 * MIB)


@given(
    st.lists(st.tuples(st.integers(1, 1 << 44), st.floats(0, 1e10)), min_size=1, max_size=6),
    st.integers(0, 1 << 45),
    st.sampled_from([MIB, 4 * MIB, 32 * MIB]),
)
def test_a_group_shares_the_free_space(facts: list[tuple[int, float]], free: int, unit: int) -> None:
    free = free // unit * unit
    origins = [origin(size, rate) for size, rate in facts]
    sizes = divide(origins, free, unit)
    if sizes is None:
        assert free < len(origins) * (LEAST_BYTES + unit)
        return
    assert sum(sizes) <= free
    for each, size in zip(origins, sizes, strict=True):
        assert size % unit == 0
        assert min(LEAST_BYTES, most_useful(each.size)) <= size <= most_useful(each.size) + unit


def test_hyphens_are_doubled_in_device_names() -> None:
    assert device_name("my-vg", "a-b") == "my--vg-a--b"


ROW = {
    "vg_name": "vg-0",
    "lv_name": "blocksync_1",
    "lv_uuid": "u",
    "lv_path": "/dev/vg-0/blocksync_1",
    "lv_dm_path": "/dev/mapper/vg--0-blocksync_1",
    "lv_size": "33554432",
    "lv_layout": "linear",
    "lv_role": "public,snapshot",
    "pool_lv": "",
    "origin": "root",
    "lv_tags": "blocksync.abc,other",
    "lv_active": "active",
    "lv_kernel_major": "252",
    "lv_kernel_minor": "7",
    "vg_free": "1048576",
    "vg_extent_size": "4194304",
    "chunk_size": "4096",
    "thin_id": "",
}


def test_a_report_of_lvs_is_read() -> None:
    (volume,) = parse_volumes(json.dumps({"report": [{"lv": [ROW]}]}))
    assert (volume.text, volume.device, volume.size, volume.chunk) == (
        "vg-0/blocksync_1",
        "vg--0-blocksync_1",
        32 * MIB,
        4096,
    )
    assert volume.number == os.makedev(252, 7)
    assert volume.snapshot
    assert not volume.thin
    assert volume.tags == {"blocksync.abc", "other"}


@pytest.mark.parametrize("text", ["", "{}", '{"report": [{"lv": [{}]}]}', "[]", '{"report": 1}'])
def test_what_is_no_report_is_a_typed_error(text: str) -> None:
    with pytest.raises(SnapshotError):
        parse_volumes(text)


def test_records_know_the_living_from_the_dead(tmp_path: Path) -> None:
    records = Records(folder=tmp_path)
    with records.running("one"):
        (record,) = records.all()
        assert record.alive
        records.update("one", suspended=("vg-a",))
        assert records.all()[0].suspended == ("vg-a",)
    assert records.all() == []
    with subprocess.Popen([sys.executable, "-c", "pass"]) as child:
        began = began_of(child.pid)
    records.write(Record(transfer="gone", pid=child.pid, began=began))
    # The number of a process that lives, begun at another time: reused.
    records.write(Record(transfer="reused", pid=os.getpid(), began=1))
    (tmp_path / "damaged.json").write_text("{")
    assert [record.alive for record in records.all()] == [False, False]


def test_cleaning_forgets_the_dead_and_leaves_the_living(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = Records(folder=tmp_path)
    monkeypatch.setattr("blocksync.snapshots.cleaning.installed", lambda: False)
    records.write(
        Record(transfer="gone", pid=1, began=1, suspended=("no-such-device",), frozen=("/no/such/place",))
    )
    with records.running("here"):
        monkeypatch.setattr("blocksync.platforms.devicemapper.is_suspended", lambda _name: False)
        assert clean(records) == []
        assert [record.transfer for record in records.all()] == ["here"]


def tagged(name: str, *tags: str, origin: str = "root", transfer: str = "") -> Volume:
    row = {
        **ROW,
        "lv_name": name,
        "lv_tags": ",".join(tags),
        "origin": origin,
        "lv_dm_path": f"/dev/mapper/vg--0-{name}",
    }
    return parse_volumes(json.dumps({"report": [{"lv": [row]}]}))[0]


def test_only_snapshots_of_ours_are_ever_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    volumes = [
        tagged("data", "blocksync.dead", origin=""),  # somebody tagged a volume with words like ours
        tagged("root_snap", "blocksync.dead"),  # a snapshot of somebody else's
        tagged("blocksync_1", "other"),
        tagged("blocksync_2", "blocksync.dead"),
        tagged("blocksync_3", "blocksync.kept"),
        tagged("blocksync_4", "blocksync.here"),
        tagged("blocksync_5", "blocksync.dead", origin=""),
    ]
    removed: list[str] = []
    monkeypatch.setattr("blocksync.snapshots.cleaning.installed", lambda: True)
    monkeypatch.setattr("blocksync.snapshots.cleaning.list_volumes", lambda: volumes)
    monkeypatch.setattr("blocksync.snapshots.cleaning.remove", lambda taken: removed.append(taken.name))
    records = Records(folder=tmp_path)
    with records.running("here"):
        clean(records)
        assert removed == ["blocksync_2"]
        clean(records, kept=True)
        assert removed == ["blocksync_2", "blocksync_2", "blocksync_3"]


# -- what is no logical volume
# ------------------------------------------------------------------------------------------


def test_auto_reads_what_no_snapshot_can_be_taken_of(tmp_path: Path) -> None:
    path = image(tmp_path / "disk.img", MIB, b"x")
    with take([str(path)], "auto", Wishes(records=Records(folder=tmp_path / "run"))) as (source,):
        assert source.capabilities.consistency == "live"
        assert source.tracker is None
    need_root()
    with loop_device(path) as device, take([device]) as (source,):
        assert source.capabilities.consistency == "live"


def test_insisting_on_what_cannot_be_is_an_error(tmp_path: Path) -> None:
    path = image(tmp_path / "disk.img", MIB, b"x")
    with pytest.raises(SnapshotError, match="no logical volume"), take([str(path)], "lvm"):
        pass
    with pytest.raises(UsageError), take([str(path)], "zfs"):
        pass

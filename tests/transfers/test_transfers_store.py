"""Records that are durable, whole or damaged; one process a source; what expires and what is collected."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from pathlib import Path

import pytest

from blocksync.errors import StateDamagedError, StateError, TransferRunningError, TransferUnknownError
from blocksync.transfers.door import Door, ask
from blocksync.transfers.figures import status_of
from blocksync.transfers.record import KEPT_PASSES, DiskRecord, Fault, PassRecord, TransferRecord, decode, encode
from blocksync.transfers.states import DAY_SECONDS, TransferState
from blocksync.transfers.store import LiveTransfer, TransferStore

DISK = DiskRecord(source="/dev/sda", identity="device:1", slot="a", size=4096)
OTHER = DiskRecord(source="/dev/sdb", identity="device:2", slot="b", size=4096)


@pytest.fixture
def store(tmp_path: Path) -> TransferStore:
    return TransferStore(tmp_path)


def take(store: TransferStore, *disks: DiskRecord, now: float = 1000.0) -> LiveTransfer:
    return store.take(to="host", receiver=bytes(32), disks=disks or (DISK,), validity_days=30, now=now)


def a_pass(number: int = 1, slot: str = "a", **more: object) -> PassRecord:
    facts = dict.fromkeys(("generation", "read", "changed", "zero", "wire", "resent", "resumed", "retries"), 0)
    told = {"kind": "full", "began": 1.0, "seconds": 2.0, "bottleneck": "", "root": "", "consistency": "live"}
    return PassRecord(**{**facts, **told, "number": number, "slot": slot, **more})  # type: ignore[arg-type]


def a_record() -> TransferRecord:
    record = TransferRecord(
        id="ab" * 8,
        to="höst",
        receiver="00" * 32,
        disks=(DISK, OTHER),
        state=TransferState.FAILED,
        created=1.5,
        touched=2.0,
        fault=Fault(code="BS0800", message="cut", remedy="wait"),
    )
    return record.with_pass((a_pass(slot="a"), a_pass(slot="b")))


def test_a_record_comes_back_as_it_was() -> None:
    assert decode(encode(a_record()), "x") == a_record()


def test_any_byte_changed_is_told() -> None:
    raw = encode(a_record())
    for at in range(len(raw)):
        damaged = raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]
        try:
            read = decode(damaged, "x")
        except StateDamagedError:
            continue
        assert read == a_record(), at  # only a change that means the same (the case of an escape) may pass
    for length in range(len(raw) - 1):
        with pytest.raises(StateDamagedError):
            decode(raw[:length], "x")


@pytest.mark.parametrize(
    "change",
    [
        {"state": "odd"},
        {"created": "now"},
        {"disks": [{}]},
        {"more": 1},
        {"pass_count": True},
        {"fault": {"code": 1}},
    ],
)
def test_a_record_of_another_shape_is_refused_even_with_a_checksum(change: dict[str, object]) -> None:
    from blocksync.transfers.record import _checksum, canonical

    content = {**json.loads(encode(a_record()))["record"], **change}
    raw = json.dumps({"checksum": _checksum(canonical(content)), "record": content, "version": 1}).encode()
    with pytest.raises(StateDamagedError):
        decode(raw, "x")


def test_passes_are_kept_within_bounds() -> None:
    record = a_record()
    for number in range(2, KEPT_PASSES + 10):
        record = record.with_pass((a_pass(number),))
    assert len(record.passes) == KEPT_PASSES
    assert record.pass_count == KEPT_PASSES + 9


def test_sending_again_takes_the_transfer_up(store: TransferStore) -> None:
    with contextlib.closing(take(store)) as live:
        live.move(TransferState.PREPARING, 1001.0)
        live.move(TransferState.SYNCING, 1002.0)
        first = live.record.id
    # As a kill would leave it.
    assert store.load(first).state is TransferState.SYNCING
    with contextlib.closing(take(store, now=2000.0)) as live:
        assert live.record.id == first
        assert live.record.state is TransferState.STOPPED
    with contextlib.closing(take(store, DISK, OTHER)) as live:
        assert live.record.id != first


def test_a_finished_or_expired_transfer_is_not_taken_up(store: TransferStore) -> None:
    with contextlib.closing(take(store)) as live:
        first = live.record.id
        for state in (TransferState.PREPARING, TransferState.PROCESSING, TransferState.FINISHED):
            live.move(state, 1001.0)
    with contextlib.closing(take(store)) as live:
        second = live.record.id
        assert second != first
        live.move(TransferState.PREPARING, 1002.0)
    with contextlib.closing(take(store, now=1002.0 + 30 * DAY_SECONDS)) as live:
        assert live.record.id not in (first, second)


def test_one_running_transfer_a_source(store: TransferStore) -> None:
    with contextlib.closing(take(store, DISK, OTHER)):
        with pytest.raises(TransferRunningError, match="/dev/sdb is being sent"):
            take(store, dataclasses.replace(OTHER, slot="elsewhere"))
        with pytest.raises(TransferRunningError):
            store.remove(store.names()[0])
    with contextlib.closing(take(store, OTHER)):
        pass


def test_what_is_meant(store: TransferStore) -> None:
    with contextlib.closing(take(store)) as live, contextlib.closing(take(store, OTHER)) as other:
        assert store.find(live.record.id) == live.record
        assert store.find(live.record.id[:6]) == live.record
        assert store.find("/dev/sdb") == other.record
        for nobody in ("/dev/sdc", live.record.id[:3], ""):
            with pytest.raises(TransferUnknownError):
                store.find(nobody)


def test_idle_transfers_expire_and_are_collected(store: TransferStore) -> None:
    with contextlib.closing(take(store)) as live:
        live.move(TransferState.PREPARING, 1000.0)
        over = 1000.0 + 30 * DAY_SECONDS
        assert store.age(over) == ([], [])  # it is being worked on
    assert store.age(over - 1) == ([], [])
    assert store.age(over) == ([live.record.id], [])
    assert store.load(live.record.id).state is TransferState.EXPIRED
    assert store.age(over + 7 * DAY_SECONDS - 1) == ([], [])
    expired, collected = store.age(over + 7 * DAY_SECONDS)
    assert (expired, [record.id for record in collected]) == ([], [live.record.id])
    assert store.names() == []


def test_a_damaged_record_is_told_and_does_not_hide_the_others(store: TransferStore) -> None:
    with contextlib.closing(take(store)) as live, contextlib.closing(take(store, OTHER)) as other:
        pass
    path = store.folder(live.record.id) / "record.json"
    path.write_bytes(path.read_bytes().replace(b"/dev/sda", b"/dev/sdx"))
    with pytest.raises(StateDamagedError, match="checksum"):
        store.load(live.record.id)
    assert [record.id for record in store.load_all()] == [other.record.id]
    store.remove(live.record.id)


def test_the_lag_is_that_of_the_disk_furthest_behind() -> None:
    record = dataclasses.replace(a_record(), passes=(a_pass(1, "a", began=100.0), a_pass(1, "b", began=100.0)))
    record = record.with_pass((a_pass(2, "a", began=200.0, kind="incremental"),))
    assert status_of(record, 250.0, running=True).lag == 150.0
    assert status_of(dataclasses.replace(record, passes=()), 250.0, running=False).lag is None


def test_a_process_that_is_gone_leaves_a_stopped_transfer() -> None:
    record = dataclasses.replace(a_record(), state=TransferState.SYNCING)
    assert status_of(record, 0.0, running=True).state == "syncing"
    assert status_of(record, 0.0, running=False).state == "stopped"


# -- the local control socket ---------------------------------------------------------------------------------------


def test_requests_are_answered_also_in_a_deep_folder(tmp_path: Path) -> None:
    folder = tmp_path / ("d" * 100) / ("e" * 100)
    folder.mkdir(parents=True)
    assert ask(folder, {"op": "x"}) is None
    with Door(folder, lambda said: {"heard": said["op"]}):
        assert (folder / "control").stat().st_mode & 0o777 == 0o600
        assert ask(folder, {"op": "x"}) == {"ok": True, "heard": "x"}
        with pytest.raises(StateError, match="cannot be understood"):
            ask(folder, {})
    assert ask(folder, {"op": "x"}) is None


def test_a_refusal_is_told_with_its_remedy(tmp_path: Path) -> None:
    def refuse(_said: object) -> dict[str, object]:
        raise StateError("not now", remedy="later")

    with Door(tmp_path, refuse), pytest.raises(StateError, match="not now") as told:
        ask(tmp_path, {})
    assert told.value.remedy == "later"


def test_a_socket_left_by_a_killed_process_is_no_answer(tmp_path: Path) -> None:
    import socket

    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "control"))
    assert ask(tmp_path, {}) is None
    with Door(tmp_path, lambda _said: {}):
        assert ask(tmp_path, {}) == {"ok": True}

from __future__ import annotations

import errno
import fcntl
import os
import stat
import threading
from pathlib import Path

import pytest

from blocksync.errors import StateDamagedError, StateError
from blocksync.trust import filelock, store
from blocksync.trust.filelock import locked
from blocksync.trust.store import JsonStore


def _number(value: object) -> int:
    if not isinstance(value, dict) or set(value) != {"n"} or not isinstance(value["n"], int):
        raise ValueError("no number")
    return value["n"]


@pytest.fixture
def numbers(private: Path) -> JsonStore[int]:
    return JsonStore(private / "state" / "n.json", version=1, key="all", parse=_number, dump=lambda n: {"n": n})


def _save(numbers: JsonStore[int], *values: int) -> None:
    with numbers.changing():
        numbers.save(values)


def test_no_file_is_no_items_and_nothing_is_made_by_asking(numbers: JsonStore[int], private: Path) -> None:
    assert numbers.load() == ()
    assert list(private.iterdir()) == []


def test_saved_privately_and_loaded(numbers: JsonStore[int], private: Path) -> None:
    before = os.umask(0)
    try:
        _save(numbers, 1, 2)
    finally:
        os.umask(before)
    assert numbers.load() == (1, 2)
    assert stat.S_IMODE((private / "state").stat().st_mode) == 0o700
    assert stat.S_IMODE((private / "state" / "n.json").stat().st_mode) == 0o600


def test_another_process_s_change_shows_even_with_the_same_times_and_size(
    numbers: JsonStore[int], private: Path
) -> None:
    path = private / "state" / "n.json"
    _save(numbers, 1)
    assert numbers.load() == (1,)
    status = path.stat()
    with path.open("r+b") as file:  # the same inode, too
        file.write(path.read_bytes().replace(b"1\n", b"7\n"))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert numbers.load() == (7,)
    path.unlink()
    assert numbers.load() == ()


def test_an_unchanged_file_is_not_parsed_again(private: Path) -> None:
    calls: list[object] = []

    def parse(value: object) -> int:
        calls.append(value)
        return _number(value)

    numbers = JsonStore(private / "n.json", version=1, key="all", parse=parse, dump=lambda n: {"n": n})
    _save(numbers, 1)
    for _ in range(5):
        numbers.load()
    assert len(calls) == 1


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"{}",
        b"\xff\xfe",
        b'{"version": 1}',
        b'{"version": 2, "all": []}',
        b'{"version": 1, "all": {}}',
        b'{"version": 1, "all": [{"n": "1"}]}',
        b'{"version": 1, "all": [], "more": 1}',
        b"[" * 200_000,
        b'{"version": 1, "all": [' + b"[" * 100_000,
        b'{"version": ' + b"9" * 100_000 + b', "all": []}',
    ],
    ids=lambda data: repr(data[:30]),
)
def test_a_damaged_file_is_told_with_a_remedy_and_kept(numbers: JsonStore[int], private: Path, data: bytes) -> None:
    _save(numbers, 1)
    path = private / "state" / "n.json"
    path.write_bytes(data)
    for _ in range(2):  # the second answer is no cached older one
        with pytest.raises(StateDamagedError) as caught:
            numbers.load()
    assert str(path) in str(caught.value)
    assert str(path) in caught.value.remedy
    assert path.read_bytes() == data


def test_open_to_others_or_too_large_is_refused(
    numbers: JsonStore[int], private: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _save(numbers, 1)
    path = private / "state" / "n.json"
    path.chmod(0o644)
    with pytest.raises(StateError, match="others may read"):
        numbers.load()
    path.chmod(0o600)
    monkeypatch.setattr(store, "STORE_BYTES", 100)
    with pytest.raises(StateError, match="would become too large"):
        _save(numbers, *range(10))
    assert numbers.load() == (1,)
    path.write_bytes(b" " * 101)
    with pytest.raises(StateError, match="larger than"):
        numbers.load()


@pytest.mark.parametrize("call", ["fsync", "replace", "open"])
def test_a_failing_write_leaves_the_old_file(
    numbers: JsonStore[int], private: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    _save(numbers, 1)
    real_open = os.open

    def fail(*arguments: object, **_: object) -> int:
        if call == "open" and not str(arguments[0]).endswith(".new"):
            return real_open(*arguments)  # type: ignore[arg-type]
        raise OSError(errno.ENOSPC, "full")

    with numbers.changing():
        monkeypatch.setattr(os, call, fail)
        with pytest.raises(StateError, match=r"cannot write .*No space"):
            numbers.save([2])
        monkeypatch.undo()
    assert numbers.load() == (1,)
    assert sorted(path.name for path in (private / "state").iterdir()) == ["n.json", "n.json.lock"]


def test_the_file_is_durable_before_its_name_and_its_name_before_the_answer(
    numbers: JsonStore[int], private: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    real_sync, real_replace = os.fsync, os.replace

    def sync(descriptor: int) -> None:
        steps.append("sync folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "sync file")
        real_sync(descriptor)

    def rename(source: Path, target: Path) -> None:
        steps.append("rename")
        real_replace(source, target)

    (private / "state").mkdir(mode=0o700)
    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "replace", rename)
    _save(numbers, 1)
    assert steps == ["sync file", "rename", "sync folder"]


def test_a_file_that_somebody_makes_in_the_meantime_is_not_written_into(
    numbers: JsonStore[int], private: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _save(numbers, 1)
    planted = private / "state" / "n.json.new"
    planted.write_bytes(b"theirs")
    monkeypatch.setattr(Path, "unlink", lambda self, missing_ok=False: None)  # as if it came just after
    with pytest.raises(StateError, match="File exists"):
        _save(numbers, 2)
    assert planted.read_bytes() == b"theirs"
    assert numbers.load() == (1,)


def test_changes_of_many_threads_are_all_kept(numbers: JsonStore[int]) -> None:
    def add(number: int) -> None:
        with numbers.changing():
            numbers.save([*numbers.load(), number])

    threads = [threading.Thread(target=add, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(numbers.load()) == list(range(16))


def _free(path: Path) -> bool:
    with path.open("r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def _fail_inside(path: Path) -> None:
    with locked(path):
        assert not _free(path)
        raise RuntimeError


def test_the_lock_excludes_and_is_released_by_an_error(private: Path) -> None:
    path = private / "x.lock"
    with pytest.raises(RuntimeError):
        _fail_inside(path)
    assert _free(path)


def test_a_lock_that_is_a_planted_link_is_refused(numbers: JsonStore[int], private: Path) -> None:
    _save(numbers, 1)
    lock = private / "state" / "n.json.lock"
    lock.unlink()
    lock.symlink_to(private / "victim")
    with pytest.raises(StateError, match="cannot lock"):
        _save(numbers, 2)
    assert not (private / "victim").exists()


def test_a_lock_that_cannot_be_given_back_is_given_back_by_closing(
    monkeypatch: pytest.MonkeyPatch, private: Path
) -> None:
    def broken(_descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(filelock, "_unlock", broken)
    for _ in range(2):
        with filelock.locked(private / "x.lock"):
            pass

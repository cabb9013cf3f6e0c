"""A disk is not sent to itself: told before anybody is asked for a code, and by the receiver in any case."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from blocksync import api
from blocksync.api import (
    CheckOptions,
    DiskSpec,
    EstimateOptions,
    SendOptions,
    TransferOptions,
    VerifyOptions,
)
from blocksync.engine.port import PeerPort
from blocksync.errors import TargetRefusedError
from blocksync.platforms import likeness
from blocksync.platforms.likeness import MOST_MARKS, marks_of, recognised
from blocksync.protocol.messages import CONTROL_VERSION, MAX_TEXT_CHARACTERS, DivideRequest
from tests.devices import image, loop_device, need_root
from tests.engine.test_engine_busy import OPEN, OURS
from tests.serving import Receiver, receiver

MIB = 1 << 20


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Receiver]:
    with receiver(tmp_path) as made:
        yield made


def names_of(path: Path) -> list[str]:
    """The same file by other names."""
    hard, soft = path.with_name("hard.img"), path.with_name("soft.img")
    os.link(path, hard)
    soft.symlink_to(path)
    return [str(path), str(hard), str(soft), os.path.relpath(path), f"{path}#2"]


def never(reason: str) -> str:
    raise AssertionError(f"asked for a code: {reason}")


def test_it_is_refused_by_any_name_and_before_pairing(served: Receiver, tmp_path: Path) -> None:
    state = tmp_path / "sender"
    for name in names_of(tmp_path / "a.img")[:4]:
        wanted = SendOptions(to=served.to, slot="b", state_dir=state, ask_code=never)
        attempts: list[Callable[[], object]] = [
            lambda name=name, wanted=wanted: api.transfer([DiskSpec(source=name)], TransferOptions(send=wanted)),
            lambda name=name, wanted=wanted: api.estimate(
                name, EstimateOptions(to=served.to, state_dir=state, ask_code=never)
            ),
            lambda name=name: api.verify(name, VerifyOptions(to=served.to, state_dir=state, ask_code=never)),
        ]
        for attempt in attempts:
            with pytest.raises(TargetRefusedError, match="BS2406") as told:
                attempt()
            assert told.value.remedy
            assert told.value.exit_code == 5


def test_check_tells_it_too(served: Receiver, tmp_path: Path) -> None:
    looked = api.check(
        CheckOptions(sources=(str(tmp_path / "a.img"),), to=served.to, state_dir=tmp_path / "sender", system=False)
    )
    assert "BS2406" in [finding.code for finding in looked.findings]


def test_another_disk_is_sent(served: Receiver, tmp_path: Path) -> None:
    other = image(tmp_path / "other.img", MIB, b"other")
    wanted = SendOptions(to=served.to, slot="a", code=served.listening.code, state_dir=tmp_path / "sender")
    assert api.send(str(other), wanted).generation == 1


def test_the_receiver_refuses_by_itself(served: Receiver, tmp_path: Path) -> None:
    port = PeerPort(served.serving._receiver, OURS)
    served.serving._receiver._allowed = lambda _peer, _slot: True
    marks = marks_of([str(tmp_path / "a.img")])
    with pytest.raises(TargetRefusedError, match="is the source itself"):
        port.open(dataclasses.replace(OPEN, marks=marks))
    plan = DivideRequest(version=CONTROL_VERSION, slot="a", replace=True, plan={}, marks=marks)
    with pytest.raises(TargetRefusedError, match="is the source itself"):
        port.divide(plan)


def test_what_a_target_stands_on_and_what_stands_on_it(tmp_path: Path) -> None:
    need_root()
    backing = image(tmp_path / "disk.img", 16 * MIB)
    other = image(tmp_path / "other.img", 16 * MIB)
    with loop_device(backing) as device, loop_device(backing) as second, loop_device(other) as apart:
        for one, another in ((device, backing), (backing, device), (device, second), (f"{backing}#2", device)):
            assert recognised(marks_of([str(one)]), os.stat(another)), (one, another)
        for one, another in ((device, apart), (apart, backing), (other, backing)):
            assert not recognised(marks_of([str(one)]), os.stat(another)), (one, another)


def test_marks_tell_a_stranger_nothing_and_bad_ones_are_nobodys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(image(tmp_path / "disk.img", MIB))
    marks = marks_of([path])
    assert marks != marks_of([path])
    assert len(marks) <= MAX_TEXT_CHARACTERS
    status = os.stat(path)
    nonce, first = marks.split(":")[:2]
    many = ":".join([nonce, *[first] * (MOST_MARKS + 1)])
    for bad in ("", nonce, f"{nonce}:", f"{nonce}:x{first[1:]}", marks[:-1], marks.upper(), f"00{marks[2:]}", many):
        assert not recognised(bad, status), bad
    assert recognised(marks, status)
    monkeypatch.setattr(likeness, "boot_key", lambda: b"another kernel")
    assert not recognised(marks, status)
    monkeypatch.setattr(likeness, "boot_key", lambda: b"")
    assert (marks_of([path]), recognised(marks, status)) == ("", False)


def test_what_is_no_path_has_no_marks() -> None:
    assert marks_of(["nbd://host/export", "", "no such file", "a\0b"]) == ""


def test_so_many_disks_that_their_marks_fill_a_field(tmp_path: Path) -> None:
    names = [str(image(tmp_path / f"{number}.img", MIB)) for number in range(MOST_MARKS + 20)]
    assert len(marks_of(names)) <= MAX_TEXT_CHARACTERS

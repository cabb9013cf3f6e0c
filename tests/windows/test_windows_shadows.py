"""Shadow copies through a simulated VSS: taken together, told truly, tried again, removed also after a kill."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from shadows_simulated import Killed, Tools
from test_windows_sources import DISK, LENGTH, SHADOW, SIZE, START, make_machine
from windows_simulated import VOLUME, Machine

from blocksync import api
from blocksync.engine.serving import Serving
from blocksync.engine.statedir import prepare
from blocksync.errors import BlocksyncError, ShadowCopyError, SnapshotSpaceError
from blocksync.options import ReceiveOptions, SendOptions, TargetSpec
from blocksync.platforms import automation, shadowtools, windows
from blocksync.snapshots import Wishes, cleaning, take
from blocksync.snapshots.vss import Shadows
from blocksync.snapshots.vss_codes import CREATE_RETURNS, TROUBLES
from blocksync.sources import windows as windows_sources

OTHER = "\\\\?\\Volume{99999999-2222-3333-4444-555555555555}\\"
HEADER = Path("/usr/x86_64-w64-mingw32/include/vsserror.h")


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return make_machine(tmp_path)


@pytest.fixture
def tools(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> Tools:
    made = Tools(machine, {VOLUME: SHADOW, OTHER: SHADOW})
    machine.devices["\\\\.\\C:"] = machine.devices[VOLUME.rstrip("\\")]
    monkeypatch.setattr(windows, "system_calls", lambda: machine)
    monkeypatch.setattr(windows_sources, "system_calls", lambda: machine)
    monkeypatch.setattr(shadowtools, "system_tools", lambda: made)
    return made


def shadows_of(tools: Tools, folder: Path, waits: list[float], told: list[str] | None = None) -> Shadows:
    say = told.append if told is not None else (lambda _message: None)
    return Shadows(tools, folder, wait=waits.append, say=say)


def test_a_set_of_several_volumes_is_made_with_the_writers_and_leaves_nothing(tools: Tools, tmp_path: Path) -> None:
    folder, waits = tmp_path / "shadows", list[float]()
    foreign = tools._copy([VOLUME])[0]
    with shadows_of(tools, folder, waits).taken([VOLUME, OTHER], "t1") as found:
        assert found.consistency == "application"
        assert [copy.volume for copy in found.copies] == [VOLUME, OTHER]
        assert len({copy.group for copy in found.copies}) == 1
        assert len(tools.copies) == 3
    assert tools.copies == [foreign], "somebody else's copy stays"
    assert list(folder.iterdir()) == []
    assert waits == []


def test_writers_that_failed_make_it_one_instant_and_no_more(tools: Tools, tmp_path: Path) -> None:
    tools.writers = 8
    with shadows_of(tools, tmp_path / "s", []).taken([VOLUME], "t") as found:
        assert found.consistency == "crash-group"
        assert "SqlServerWriter (state 8)" in found.notes[0]


def test_without_diskshadow_each_volume_is_of_its_own_instant(tools: Tools, tmp_path: Path) -> None:
    tools.server = False
    with shadows_of(tools, tmp_path / "s", []).taken([VOLUME, OTHER], "t") as found:
        assert found.consistency == "crash"
        assert "without the writers" in found.notes[0]
        assert tools.ran.count("create") == 2
    assert tools.copies == []


@pytest.mark.parametrize("number", sorted(TROUBLES))
def test_each_answer_is_tried_again_as_often_as_it_is_worth_and_no_more(
    tools: Tools, tmp_path: Path, number: int
) -> None:
    trouble, waits = TROUBLES[number], list[float]()
    tools.troubles = [f"0x{number:08x}"] * 100
    shadows = shadows_of(tools, tmp_path / "s", waits)
    with (
        pytest.raises(
            ShadowCopyError if number not in (0x80042312, 0x80042317, 0x8004231F) else SnapshotSpaceError
        ) as told,
        shadows.taken([VOLUME], "t"),
    ):
        raise AssertionError
    assert trouble.name in str(told.value)
    assert told.value.remedy == trouble.remedy
    assert tools.ran.count("diskshadow") == trouble.tries
    assert len(waits) == trouble.tries - 1
    assert sum(waits) <= 1200
    tools.troubles = [f"0x{number:08x}"] * (trouble.tries - 1)
    with shadows.taken([VOLUME], "t") as found:
        assert found.consistency == "application"
    assert (tools.copies, list((tmp_path / "s").iterdir())) == ([], [])


def test_return_values_of_create_say_what_the_numbers_say(tools: Tools, tmp_path: Path) -> None:
    tools.server = False
    assert sorted(CREATE_RETURNS) == list(range(1, 14))
    waits = list[float]()
    tools.troubles = ["9", "9"]
    with shadows_of(tools, tmp_path / "s", waits).taken([VOLUME], "t"):
        assert waits == [30, 60]
    for value in ("1", "13", "99"):
        tools.troubles = [value]
        with (
            pytest.raises(ShadowCopyError, match="makes no shadow copy"),
            shadows_of(tools, tmp_path / "s", []).taken([VOLUME], "t"),
        ):
            raise AssertionError


def test_names_of_numbers_are_those_of_the_header() -> None:
    """mingw-w64's ``vsserror.h``."""
    names = dict(re.findall(r"#define VSS_E_(\w+) \(\(HRESULT\)0x([0-9A-F]{8})\)", HEADER.read_text()))
    known = {int(number, 16): name for name, number in names.items()}
    assert len(known) > 40
    for number, trouble in TROUBLES.items():
        if number != 0x80070005:
            assert known[number] == trouble.name
    assert set(CREATE_RETURNS.values()) - set(known) == {0x80070005, 0x80070057}


@pytest.mark.parametrize("when", ["diskshadow", "list", "writers"])
def test_after_a_kill_the_copies_are_found_and_removed(
    tools: Tools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """The kill comes as soon as a program has printed; what the process would have undone is left undone."""
    folder = tmp_path / "state" / "shadows"
    foreign = tools._copy([VOLUME])[0]
    tools.alive[os.getpid()] = 5
    # What other tests have left on this machine is not ours to find.
    monkeypatch.setattr(cleaning, "clean", lambda **_given: [])
    monkeypatch.setattr(automation, "clean", list)

    def die(what: str) -> None:
        if what == when:
            raise Killed

    tools.after = die
    shadows = shadows_of(tools, folder, [])
    shadows._undo = lambda *_given: (_ for _ in ()).throw(Killed)  # type: ignore[method-assign, assignment]
    with pytest.raises(Killed), shadows.taken([VOLUME], "t"):
        raise AssertionError
    tools.after = lambda _what: None
    assert len(tools.copies) == 2
    assert api.clean_snapshots(state_dir=tmp_path / "state") == [], "its process still runs"
    tools.alive[os.getpid()] = 6
    (line,) = api.clean_snapshots(state_dir=tmp_path / "state")
    assert line.startswith("removed the shadow copy")
    assert tools.copies == [foreign]
    assert not list(folder.glob("t.*"))


def test_the_next_transfer_removes_what_a_dead_one_left(tools: Tools, tmp_path: Path) -> None:
    folder = tmp_path / "s"
    folder.mkdir()
    left = tools._copy([VOLUME])[0]
    (folder / "old.json").write_text('{"pid": 4, "began": 1}')
    (folder / "old.log").write_text(f"Shadow copy ID = {left.number}\r\n")
    (folder / "torn.json").write_text("{")
    with shadows_of(tools, folder, []).taken([VOLUME], "t") as found:
        assert [copy.copy for copy in found.copies] == [copy.number for copy in tools.copies]
    assert (tools.copies, list(folder.iterdir())) == ([], [])


def test_a_copy_that_cannot_be_removed_is_told_and_remembered(tools: Tools, tmp_path: Path) -> None:
    folder, told = tmp_path / "s", list[str]()
    tools.removals_fail = True
    with (
        pytest.raises(ShadowCopyError, match="cannot remove") as error,
        shadows_of(tools, folder, []).taken([VOLUME], "t"),
    ):
        pass
    assert "vssadmin delete shadows /shadow={" in error.value.remedy
    assert (folder / "t.json").exists()
    with (
        pytest.raises(ValueError, match="first"),
        Shadows(tools, tmp_path / "r", say=told.append).taken([VOLUME], "t"),
    ):
        raise ValueError("first")
    assert "cannot remove" in told[0]


def test_a_set_has_a_bound(tools: Tools, tmp_path: Path) -> None:
    with (
        pytest.raises(ShadowCopyError, match="64"),
        shadows_of(tools, tmp_path / "s", []).taken([str(number) for number in range(65)], "t"),
    ):
        raise AssertionError


def test_auto_reads_what_vss_refuses_as_it_is_and_says_so(tools: Tools, tmp_path: Path) -> None:
    tools.troubles = ["0x80042306"] * 2
    told: list[str] = []
    wishes = Wishes(shadows=tmp_path / "s", say=told.append)
    with take([DISK], "auto", wishes) as (source,):
        assert source.capabilities.consistency == "live"
    assert "PROVIDER_VETO" in told[0]
    with pytest.raises(ShadowCopyError, match="PROVIDER_VETO"), take([DISK], "vss", wishes):
        raise AssertionError
    assert tools.machine.opened == {}


def test_a_volume_by_its_letter_keeps_its_identity(tools: Tools, tmp_path: Path) -> None:
    with take(["C:"], "none") as (plain,):
        identity = plain.identity
    with take(["C:"], "vss", Wishes(shadows=tmp_path / "s")) as (source,):
        assert (source.identity, source.name) == (identity, "C:")
        assert source.capabilities.consistency == "application"
        assert source.told is not None
    assert tools.machine.opened == {}


def test_insisting_names_what_cannot_have_a_copy(tools: Tools, tmp_path: Path) -> None:
    wishes = Wishes(shadows=tmp_path / "s")
    image = tmp_path / "image"
    image.write_bytes(bytes(1 << 20))
    with pytest.raises(ShadowCopyError, match="no volume that VSS"), take([str(image)], "vss", wishes):
        raise AssertionError
    tools.machine.extents[VOLUME].append((1, 0, LENGTH))
    with pytest.raises(ShadowCopyError, match="lies on more than the disk"), take([DISK], "vss", wishes):
        raise AssertionError


def test_elsewhere_than_on_windows_it_is_a_typed_error(tmp_path: Path) -> None:
    with pytest.raises(ShadowCopyError, match="runs Windows"), take(["/dev/null"], "vss"):
        raise AssertionError
    with pytest.raises(BlocksyncError, match="cannot open the source"), take([DISK], "auto"):
        raise AssertionError


def test_a_whole_disk_is_sent_from_its_shadow_copies(tools: Tools, machine: Machine, tmp_path: Path) -> None:
    """The library's ``send`` to a receiver: what is written after the copy was made is not on the target."""
    live = machine.devices[DISK].image

    def written_meanwhile(what: str) -> None:
        if what == "diskshadow":
            with live.open("r+b") as file:
                for offset in range(START + (1 << 20), START + LENGTH, 2 << 20):
                    file.seek(offset)
                    file.write(os.urandom(8192))

    tools.after = written_meanwhile
    still = live.read_bytes()
    expected = still[:START] + machine.devices[SHADOW].image.read_bytes() + still[START + LENGTH :]
    near = tmp_path / "near"
    targets = tuple(TargetSpec(path=str(tmp_path / name), slot=name, create_size=SIZE) for name in ("all", "used"))
    options = ReceiveOptions(
        targets=targets, listen="127.0.0.1", control_port=0, data_port=0, state_dir=tmp_path / "far"
    )
    serving = Serving(options, prepare(options.state_dir))
    try:
        listening = serving.listening()
        to, code = f"127.0.0.1:{listening.control_port}", listening.code
        first = api.send(
            DISK, SendOptions(to=to, code=code, slot="all", state_dir=near, snapshot="vss", all_blocks=True)
        )
        assert first.consistency == "application"
        assert (tmp_path / "all").read_bytes() == expected
        assert tools.copies == []
        used = api.send(DISK, SendOptions(to=to, slot="used", state_dir=near, snapshot="vss"))
        assert used.consistency == "application"
    finally:
        serving.close()
    got = (tmp_path / "used").read_bytes()
    device = machine.devices[SHADOW]
    for cluster, count in device.files["\\kept.bin"]:
        at = START + cluster * 4096
        assert got[at : at + count * 4096] == expected[at : at + count * 4096]
    for cluster, count in device.files["\\pagefile.sys"]:
        at = START + cluster * 4096
        assert not any(got[at : at + count * 4096])
    assert (tools.copies, list((near / "shadows").iterdir()), machine.opened) == ([], [], {})


def test_answers_that_killed_processes_left_are_removed_and_no_others(tools: Tools, tmp_path: Path) -> None:
    folder = tmp_path / "shadows"
    folder.mkdir()
    tools.alive = {7: 0}
    for name in ("answer-7.txt", "answer-8.txt", "answer-x.txt"):
        (folder / name).write_text("")
    shadows_of(tools, folder, []).clean()
    assert [path.name for path in folder.iterdir()] == ["answer-8.txt"]

"""A system's files are a stranger's: nothing in them leads out of the system, and nothing is believed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from flatten_trees import SYSTEMS, alias_map, contents, copied, guest

from blocksync.errors import GuestFileError, GuestPathError, ProtocolError
from blocksync.flatten import record
from blocksync.flatten.changes import apply_changes, find_changes
from blocksync.flatten.plan import make_plan
from blocksync.flatten.refusals import Wishes
from blocksync.flatten.rules import ARCHIVED, REMOVED, RULES, Rule

BAIT = "/dev/mapper/almalinux-root / xfs defaults 0 0\nroot=/dev/mapper/almalinux-root rd.lvm.lv=almalinux/root\n"


def examples(rules: list[Rule]) -> list[str]:
    """A path for each pattern."""
    patterns = {path for rule in rules for path in rule.patterns}
    return sorted(path.replace("*", "any") for path in patterns)


RULED = examples(list(RULES))
FOLLOWED = examples([rule for rule in RULES if rule.links])
TAKEN_AWAY = [*REMOVED, *(f"{folder}/any" for folder in ARCHIVED)]
EDITED = [*RULED, *TAKEN_AWAY]
"""Every path that a repair reads, edits or removes."""


def outside(tmp_path: Path) -> Path:
    """A file of the host that looks as if it wanted to be edited."""
    bait = tmp_path / "host" / "bait"
    bait.parent.mkdir()
    bait.write_text(BAIT)
    return bait


@pytest.mark.parametrize("path", EDITED)
@pytest.mark.parametrize("how", ["absolute", "relative", "folder"])
def test_a_symlink_out_of_the_system_reaches_nothing_of_the_host(path: str, how: str, tmp_path: Path) -> None:
    bait = outside(tmp_path)
    tree = copied("el9", "before", tmp_path / "root")
    edited = tree / path
    edited.parent.mkdir(parents=True, exist_ok=True)
    if how == "folder":
        # The whole folder is a link to where, on the host, the file would lie.
        (bait.parent / edited.name).write_text(BAIT)
        shutil.rmtree(edited.parent)
        edited.parent.symlink_to(bait.parent)
    else:
        edited.unlink(missing_ok=True)
        edited.symlink_to(bait if how == "absolute" else os.path.relpath(bait, edited.parent))
    before = contents(bait.parent)
    apply_changes(guest(tree), find_changes(guest(tree), alias_map("el9")), {})
    assert contents(bait.parent) == before


def test_the_repairs_own_folder_cannot_be_lured_out(tmp_path: Path) -> None:
    bait = outside(tmp_path)
    tree = copied("el9", "before", tmp_path / "root")
    (tree / "etc/blocksync-flatten").symlink_to(bait.parent)
    apply_changes(guest(tree), find_changes(guest(tree), alias_map("el9")), {})
    # The link was followed inside the system, where such a folder was made.
    assert contents(bait.parent) == {"bait": BAIT.encode()}
    assert (tree / str(bait.parent)[1:] / "record.json").is_file()


def test_links_that_loop_are_refused(tmp_path: Path) -> None:
    tree = copied("el9", "before", tmp_path / "root")
    (tree / "etc/fstab").unlink()
    (tree / "etc/fstab").symlink_to("fstab2")
    (tree / "etc/fstab2").symlink_to("fstab")
    with pytest.raises(GuestPathError, match="loop"):
        find_changes(guest(tree), alias_map("el9"))


UNFIT = [
    *((path, kind) for path in RULED for kind in ("giant", "garbage")),
    # What is no ordinary file: of units a link or a pipe is nobody's text, and stays as it is.
    *((path, kind) for path in FOLLOWED for kind in ("fifo", "device")),
    *((path, "giant") for path in TAKEN_AWAY),
]


@pytest.mark.parametrize(("path", "kind"), UNFIT)
def test_what_is_no_configuration_file_is_refused_before_anything_is_written(
    path: str, kind: str, tmp_path: Path
) -> None:
    tree = copied("el9", "before", tmp_path / "root")
    victim = tree / path
    victim.parent.mkdir(parents=True, exist_ok=True)
    victim.unlink(missing_ok=True)
    if kind == "giant":
        with victim.open("wb") as file:
            file.truncate(1 << 40)
    elif kind == "garbage":
        victim.write_bytes(bytes(range(256)) * 64)
    elif kind == "fifo":
        os.mkfifo(victim)
    else:
        victim.symlink_to("/dev/zero")
        (tree / "dev").mkdir()
        os.mkfifo(tree / "dev/zero")
    with pytest.raises((GuestFileError, GuestPathError)) as caught:
        find_changes(guest(tree), alias_map("el9"))
    assert caught.value.code in ("BS1120", "BS1121")


def test_a_folder_with_names_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blocksync.flatten.tree.MOST_NAMES", 50)
    tree = copied("el9", "before", tmp_path / "root")
    for number in range(60):
        (tree / f"boot/loader/entries/{number}.conf").touch()
    with pytest.raises(GuestFileError, match="more than 50"):
        find_changes(guest(tree), alias_map("el9"))


@pytest.mark.parametrize("system", SYSTEMS)
def test_bytes_that_are_no_utf8_survive(system: str, tmp_path: Path) -> None:
    tree = copied(system, "before", tmp_path / "root")
    fstab = tree / "etc/fstab"
    fstab.write_bytes(b"# caf\xe9 \xff\n" + fstab.read_bytes())
    apply_changes(guest(tree), find_changes(guest(tree), alias_map(system)), {})
    assert fstab.read_bytes().startswith(b"# caf\xe9 \xff\n")


def test_a_record_from_the_system_or_a_peer_is_checked_field_by_field() -> None:
    from test_flatten_plan import GIB, bios_mbr, volume

    plan = make_plan(bios_mbr(volume("root", GIB), volume("swap", GIB, "swap")), Wishes())
    said = record.to_json(plan)
    assert record.from_json(said) == plan

    def broken(**changes: object) -> dict[str, object]:
        return {**said, **changes}

    alias = said["aliases"][0]
    part = said["slices"][0]
    for wrong in (
        None,
        [],
        broken(table="bsd"),
        broken(sector_bytes="512"),
        broken(size=-1),
        broken(slices=[{**part, "offset": 0}]),
        broken(slices=[part, part]),
        broken(slices=[{**part, "size": 1 << 62}]),
        broken(copies=[{**said["copies"][0], "to": 99}]),
        broken(copies=[{**said["copies"][0], "size": 1 << 50}]),
        broken(aliases=[{**alias, "uuid": "x\n/dev/sda / ext4"}]),
        broken(aliases=[{**alias, "names": ["/etc/passwd"]}]),
        broken(aliases=[alias] * 1000),
        {key: value for key, value in said.items() if key != "grown"},
    ):
        with pytest.raises(ProtocolError):
            record.from_json(wrong)

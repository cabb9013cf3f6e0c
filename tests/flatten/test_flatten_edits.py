"""Edits of whole systems against files written by hand; editing twice changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import SequenceMatcher
from pathlib import Path

import pytest
from flatten_trees import SYSTEMS, alias, alias_map, contents, copied, guest

from blocksync.errors import FlattenError, GuestFileError
from blocksync.flatten.aliases import AliasMap, mapper_name, unit_name
from blocksync.flatten.arguments import edit_arguments
from blocksync.flatten.changes import Change, apply_changes, diff, find_changes
from blocksync.flatten.grubfiles import edit_environment
from blocksync.flatten.leftovers import file_findings
from blocksync.flatten.rules import RULES


@pytest.mark.parametrize("system", SYSTEMS)
def test_each_system_is_edited_as_written_by_hand(system: str, tmp_path: Path) -> None:
    tree = copied(system, "before", tmp_path / "root")
    aliases = alias_map(system)
    apply_changes(guest(tree), find_changes(guest(tree), aliases), {})
    assert contents(tree) == contents(copied(system, "after", tmp_path / "expected"))


@pytest.mark.parametrize("system", SYSTEMS)
def test_editing_twice_changes_nothing(system: str, tmp_path: Path) -> None:
    tree = copied(system, "after", tmp_path / "root")
    assert find_changes(guest(tree), alias_map(system)) == []


@pytest.mark.parametrize("system", SYSTEMS)
def test_originals_are_kept_and_a_later_repair_leaves_them(system: str, tmp_path: Path) -> None:
    tree = copied(system, "before", tmp_path / "root")
    before = contents(tree)
    apply_changes(guest(tree), find_changes(guest(tree), alias_map(system)), {})
    kept = tree / "etc/blocksync-flatten/original"
    after = contents(tree)
    for path, content in contents(kept).items():
        assert content == before[path]
    changed = {path for path in before if after.get(path) != before[path] and isinstance(before[path], bytes)}
    assert changed == set(contents(kept))
    (tree / "etc/fstab").write_text("/dev/mapper/gone-root / ext4 defaults 0 1\n")
    apply_changes(guest(tree), find_changes(guest(tree), alias_map(system)), {})
    assert (kept / "etc/fstab").read_bytes() == before["etc/fstab"]


def test_a_dry_run_shows_what_would_change_and_changes_nothing(tmp_path: Path) -> None:
    tree = copied("el9", "before", tmp_path / "root")
    before = contents(tree)
    text = diff(find_changes(guest(tree), alias_map("el9")))
    assert contents(tree) == before
    assert "-/dev/mapper/almalinux-root /" in text
    assert "+UUID=0a1b2c3d-0000-4000-8000-000000000021 /" in text
    assert "- /etc/systemd/system/swap.target.wants/dev-almalinux-swap.swap -> ../dev-almalinux-swap.swap" in text


@pytest.mark.parametrize("rule", [rule.name for rule in RULES])
def test_a_rule_that_is_left_out_leaves_its_files(rule: str, tmp_path: Path) -> None:
    left = 0
    for system in SYSTEMS:
        tree = copied(system, "before", tmp_path / system)
        all_changes = find_changes(guest(tree), alias_map(system))
        fewer = find_changes(guest(tree), alias_map(system), skip=frozenset({rule}))
        left += sum(change.rule == rule for change in all_changes)
        assert not any(change.rule == rule for change in fewer)
    assert left


@pytest.mark.parametrize("system", SYSTEMS)
def test_each_edit_that_is_left_out_is_predicted(system: str, tmp_path: Path) -> None:
    every = find_changes(guest(copied(system, "before", tmp_path / "root")), alias_map(system))
    steps = {change.rule for change in every}
    assert ("relabel" in steps) == system.startswith("el")
    assert len(steps) >= 4
    for step in steps:
        tree = copied(system, "before", tmp_path / step)
        apply_changes(guest(tree), find_changes(guest(tree), alias_map(system), skip=frozenset({step})), {})
        found = list(file_findings(guest(tree), alias_map(system)))
        assert {each.rule for each in found} == {step}
        rule = next((rule for rule in RULES if rule.name == step), None)
        if rule is not None:
            assert {(each.code, each.fatal) for each in found} == {(rule.code, rule.fatal)}


def one_left(change: Change) -> Iterator[bytes]:
    """What a file holds where one changed line was left as it was, for each of them."""
    before = (change.before or b"").splitlines(keepends=True)
    after = (change.after or b"").splitlines(keepends=True)
    for what, a, b, c, d in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        # Lines that were changed one by one; what came or went is taken together.
        each = b - a if b - a == d - c else 1
        for number in range(each if what != "equal" else 0):
            old, new = (a, b), (c, d)
            if each > 1:
                old, new = (a + number, a + number + 1), (c + number, c + number + 1)
            yield b"".join([*after[: new[0]], *before[slice(*old)], *after[new[1] :]])


@pytest.mark.parametrize("system", SYSTEMS)
def test_each_line_that_is_left_out_is_predicted(system: str, tmp_path: Path) -> None:
    tree = copied(system, "before", tmp_path / "root")
    changes = find_changes(guest(tree), alias_map(system))
    apply_changes(guest(tree), changes, {})
    assert list(file_findings(guest(tree), alias_map(system))) == []
    edits = [change for change in changes if change.before and change.after and not change.link]
    count = 0
    for change in edits:
        file = tree / change.path[1:]
        whole = file.read_bytes()
        rule = next(rule for rule in RULES if rule.name == change.rule)
        for content in one_left(change):
            file.write_bytes(content)
            found = list(file_findings(guest(tree), alias_map(system)))
            assert [(each.where, each.code) for each in found] == [(change.path, rule.code)], content.decode()
            count += 1
        file.write_bytes(whole)
    assert count >= len(edits)


def test_a_file_that_no_rule_knows_is_told_and_left(tmp_path: Path) -> None:
    tree = copied("el9", "after", tmp_path / "root")
    (tree / "etc/backup").mkdir()
    (tree / "etc/backup/volumes.conf").write_text("# /dev/almalinux/swap\nvolume = /dev/mapper/almalinux-root\n")
    (tree / "etc/backup/others.conf").write_text("volume = /dev/mapper/other-root /dev/almalinux/root2\n")
    (tree / "etc/backup/binary").write_bytes(b"\0/dev/mapper/other-root\0" * 9)
    (tree / "etc/backup/link").symlink_to("volumes.conf")
    assert find_changes(guest(tree), alias_map("el9")) == []
    found = list(file_findings(guest(tree), alias_map("el9")))
    assert [(each.code, each.where, each.names, each.fatal) for each in found] == [
        ("BS1151", "/etc/backup/volumes.conf", ("/dev/mapper/almalinux-root",), False)
    ]


def test_what_crypttab_opens_is_no_volume(tmp_path: Path) -> None:
    tree = copied("el9", "after", tmp_path / "root")
    entry = tree / "boot/loader/entries/9e-5.14.0-427.el9.x86_64.conf"
    entry.write_text(entry.read_text().replace(" ro ", " ro systemd.swap=/dev/mapper/luks-77aa "))
    assert list(file_findings(guest(tree), alias_map("el9"))) == []
    (tree / "etc/crypttab").write_text("other UUID=77aa1111-2222-4333-8444-555566667777 none\n")
    assert [each.where for each in file_findings(guest(tree), alias_map("el9"))] == [
        "/" + str(entry.relative_to(tree))
    ]


def test_names_are_matched_whole() -> None:
    aliases = AliasMap([alias("vg", "root", 1, 1, "ext4")], "gpt")
    for other in (
        "/dev/vg/root2",
        "/dev/vg/root-old",
        "/dev/mapper/vg-root.bak",
        "/srv/dev/vg/root",
        "/dev/vg/root_x",
    ):
        assert aliases.replace_paths(f"a {other} b") == f"a {other} b"
    assert aliases.replace_paths("x=/dev/vg/root,y") == "x=/dev/disk/by-uuid/0a1b2c3d-0000-4000-8000-000000000001,y"


def test_a_name_that_means_two_volumes_is_refused() -> None:
    with pytest.raises(FlattenError):
        AliasMap([alias("vg", "root", 1, 1, "ext4"), alias("vg", "root", 2, 2, "ext4")], "gpt")


def test_names_as_the_device_mapper_and_systemd_write_them() -> None:
    # As dmsetup and systemd-escape --path show them.
    assert mapper_name("web-01-vg", "lv-root") == "web--01--vg-lv--root"
    assert unit_name("/dev/mapper/vg-swap_1") == "dev-mapper-vg\\x2dswap_1"
    assert unit_name("/dev/disk/by-uuid/ab-cd") == "dev-disk-by\\x2duuid-ab\\x2dcd"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", "rd.lvm=0"),
        ("quiet", "quiet rd.lvm=0"),
        ("rd.lvm.lv=vg/root", "rd.lvm=0"),
        ("rd.lvm.lv=vg/root quiet", "quiet rd.lvm=0"),
        ("  quiet   rd.lvm.vg=vg  splash ", "  quiet  splash rd.lvm=0 "),
        ("rd.lvm=1 rd.lvm=0 rd.lvm=0", "rd.lvm=0"),
        (
            'dyndbg="file a +p" root="/dev/vg/root"',
            'dyndbg="file a +p" root="UUID=0a1b2c3d-0000-4000-8000-000000000001" rd.lvm=0',
        ),
        (
            "cryptdevice=/dev/vg/root:x",
            "cryptdevice=/dev/disk/by-uuid/0a1b2c3d-0000-4000-8000-000000000001:x rd.lvm=0",
        ),
        ("rd.lvm.lvx=1 xrd.lvm.lv=a", "rd.lvm.lvx=1 xrd.lvm.lv=a rd.lvm=0"),
    ],
)
def test_command_lines_word_by_word(before: str, after: str) -> None:
    aliases = AliasMap([alias("vg", "root", 1, 1, "ext4")], "gpt")
    assert edit_arguments(before, aliases, words=("rd.lvm=0",)) == after
    assert edit_arguments(after, aliases, words=("rd.lvm=0",)) == after


def test_an_environment_block_keeps_its_length_or_is_refused() -> None:
    aliases = AliasMap([alias("vg", "root", 1, 1, "ext4")], "gpt")
    text = "# GRUB Environment Block\nkernelopts=root=/dev/vg/root\n"
    edited = edit_environment(text.ljust(1024, "#"), aliases, words=("rd.lvm=0",))
    assert len(edited) == 1024
    assert "kernelopts=root=UUID=0a1b2c3d-0000-4000-8000-000000000001 rd.lvm=0\n" in edited
    full = text + "filler=" + "x" * (1024 - len(text) - 8) + "\n"
    with pytest.raises(GuestFileError, match="1024"):
        edit_environment(full, aliases, words=("rd.lvm=0",))
    with pytest.raises(GuestFileError):
        edit_environment("no block", aliases, words=("rd.lvm=0",))

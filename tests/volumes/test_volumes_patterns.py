"""Patterns mean what rsync means by them: rsync itself is asked."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from volume_images import run

from blocksync.errors import UsageError
from blocksync.volumes.patterns import Rules

TREE = [
    "var/log/syslog.1.gz", "var/log/syslog", "var/log/apt/term.log.gz", "srv/var/log/x.gz", "mnt/data/tmp/a/b",
    "mnt/data/keep", "tmp/x", "home/tmp/y", "home/u/tmp", "home/u/[x].iso", "home/u/b.iso", "a/foo/bar", "foo/bar/deep",
    "foo/baz", "x1/f", "x2/f", "xa/f", "star*name", ".cache/one", "home/.cache/two",
]  # fmt: skip
CASES = [
    ["/var/log/*.gz"], ["*.gz"], ["tmp/"], ["tmp"], ["/tmp"], ["/mnt/data/tmp/"], ["foo/bar"], ["/foo/bar"],
    ["**/bar"], ["/var/**.gz"], ["x[0-9]/"], ["x[!0-9]"], ["x?"], ["\\[x\\].iso"], ["*.iso", "tmp/"],
    ["+ syslog*", "- /var/log/*"], ["+ */", "+ *.gz", "- *"], ["*.gz", "!", "*.iso"], ["foo/***"], ["/home/***"],
    ["home/*/tmp"], ["home/**/tmp"], ["star\\*name"], [".cache/"], ["- *.iso", "+ b.iso"], ["/*"], ["/a/foo"],
    ["[a-c]*"], ["*/log"],
]  # fmt: skip


def left(tree: Path, rules: list[str], tmp_path: Path) -> set[str]:
    """The files that rsync would take."""
    (tmp_path / "rules").write_text("\n".join(rules) + "\n")
    said = run(
        "rsync", "-rn", "--out-format=%n", f"--exclude-from={tmp_path / 'rules'}", f"{tree}/", tmp_path / "to/"
    )
    return {line for line in said.splitlines() if line and not line.endswith("/")}


def ours(rules: Rules) -> set[str]:
    kept = set()
    for path in TREE:
        parts = path.split("/")
        folders = ["/" + "/".join(parts[:count]) for count in range(1, len(parts))]
        if not any(rules.leaves_out(folder, folder=True) for folder in folders) and not rules.leaves_out(
            "/" + path, folder=False
        ):
            kept.add(path)
    return kept


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for path in TREE:
        (tmp_path / "tree" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tree" / path).write_text(path)
    return tmp_path / "tree"


@pytest.mark.parametrize("rules", CASES, ids=" ".join)
def test_a_rule_matches_what_rsync_matches(tree: Path, tmp_path: Path, rules: list[str]) -> None:
    assert ours(Rules(rules)) == left(tree, rules, tmp_path)


@pytest.mark.parametrize("rules", CASES, ids=" ".join)
def test_no_folder_is_passed_over_that_has_something_to_leave_out(rules: list[str]) -> None:
    made = Rules(rules)
    for path in set(TREE) - ours(made):
        parts = path.split("/")
        for count in range(1, len(parts)):
            folder = "/" + "/".join(parts[:count])
            if made.leaves_out(folder, folder=True):
                break
            assert made.may_match_below(folder)


def test_rules_may_be_for_one_volume() -> None:
    rules = Rules(["#2:/tmp/", "#vg0/root:*.iso", "*.gz"])
    assert not rules.of("1").leaves_out("/tmp", folder=True)
    assert rules.of("2").leaves_out("/tmp", folder=True)
    assert rules.of("vg0/root").leaves_out("/x.iso", folder=False)
    assert not rules.of("2").leaves_out("/x.iso", folder=False)
    assert all(rules.of(place).leaves_out("/x.gz", folder=False) for place in ("", "1", "vg0/root"))


def test_names_without_case_match_in_any() -> None:
    rules = Rules(["/Windows/Temp/", "*.TMP"]).of("", ignore_case=True)
    assert rules.leaves_out("/WINDOWS/temp", folder=True)
    assert rules.leaves_out("/x/y.tmp", folder=False)
    assert rules.may_match_below("/windows")


def test_comments_are_none_and_nonsense_is_refused() -> None:
    assert Rules(["# a remark", "; another", "", "  "]).rules == []
    for text in ("/", "//", "[", "a[b", "[[:alpha:]]", "+ ", "#2:/"):
        with pytest.raises(UsageError):
            Rules([text])
    with pytest.raises(UsageError, match="more than"):
        Rules(["x"] * 20_000)


@given(st.text(max_size=40))
def test_any_text_is_a_rule_or_a_usage_error(text: str) -> None:
    try:
        rules = Rules([text])
    except UsageError:
        return
    rules.leaves_out("/some/path.txt", folder=False)
    rules.may_match_below("/some")

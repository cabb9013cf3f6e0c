"""docs/ERRORS.md lists every leftover that --check can tell, and no other."""

from __future__ import annotations

import re
from pathlib import Path

from blocksync.flatten.rules import RULES

ROOT = Path(__file__).parents[2]


def test_the_page_lists_every_leftover_and_how_bad_it_is() -> None:
    page = (ROOT / "docs" / "ERRORS.md").read_text()
    listed = dict(re.findall(r"^\| (BS11[345]\d) \| [^|]+ \| (yes|no) \| .+ \|$", page, re.MULTILINE))
    folder = ROOT / "blocksync" / "flatten"
    source = "".join((folder / name).read_text() for name in ("check.py", "leftovers.py"))
    told = {rule.code for rule in RULES} | set(re.findall(r'"(BS11[345]\d)"', source))
    assert set(listed) == told
    for rule in RULES:
        assert listed[rule.code] == ("yes" if rule.fatal else "no"), rule.name


def test_names_of_rules_are_of_one_rule_each() -> None:
    names = [rule.name for rule in RULES]
    assert len(names) == len(set(names))

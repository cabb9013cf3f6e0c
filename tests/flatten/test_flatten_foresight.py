"""How long dividing and repairing take is predicted, kept, and put beside the truth."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from flatten_trees import copied

from blocksync import api
from blocksync.cli.flattening import told
from blocksync.errors import BlocksyncError
from blocksync.flatten.foresight import ERROR, Trials, counted
from tests.devices import image, need_root
from tests.vm.systems import Lv, Recipe, disks_of
from tests.vm.wire import flattened, receiving

MIB = 1 << 20


def test_parts_are_counted_as_the_plan_needs_them() -> None:
    trials = Trials(look=2.0, sync=0.1, tool=0.01, image=0.5)
    few, many = counted(trials, parts=1, edits=0), counted(trials, parts=4, edits=10)
    assert few.divide == pytest.approx((0.8, 0.8 / ERROR, 0.8 * ERROR))
    assert few.repair[0] == pytest.approx(2.0 + 0.03 + 0.1 + 0.5 + 0.1)
    assert many.divide[0] == pytest.approx(2.0)
    assert many.repair[0] == pytest.approx(2.0 + 0.12 + 0.4 + 0.5 + 1.1)


def test_what_an_estimate_says_is_compared_at_the_end(tmp_path: Path) -> None:
    need_root()
    tree = copied("debian", "before", tmp_path / "tree")
    (tree / "etc/crypttab").unlink()
    (tree / "data").write_bytes(os.urandom(3 * MIB))
    recipe = Recipe(
        name="one",
        boot_mib=16,
        group="web-01-vg",
        disks=1,
        volumes=(
            Lv(name="lv-root", where="/", kind="ext4", mib=48),
            Lv(name="lv-swap", where="swap", kind="swap", mib=8),
        ),
    )
    disks = disks_of(recipe, tree, tmp_path)
    with receiving(tmp_path / "target.img", tmp_path, create=api.plan_flatten([str(disks[0])]).size) as where:
        options = api.EstimateOptions(
            to=f"127.0.0.1:{where.control_port}", code=where.code, state_dir=tmp_path / "sender", flatten=True
        )
        foreseen = api.estimate(str(disks[0]), options)
        result = flattened(disks, where, tmp_path)
    assert foreseen.divide is not None
    assert foreseen.repair is not None
    assert foreseen.divide.likely > 0
    assert [(each["what"], each["by"]) for each in result.forecasts] == [
        ("divide", "estimate"),
        ("repair", "estimate"),
    ]
    assert [each["likely"] for each in result.forecasts] == [foreseen.divide.likely, foreseen.repair.likely]
    assert all(float(str(each["took"])) > 0 for each in result.forecasts)
    lines = told(result, "slot vm")
    shown = [line for line in lines if line.endswith("  the estimate")]
    assert [line.split()[0] for line in shown] == ["divide", "repair"]


def test_a_layout_that_cannot_be_flattened_ends_the_estimate(tmp_path: Path) -> None:
    plain = image(tmp_path / "plain", 8 * MIB)
    with pytest.raises(BlocksyncError):
        api.estimate(str(plain), api.EstimateOptions(flatten=True, state_dir=tmp_path / "s"))
    assert api.estimate(str(plain), api.EstimateOptions(state_dir=tmp_path / "s")).repair is None

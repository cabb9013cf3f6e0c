"""``bench``: each stage is measured, whatever the source is, and the narrowest is named by what was measured."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from blocksync import api
from blocksync.engine.adapt import LADDER
from blocksync.errors import InterruptedTransferError, SourceError, TargetError
from blocksync.estimate import machine


@pytest.fixture(autouse=True)
def soon_over(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("STAGE_SECONDS", "LINK_SECONDS"):
        monkeypatch.setattr(machine, name, 0.01)
    monkeypatch.setattr(machine, "WRITE_BYTES", 4 << 20)
    monkeypatch.setattr(machine, "SAMPLE_PIECES", 8)


def disk(folder: Path, size: int) -> str:
    path = folder / "disk.img"
    path.write_bytes(bytes(size // 2) + random.Random(3).randbytes(size - size // 2))
    return str(path)


def test_every_stage_is_measured_and_every_level_judged(tmp_path: Path) -> None:
    result = api.bench(disk(tmp_path, 8 << 20), api.BenchOptions(folder=tmp_path))
    names = [stage.name for stage in result.stages]
    packing = [f"pack at level {level}" for level in LADDER if level is not None]
    assert names == [
        "read", "digest BLAKE3", "digest XXH3", *packing, "unpack", "loopback", "loopback with TLS", "write",
    ]  # fmt: skip
    assert all(stage.rate > 0 and stage.processor >= 0 for stage in result.stages)
    assert [figure.level for figure in result.passes] == list(LADDER)
    assert result.zero_share == 0.5
    assert result.best.rate == max(figure.rate for figure in result.passes)
    # Random content does not shrink, at whatever level.
    assert {figure.ratio for figure in result.passes} == {1.0}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk.img"]


def test_a_slow_link_is_the_bottleneck_and_packing_pays(tmp_path: Path) -> None:
    result = api.bench(options=api.BenchOptions(folder=tmp_path, link=10_000))
    assert result.best.bottleneck == "link"
    assert result.best.level is not None
    assert result.best.rate == pytest.approx(10_000 / result.best.ratio)
    assert result.source == ""


@pytest.mark.parametrize("size", [512, (1 << 20) + 512])
def test_small_sources(tmp_path: Path, size: int) -> None:
    assert api.bench(disk(tmp_path, size), api.BenchOptions(folder=tmp_path)).best.rate > 0


def test_what_cannot_be_measured_is_told(tmp_path: Path) -> None:
    with pytest.raises(SourceError):
        api.bench(str(tmp_path / "nothing"))
    with pytest.raises(TargetError, match="nowhere"):
        api.bench(options=api.BenchOptions(folder=tmp_path / "nowhere"))
    stopped = api.Cancel()
    stopped.set()
    with pytest.raises(InterruptedTransferError):
        api.bench(cancel=stopped)

"""``blocksync bench``, as people and as programs see it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from blocksync.cli import main
from blocksync.estimate import machine


@pytest.fixture(autouse=True)
def soon_over(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("STAGE_SECONDS", "LINK_SECONDS"):
        monkeypatch.setattr(machine, name, 0.01)
    monkeypatch.setattr(machine, "WRITE_BYTES", 4 << 20)


def test_people_get_a_table_and_the_bottleneck(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--folder", str(tmp_path), "--link", "10K"]) == 0
    said = capsys.readouterr().out
    for stage in ("digest XXH3", "pack at level 9", "loopback with TLS", "write"):
        assert f"{stage} " in said
    assert "limited by the link" in said


def test_programs_get_one_object(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes(b"x" * (1 << 20))
    assert main(["bench", str(path), "--folder", str(tmp_path), "--json"]) == 0
    lines = capsys.readouterr().out.splitlines()
    said = json.loads(lines[-1])
    assert len(lines) == 1
    assert (said["type"], said["command"], said["source"]) == ("result", "bench", str(path))
    assert said["best"] in said["passes"]
    assert {"name", "rate", "processor", "ratio", "note"} == set(said["stages"][0])


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--folder", str(tmp_path / "nowhere")]) == 5
    assert "nowhere" in capsys.readouterr().err

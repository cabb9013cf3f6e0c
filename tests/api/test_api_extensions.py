"""A package that adds a source and a target, installed and used as a user would."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from blocksync import api
from blocksync.api import CopyOptions
from blocksync.errors import SourceError, TargetError, TargetRefusedError
from blocksync.sources import open_source
from blocksync.targets import open_target

ROOT = Path(__file__).parents[2]
MIB = 1 << 20


@pytest.fixture(scope="module", autouse=True)
def _installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    place, built = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("build") / "extension"
    subprocess.run(["cp", "-r", ROOT / "examples" / "extension", built], check=True)  # building leaves files behind
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index",
         "--disable-pip-version-check", "--root-user-action=ignore", "--target", place, built],
        check=True,
    )  # fmt: skip
    broken = place / "broken-1.dist-info"
    broken.mkdir()
    (broken / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1\n")
    (broken / "entry_points.txt").write_text(
        "[blocksync.sources]\nnothing = builtins:repr\nmissing = there_is_no:such\n"
        "[blocksync.targets]\nnothing = builtins:dict\n"
    )
    sys.path.insert(0, str(place))
    try:
        yield
    finally:
        sys.path.remove(str(place))


def test_a_source_and_a_target_of_another_package_in_a_whole_transfer(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    folder = tmp_path / "pieces"
    state = tmp_path / "state"
    first = api.copy("pattern:9M:7", f"pieces:{folder}", CopyOptions(create=True, state_dir=state))
    assert (first.kind, first.generation, first.consistency) == ("full", 1, "crash")
    again = api.copy("pattern:9M:7", f"pieces:{folder}", CopyOptions(state_dir=state))
    assert (again.kind, again.changed) == ("incremental", 0)
    with open_source("pattern:9M:7") as source, open_target(f"pieces:{folder}", overwrite=True) as target:
        ours, theirs = bytearray(9 * MIB), bytearray(9 * MIB)
        source.read_into(0, memoryview(ours))
        target.read_into(0, memoryview(theirs))
    assert ours == theirs
    assert any(ours)


def test_the_example_target_keeps_its_promises(tmp_path: Path) -> None:
    name = f"pieces:{tmp_path / 'disk'}"
    data = random.Random(1).randbytes(9 * MIB)
    with pytest.raises(TargetRefusedError, match="is not there"):
        open_target(name)
    with open_target(name, create_size=9 * MIB) as target:
        target.write(0, memoryview(data))
        target.zero(3 * MIB, 2 * MIB)
        target.sync()
        with pytest.raises(TargetRefusedError, match="another process"):
            open_target(name, overwrite=True)
        with pytest.raises(TargetError, match="leaves"):
            target.write(9 * MIB, memoryview(b"x"))
        target.reopen()
        read = bytearray(9 * MIB)
        target.read_into(0, memoryview(read))
        assert read == data[: 3 * MIB] + bytes(2 * MIB) + data[5 * MIB :]
    with pytest.raises(TargetRefusedError, match="not empty"):
        open_target(name)


def test_a_path_that_exists_is_never_taken_for_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("pattern:9M").write_bytes(b"x" * 512)
    with open_source("pattern:9M") as source:
        assert source.size == 512


@pytest.mark.parametrize("text", ["nothing:x", "missing:x"])
def test_a_package_that_fails_is_told_as_such(text: str) -> None:
    with pytest.raises(SourceError, match="the package that opens"):
        open_source(text)
    with pytest.raises(TargetError, match="the package that opens"):
        open_target("nothing:x")
    with pytest.raises(SourceError, match="cannot open the source unknown:x"):
        open_source("unknown:x")

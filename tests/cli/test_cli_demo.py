"""The demo: it tells the truth, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from cli_processes import MIB, command, environment, running


def left_behind(folder: Path) -> list[str]:
    """Files in the demo's place, and processes that know of it."""
    found = [entry.name for entry in folder.iterdir()]
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = process.read_bytes()
        except OSError:
            continue
        if str(folder).encode() in words and process.parent.name != str(os.getpid()):
            found.append(words.decode())
    return found


def test_the_whole_story(folder: Path) -> None:
    ended = command("demo", "--size", "64M", "--json", env=environment(TMPDIR=str(folder)))
    assert ended.code == 0, ended
    result = ended.last
    assert result["identical"] is True
    assert result["source_sha256"] == result["target_sha256"]
    steps = {step["name"]: step for step in result["steps"]}
    assert [said["name"] for said in ended.objects if said["type"] == "step"] == list(steps)
    cut, resume, changed = steps["full pass, cut"], steps["resume"], steps["incremental"]
    assert "kill -9" in cut["happened"]
    assert "durable already" in resume["happened"]
    assert 0 < cut["sent"] < 64 * MIB
    assert 0 < resume["sent"] < 40 * MIB  # 40 MiB is all that the sample disk holds
    # The changed pages, and the blocks that held zeros before: of those the whole one goes.
    assert 100 * 4096 <= changed["sent"] <= 100 * 4096 + MIB
    assert changed["wire"] <= changed["sent"] + (64 << 10)
    assert steps["no change"]["sent"] == 0
    assert steps["no change"]["wire"] < 64 << 10
    assert "offset " in steps["damage"]["happened"]
    assert 0 < steps["repair"]["sent"] <= 64 << 10
    assert left_behind(folder) == []


def test_the_table_and_what_is_kept(folder: Path) -> None:
    ended = command("demo", "--size", "64M", "--keep", env=environment(TMPDIR=str(folder)))
    assert ended.code == 0, ended
    for head in ("step", "what happened", "read", "sent", "on the wire", "seconds"):
        assert head in ended.out
    digests = [line.split()[-1] for line in ended.out.splitlines() if line.startswith("sha256 ")]
    assert len(digests) == 2
    assert digests[0] == digests[1]
    (kept,) = folder.iterdir()
    assert (kept / "source.img").read_bytes() == (kept / "target.img").read_bytes()
    assert f"kept in {kept}" in ended.out


def test_interrupting_it_leaves_nothing(folder: Path) -> None:
    with running("demo", "--size", "64M", "--json", env=environment(TMPDIR=str(folder))) as demo:
        demo.until(lambda said: said.get("name") == "receiver")
        assert len(left_behind(folder)) > 1
        ended = demo.end(signal.SIGINT)
    assert ended.code == 130
    assert ended.last["exit_code"] == 130
    assert left_behind(folder) == []


def test_a_place_without_room(folder: Path, small_place: Path) -> None:
    ended = command("demo", env=environment(TMPDIR=str(small_place)))
    assert ended.code == 2
    assert "TMPDIR" in ended.err
    assert left_behind(small_place) == []

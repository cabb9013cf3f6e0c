"""What the commands do when nothing goes wrong."""

from __future__ import annotations

import random
from pathlib import Path

from cli_processes import MIB, command, environment, fails, receiver


def test_a_disk_goes_over_and_is_verified(folder: Path, disk: Path) -> None:
    with receiver(folder) as there:
        near = ("--to", there.to, "--state-dir", folder / "s-state", "--json")
        first = command("send", disk, *near, env=environment(BLOCKSYNC_CODE=there.code))
        assert first.code == 0, first
        assert first.last["type"] == "result"
        assert (first.last["kind"], first.last["generation"], first.last["slot"]) == ("full", 1, "disk")
        assert {said["type"] for said in first.objects[:-1]} == {"progress", "transfer", "state", "pass"}
        end = [said for said in first.objects if said["type"] == "progress"][-1]
        assert (end["stage"], end["done"], end["read"]) == ("done", 4 * MIB, 2 * MIB)  # holes are done, not read
        again = command("send", disk, *near)
        assert (again.last["kind"], again.last["generation"], again.last["changed"]) == ("incremental", 2, 0)
        proof = command("verify", disk, *near)
        assert proof.code == 0
        assert proof.last["identical"] is True
        assert proof.last["differing"] == []
        assert there.target.read_bytes() == disk.read_bytes()
        pages = [3, 200, 201]
        with open(there.target, "r+b") as file:
            for page in pages:
                file.seek(page * 4096 + 17)
                file.write(random.Random(page).randbytes(9))
        doubt = command("verify", disk, *near)
        assert doubt.code == 9
        assert doubt.last["identical"] is False
        assert doubt.last["differing"] == [[3 * 4096, 4096], [200 * 4096, 8192]]
        words = command("verify", disk, *near[:-1])
        assert words.code == 9
        assert "offset 12288 length 4096" in words.out
        assert "DIFFERENT" in words.out


def test_what_people_read(folder: Path, disk: Path) -> None:
    with receiver(folder) as there:
        code_file = folder / "code"
        code_file.write_text(there.code + "\n")
        sent = command("send", disk, "--to", there.to, "--state-dir", folder / "s", "--code-file", code_file)
        assert sent.code == 0
        assert "full pass to slot disk committed as generation 1" in sent.out
        assert "connecting" in sent.err
        quiet = command("send", disk, "--to", there.to, "--state-dir", folder / "s", "-q")
        assert quiet.err == ""
        assert "incremental pass" in quiet.out
        ended = there.run.end(15)
    assert [said["type"] for said in ended.objects if said["type"] != "progress"] == [
        "listening",
        "paired",
        "opened",
        "committed",
        "opened",
        "committed",
        "error",
    ]
    assert [said["generation"] for said in ended.objects if said["type"] == "committed"] == [1, 2]
    assert ended.code == 130


def test_recv_prints_the_code_and_the_line_to_type(folder: Path) -> None:
    code_file = folder / "code"
    with receiver(folder, "--code-file", code_file) as there:
        assert code_file.read_text().strip() == there.code
        assert code_file.stat().st_mode & 0o777 == 0o600
        assert there.listening["to"] == there.to
        assert there.listening["slots"] == ["disk"]


def test_once_ends_after_a_commit_to_each_target(folder: Path, disk: Path) -> None:
    with receiver(folder, "--once", "--target", f"two={folder / 'two.img'}") as there:
        near = ("--to", there.to, "--state-dir", folder / "s")
        assert command("send", disk, *near, "--slot", "disk", "--code", there.code).code == 0
        assert command("send", disk, *near, "--slot", "two").code == 0
        ended = there.run.end()
    assert ended.code == 0
    assert ended.last["command"] == "recv"
    assert ended.last["committed"] == [{"slot": "disk", "generation": 1}, {"slot": "two", "generation": 1}]
    assert (folder / "two.img").read_bytes() == disk.read_bytes()


def test_copy_is_incremental_and_refuses_what_it_should(folder: Path, disk: Path) -> None:
    target, state = folder / "t.img", folder / "state"
    missing = command("copy", disk, target, "--state-dir", state)
    assert missing.code == 5
    assert "--create" in missing.err
    assert "--create SIZE" not in missing.err
    made = command("copy", disk, target, "--create", "--state-dir", state, "--json")
    assert made.last["kind"] == "full"
    assert target.read_bytes() == disk.read_bytes()
    with open(disk, "r+b") as file:
        file.seek(MIB)
        file.write(b"changed")
    second = command("copy", disk, target, "--state-dir", state, "--json", "--block-size", "64K")
    assert second.last["kind"] == "incremental"
    assert 0 < second.last["changed"] <= 64 << 10
    assert target.read_bytes() == disk.read_bytes()
    other = folder / "full.img"
    other.write_bytes(b"precious" * 1024 * 512)
    refused = command("copy", disk, other, "--state-dir", state)
    assert refused.code == 5
    assert f"--overwrite {other}" in refused.err
    assert command("copy", disk, other, "--state-dir", state, "--overwrite", folder / "x").code == 2
    assert command("copy", disk, other, "--state-dir", state, "--overwrite", other).code == 0
    assert other.read_bytes() == disk.read_bytes()


def test_state_is_looked_at_and_trust_is_managed(folder: Path, disk: Path) -> None:
    with receiver(folder) as there:
        near = ("--to", there.to, "--state-dir", folder / "s", "--json")
        assert command("send", disk, *near, "--code", there.code).code == 0
        known = command("peers", "--state-dir", there.state, "--json").last["peers"]
        assert [peer["slots"] for peer in known] == [["disk"]]
        table = command("peers", "--state-dir", there.state)
        assert known[0]["fingerprint"][:16] in table.out
        gone = command("revoke", known[0]["fingerprint"][:8], "--state-dir", there.state)
        assert gone.code == 0
        assert "revoked" in gone.out
        refused = command("send", disk, *near, "--retry", "0")
        assert refused.code == 12
        assert command("revoke", "nobody", "--state-dir", there.state).code == 12
        there.run.end(15)
        state = ("--state-dir", there.state)
    assert command("peers", *state).out == "no sender is paired; blocksync recv prints a pairing code\n"
    listed = command("manifest", *state, "--json").last
    assert [slot["slot"] for slot in listed["slots"]] == ["disk"]
    shown = command("manifest", "show", "disk", *state)
    assert "generation     1" in shown.out
    assert command("manifest", "show", "other", *state).code == 6
    rebuilt = command("manifest", "rebuild", "disk", "--target", there.target, *state, "--json")
    assert rebuilt.code == 0, rebuilt
    assert rebuilt.last["known_bytes"] == 4 * MIB


def test_options_that_would_do_nothing_are_told_before_anything_is_begun(folder: Path, disk: Path) -> None:
    near = ("--to", "localhost:1", "--state-dir", folder / "s-state", "--json")
    fails(command("send", disk, *near, "--pre-final", "true"), 2, "none is asked for")
    fails(command("send", disk, *near, "--follow", "5s", "--verify"), 2, "has changed by then")
    fails(
        command("status", "nosuch", "--state-dir", folder / "s-state", "--json"),
        6,
        "no transfer is meant by 'nosuch'",
    )

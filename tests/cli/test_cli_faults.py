"""Faults of the world: each has its exit code, says what to do next, and shows no traceback."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

import pytest
from cli_processes import MIB, command, environment, fails, make_disk, obey_permissions, receiver, running

from tests.devices import loop_device, need_root

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")


def recv(folder: Path, *words: object) -> tuple[object, ...]:
    ports = ("--listen", "127.0.0.1", "--control-port", 0, "--data-port", 0)
    return ("recv", "--json", "--state-dir", folder / "r-state", *ports, *words)


# -- sources --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["absent.img", "odd-\x1b[2J\u202e name.img"])
def test_a_source_that_is_missing(folder: Path, name: str) -> None:
    source = folder / name
    fails(command("send", source, "--to", "localhost", "--state-dir", folder / "s", "--json"), 4, "No such file")
    words = command("copy", source, folder / "t", "--create", "--state-dir", folder / "s")
    assert words.code == 4
    assert words.err.startswith("error: ")
    assert "  next: check the path" in words.err
    assert "\x1b" not in words.err
    assert "\u202e" not in words.err


def test_a_source_that_may_not_be_read(folder: Path, disk: Path) -> None:
    disk.chmod(0)
    ended = command(
        "copy", disk, folder / "t", "--create", "--state-dir", folder / "s", "--json", before=obey_permissions
    )
    fails(ended, 4, "Permission denied")


def test_a_source_that_is_a_folder_or_empty(folder: Path) -> None:
    fails(command("copy", folder, folder / "t", "--state-dir", folder / "s", "--json"), 4)
    (folder / "empty").touch()
    fails(command("copy", folder / "empty", folder / "t", "--state-dir", folder / "s", "--json"), 4, "is empty")


def test_a_device_with_sectors_that_cannot_be_read(folder: Path) -> None:
    need_root()
    image = make_disk(folder / "disk.img", 4 * MIB, data=4 * MIB)
    lost = 4 * MIB - 8192
    with loop_device(image) as device:
        # A loop device answers with an error where its file has ended.
        os.truncate(image, lost)
        words = ("copy", device, folder / "t", "--create", "--state-dir", folder / "s")
        error = fails(command(*words, "--json"), 4, "Input/output error")
        assert "--rescue" in error["remedy"]
        ended = command(*words, "--rescue", "--json")
        assert ended.code == 4
        assert ended.last["unreadable"] == [[lost, 8192]]
        told = command(*words, "--rescue")
        assert f"  offset {lost}, length 8192" in told.out
        assert told.code == 4
    assert (folder / "t").read_bytes() == image.read_bytes() + bytes(8192)


# -- targets --------------------------------------------------------------------------------------------------------


def test_targets_that_are_refused(folder: Path) -> None:
    full = make_disk(folder / "full.img", MIB)
    error = fails(command(*recv(folder, "--target", full)), 5, "not empty")
    assert f"--overwrite {full}" in error["remedy"]
    assert "nothing was written" in error["safe"]
    fails(command(*recv(folder, "--target", folder)), 5, "a folder")
    fails(command(*recv(folder, "--target", folder / "absent.img")), 5, "does not exist")
    full.chmod(0)
    fails(command(*recv(folder, "--target", full, "--overwrite", full), before=obey_permissions), 5, "Permission")


def test_a_target_that_is_too_small(folder: Path, disk: Path) -> None:
    with receiver(folder, size=2 * MIB) as there:
        ended = command("send", disk, "--to", there.to, "--state-dir", folder / "s", "--code", there.code, "--json")
        fails(ended, 5, str(2 * MIB), str(4 * MIB))


@needs_root
def test_a_target_that_is_mounted(folder: Path) -> None:
    image = make_disk(folder / "fs.img", 16 * MIB, data=0)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    device = subprocess.run(
        ["losetup", "--find", "--show", image], check=True, capture_output=True, text=True
    ).stdout.strip()
    place = folder / "mounted"
    place.mkdir()
    try:
        subprocess.run(["mount", device, place], check=True)
        try:
            error = fails(command(*recv(folder, "--target", device, "--overwrite", device)), 5, "mounted at")
            assert f"umount {place}" in error["remedy"]
            fails(command(*recv(folder, "--target", image, "--overwrite", image)), 5, device)
        finally:
            subprocess.run(["umount", place], check=True)
    finally:
        subprocess.run(["losetup", "-d", device], check=True)


def test_a_filesystem_that_fills_up_below_the_target(folder: Path, small_place: Path) -> None:
    source = make_disk(folder / "source.img", 8 * MIB)
    with receiver(folder, "--target", f"tight={small_place / 't.img'}", size=8 * MIB) as there:
        ended = command(
            *("send", source, "--to", there.to, "--slot", "tight", "--state-dir", folder / "s", "--json"),
            *("--code", there.code, "--retry", "0"),
        )
        error = fails(ended, 5, "No space left")
        assert "free space" in error["remedy"]


def test_a_state_folder_that_is_full_or_no_folder(folder: Path, disk: Path, small_place: Path) -> None:
    (small_place / "ballast").write_bytes(bytes(MIB - 8192))
    target = folder / "t.img"
    fails(command("copy", disk, target, "--create", "--state-dir", small_place, "--json"), 6)
    fails(command("copy", disk, target, "--create", "--state-dir", disk, "--json"), 6)
    with pytest.raises(OSError):  # the fixture's filesystem is really full
        (small_place / "more").write_bytes(bytes(64 << 10))


# -- trust ----------------------------------------------------------------------------------------------------------


def test_codes_that_do_not_pair(folder: Path, disk: Path) -> None:
    with receiver(folder) as there, receiver(folder, name="other") as other:
        near = ("send", disk, "--to", there.to, "--state-dir", folder / "s", "--json")
        missing = fails(command(*near), 12, "not paired")
        assert "--code-file" in missing["remedy"]
        fails(command(*near, "--code", "nonsense"), 12)
        fails(command(*near, "--code", there.code[:-1] + ("0" if there.code[-1] != "0" else "1")), 12, "mistyped")
        fails(command(*near, "--code", other.code), 12, "not the expected one")
        fails(command(*near, "--code-file", folder / "absent"), 12, "No such file")
        (folder / "blank").write_text("\n")
        fails(command(*near, "--code-file", folder / "blank"), 12, "holds no pairing code")
        assert command(*near, "--code", there.code).code == 0
        second = command(*near[:-2], folder / "s2", "--json", "--code", there.code)
        fails(second, 12, "used up")


def test_a_code_is_dead_after_wrong_tries(folder: Path, disk: Path) -> None:
    from blocksync.trust.codes import PairingCode

    with receiver(folder) as there:
        near = ("send", disk, "--to", there.to, "--state-dir", folder / "s", "--json")
        fingerprint = bytes.fromhex(there.listening["fingerprint"])
        for _ in range(5):
            fails(command(*near, "--code", PairingCode.make(fingerprint).text), 12, "wrong")
        dead = fails(command(*near, "--code", there.code), 12, "dead")
        assert "blocksync recv" in dead["remedy"]


def test_another_receiver_at_a_known_address(folder: Path, disk: Path) -> None:
    near = ("send", disk, "--state-dir", folder / "s", "--json", "--retry", "0", "--to")
    with receiver(folder) as there:
        assert command(*near, there.to, "--code", there.code).code == 0
        ports = (there.listening["control_port"], there.listening["data_port"])
    with receiver(folder, name="impostor", ports=ports) as other:
        error = fails(command(*near, other.to), 12)
        assert "pair" in error["remedy"] or "code" in error["remedy"]
        fails(command("verify", *near[1:4], "--json", "--to", other.to), 12)
        # A fresh code is a person's word that this one is meant now.
        assert command(*near, other.to, "--code", other.code).code == 0


def test_a_grant_that_was_withdrawn_is_got_back_with_a_fresh_code(folder: Path, disk: Path) -> None:
    near = ("send", disk, "--state-dir", folder / "s", "--json", "--to")
    with receiver(folder) as there:
        assert command(*near, there.to, "--code", there.code).code == 0
        peer = command("peers", "--state-dir", there.state, "--json").last["peers"][0]
        assert command("revoke", peer["fingerprint"], "--state-dir", there.state).code == 0
        fails(command(*near, there.to), 12, "does not accept")
        ports = (there.listening["control_port"], there.listening["data_port"])
    with receiver(folder, ports=ports) as again:
        fails(command(*near, again.to), 12, "does not accept")
        assert command(*near, again.to, "--code", again.code).last["kind"] == "incremental"


def test_a_slot_that_is_not_granted(folder: Path, disk: Path) -> None:
    with receiver(folder) as there:
        near = ("send", disk, "--to", there.to, "--state-dir", folder / "s", "--json", "--code", there.code)
        fails(command(*near, "--slot", "secret"), 12, "no grant")
        fails(command(*near, "--slot", "../up"), 12)


def test_a_slot_that_holds_another_disk(folder: Path, disk: Path) -> None:
    with receiver(folder) as there:
        near = ("--to", there.to, "--state-dir", folder / "s", "--json")
        assert command("send", disk, *near, "--code", there.code).code == 0
        other = make_disk(folder / "other.img", 4 * MIB, seed=2)
        error = fails(command("send", other, *near), 7, "another disk")
        assert "--replace" in error["remedy"]
        assert command("send", other, *near, "--replace").code == 0
        assert there.target.read_bytes() == other.read_bytes()


def test_a_second_sender_is_told_who_holds_the_slot(folder: Path) -> None:
    disk = make_disk(folder / "source.img", 64 * MIB, data=24 * MIB)
    with receiver(folder, size=64 * MIB) as there:
        first = ("send", disk, "--to", there.to, "--state-dir", folder / "s1", "--json")
        second = ("send", disk, "--to", there.to, "--state-dir", folder / "s2", "--json", "--retry", "0")
        with running(*first, "--code", there.code, "--bwlimit", "2M") as sender:
            sender.until(lambda said: said.get("stage") == "transferring")
            there.run.end(15)
        ports = (there.listening["control_port"], there.listening["data_port"])
    with receiver(folder, size=64 * MIB, ports=ports) as again:
        assert again.to == there.to
        with running(*first, "--bwlimit", "2M") as sender:
            sender.until(lambda said: said.get("stage") == "transferring")
            error = fails(command(*second, "--code", again.code), 7, "is held by", str(disk))
            assert error["code"] == "BS0703"
            assert "--slot" in error["remedy"]
            error = fails(command("verify", *second[1:-2]), 7, "being written to")


# -- the network ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["--control-port", "--data-port"])
def test_a_port_that_is_in_use(folder: Path, option: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        words = recv(folder, "--target", folder / "t.img", "--create", "1M", option, port)
        error = fails(command(*words), 8, "Address already in use")
        assert option in error["remedy"]


def test_nobody_listens(folder: Path, disk: Path) -> None:
    with receiver(folder) as there:
        near = ("send", disk, "--to", there.to, "--state-dir", folder / "s", "--json", "--retry", "0")
        assert command(*near, "--code", there.code).code == 0
        code = there.code
    fails(command(*near), 8, "refused")
    fails(command(*near[:-4], folder / "new", "--json", "--code", code), 8, "refused")


def test_an_address_that_is_none(folder: Path, disk: Path) -> None:
    for to in ("host:port", "::1", "host:0", "host:70000"):
        fails(command("send", disk, "--to", to, "--state-dir", folder / "s", "--json"), 2)
    fails(command(*recv(folder, "--target", folder / "t", "--create", "1M", "--listen", "203.0.113.7")), 8)


def test_something_else_answers(folder: Path, disk: Path) -> None:
    with receiver(folder) as there:
        code = there.code
        near = ("send", disk, "--state-dir", folder / "s", "--json", "--retry", "0", "--code", code, "--to")
        # The data port speaks TLS with the right key, but no HTTP.
        ended = command(*near, f"127.0.0.1:{there.listening['data_port']}")
        assert ended.code in (7, 8), ended
        assert ended.last["remedy"]


# -- state ----------------------------------------------------------------------------------------------------------


def test_state_that_is_damaged_and_rebuilt(folder: Path, disk: Path) -> None:
    with receiver(folder) as there:
        near = ("--to", there.to, "--state-dir", folder / "s", "--json")
        assert command("send", disk, *near, "--code", there.code).code == 0
        there.run.end(15)
        ports = (there.listening["control_port"], there.listening["data_port"])
    for path in (there.state / "slots" / "disk").iterdir():
        if path.name != "hold":
            raw = bytearray(path.read_bytes())
            for at in range(min(64, len(raw))):
                raw[at] ^= 0x55
            path.write_bytes(raw)
    words = recv(folder, "--target", f"disk={there.target}")
    error = fails(command(*words), 6)
    assert "manifest rebuild" in error["remedy"]
    rebuilt = command("manifest", "rebuild", "disk", "--target", there.target, "--state-dir", there.state, "--json")
    assert rebuilt.code == 0, rebuilt
    with receiver(folder, ports=ports):
        again = command("send", disk, *near)
        assert again.code == 0, again
        assert again.last["changed"] == 0


@pytest.mark.parametrize(("name", "code"), [("grants.json", 6), ("identity.pem", 12)])
def test_trust_that_is_damaged(folder: Path, name: str, code: int) -> None:
    with receiver(folder) as there:
        there.run.end(15)
    (there.state / name).write_text("{torn")
    fails(command(*recv(folder, "--target", f"disk={there.target}")), code, name)


def test_state_that_another_process_holds(folder: Path) -> None:
    with receiver(folder) as there:
        state = ("--state-dir", there.state, "--json")
        fails(command("manifest", *state), 6, "held by another process")
        again = command(*recv(folder, "--target", f"disk={there.target}"))
        fails(again, 6, "held by another process")


# -- requests -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ["--nonsense"],
        ["nonsense"],
        ["send"],
        ["send", "x"],
        ["send", "x", "--to", "localhost", "--level", "20"],
        ["send", "x", "--to", "localhost", "--level", "-1"],
        ["send", "x", "--to", "localhost", "--bwlimit", "10X"],
        ["send", "x", "--to", "localhost", "--connections", "0"],
        ["send", "x", "--to", "localhost", "--digest", "md5"],
        ["send", "x", "--to", "localhost", "--block-size", "48K"],
        ["send", "x", "--to", "localhost", "--block-size", "2K"],
        ["send", "x", "--to", "localhost", "--code", "a", "--code-file", "b"],
        ["recv"],
        ["recv", "--target", "a", "--create", "0"],
        ["recv", "--target", "a", "--overwrite", "b"],
        ["recv", "--target", "s="],
        ["recv", "--target", "s=a", "--target", "s=b", "--create", "1M"],
        ["copy", "a"],
        ["copy", "a", "b", "--overwrite", "c"],
        ["demo", "--size", "1M"],
        ["manifest", "nonsense"],
        ["manifest", "rebuild", "x"],
    ],
)
def test_requests_that_make_no_sense(folder: Path, words: list[str]) -> None:
    env = environment(BLOCKSYNC_STATE_DIR=str(folder / "state"))
    if words[0] == "recv":
        words = [*words, "--control-port", "0", "--data-port", "0"]
    where = os.getcwd()
    os.chdir(folder)
    try:
        plain = command(*words, env=env)
        assert plain.code == 2
        assert plain.err.startswith(("error: ", "warning: "))
        assert "  next: " in plain.err
        assert plain.out == ""
        if words[0] != "--nonsense":
            fails(command(*words, "--json", env=env), 2)
    finally:
        os.chdir(where)


def test_no_words_at_all() -> None:
    ended = command()
    assert ended.code == 2
    assert "Usage: " in ended.err


@pytest.mark.parametrize(("to", "warned"), [("127.0.0.1:1", False), ("db1.example.org", True)])
def test_a_code_in_the_arguments_warns_where_it_matters(folder: Path, disk: Path, to: str, warned: bool) -> None:
    ended = command("send", disk, "--to", to, "--state-dir", folder / "s", "--code", "nonsense", "--json")
    fails(ended, 12)
    assert ended.err.startswith("warning: --code shows the pairing code") is warned


# -- words that are not meant ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("typed", "meant"), [("sned", "send"), ("estimat", "estimate"), ("boottest", "boot-test")])
def test_a_mistyped_command_is_told_the_one_it_resembles(typed: str, meant: str) -> None:
    ended = command(typed, "x")
    assert ended.code == 2
    assert f"Did you mean '{meant}'?" in ended.err
    assert "Did you mean" not in command("wholly-else").err


def test_a_file_that_is_no_receipt(folder: Path) -> None:
    (folder / "note").write_text("not JSON")
    fails(command("receipt", "verify", folder / "note", "--json"), 9, "it is not JSON")


def test_patterns_from_a_file_without_an_end_are_refused(folder: Path, disk: Path) -> None:
    ended = command(
        "copy",
        disk,
        folder / "t.img",
        "--create",
        "--exclude-from",
        "/dev/zero",
        "--state-dir",
        folder / "s",
        "--json",
    )
    fails(ended, 2, "/dev/zero", "patterns")
    assert not (folder / "t.img").exists()

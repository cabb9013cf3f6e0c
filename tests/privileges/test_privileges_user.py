"""``recv --user``: a receiver without rights still receives, resumes, opens its target again, is managed."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from blocksync.errors import PrivilegesError
from blocksync.platforms.privileges import Account, find_account, hand_over
from blocksync.targets.opener import Helper
from tests.devices import image, loop_device, need_root
from tests.story.story_processes import MIB, Process, World, change_pages, sample_disk, sha256

NOBODY = "nobody"
SIZE = 8 * MIB


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that other users can reach, unlike pytest's."""
    need_root()
    folder = Path(tempfile.mkdtemp(prefix="blocksync-user-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def world(place: Path) -> Iterator[World]:
    made = World(place)
    yield made
    made.close()


def command(*words: str, code: int = 0) -> dict[str, Any]:
    """The last thing that a command says which ends with that code."""
    done = subprocess.run([sys.executable, "-m", "blocksync", *words, "--json"], check=False, capture_output=True)
    assert done.returncode == code, (done.stdout, done.stderr)
    assert b"Traceback" not in done.stderr
    last: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return last


def facts(process: Process) -> dict[str, str]:
    lines = Path(f"/proc/{process.process.pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def test_it_is_that_user_alone_and_there_is_no_way_back(world: World, place: Path) -> None:
    disk = sample_disk(place / "disk.img", SIZE, seed=1)
    with loop_device(image(place / "below.img", SIZE)) as device:
        receiver, listening = world.recv(f"a={device}", more=("--user", NOBODY))
        said = facts(receiver)
        uid = str(pwd.getpwnam(NOBODY).pw_uid)
        assert said["Uid"].split() == [uid] * 4
        assert set(said["Gid"].split()) == {str(pwd.getpwnam(NOBODY).pw_gid)}
        assert said["Groups"] == ""
        assert said["NoNewPrivs"] == "1"
        assert {said[name] for name in ("CapPrm", "CapEff", "CapInh")} == {"0" * 16}
        to = f"127.0.0.1:{listening['control_port']}"
        assert world.send(disk, to).result()["generation"] == 1
        change_pages(disk, 20, seed=2)
        assert world.send(disk, to).result()["generation"] == 2
        assert world.send(disk, to, command="verify").result()["identical"] is True
        assert all(path.stat().st_uid == int(uid) for path in (place / "receiver").rglob("*"))
        assert not outlived(receiver), "a helper is left with root's rights"


def children(process: Process) -> list[int]:
    pid = process.process.pid
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def outlived(receiver: Process) -> bool:
    """Kill the receiver; whether its helper goes on."""
    (helper,) = children(receiver)
    receiver.kill()
    return (
        subprocess.run(["timeout", "20", "tail", f"--pid={helper}", "-f", "/dev/null"], check=False).returncode != 0
    )


def test_a_failed_sync_is_mended_without_rights(world: World, place: Path) -> None:
    disk = sample_disk(place / "disk.img", SIZE, seed=3)
    with loop_device(image(place / "below.img", SIZE)) as device:
        failing = (
            "strace", "-f", "-qq", "-o", str(place / "trace"), "-P", device, "-e", "trace=fdatasync",
            "-e", "inject=fdatasync:error=EIO:when=1",
        )  # fmt: skip
        receiver, listening = world.recv(f"a={device}", more=("--user", NOBODY), prefix=failing)
        result = world.send(disk, f"127.0.0.1:{listening['control_port']}").result()
        assert result["retries"] >= 1
        assert "INJECTED" in (place / "trace").read_text()
        with open(device, "rb") as copied:
            assert copied.read(SIZE) == disk.read_bytes()
        # Killing the tracer would leave the receiver; stopping the receiver ends both.
        os.kill(children(receiver)[0], signal.SIGINT)
        receiver.end()


def test_root_manages_the_state_of_a_receiver_that_is_not_root(world: World, place: Path) -> None:
    disk = sample_disk(place / "disk.img", SIZE, seed=4)
    target = place / "target.img"
    more = ("--user", NOBODY, "--create", str(SIZE))
    receiver, listening = world.recv(f"a={target}", more=more)
    to = f"127.0.0.1:{listening['control_port']}"
    world.send(disk, to).result()
    state = ("--state-dir", str(place / "receiver"))
    peers = command("peers", *state)["peers"]
    command("revoke", str(peers[0]["fingerprint"])[:8], *state)
    refused = world.send(disk, to, "--retry", "0").end()
    assert refused["code"] == "BS1200"
    receiver.kill()
    command("manifest", "rebuild", "a", "--target", str(target), *state)
    again, listening = world.recv(f"a={target}", more=more)
    assert world.send(disk, f"127.0.0.1:{listening['control_port']}").result()["changed"] == 0
    assert sha256(target) == sha256(disk)
    again.kill()


def test_a_user_that_there_is_not(world: World, place: Path) -> None:
    target = image(place / "target.img", SIZE)
    said = command(
        "recv", "--target", str(target), "--user", "nosuchuser", "--state-dir", str(place / "receiver"),
        "--control-port", "0", "--data-port", "0", code=2,
    )  # fmt: skip
    assert (said["code"], said["exit_code"]) == ("BS1700", 2)
    assert "useradd" in said["remedy"]


def test_a_state_folder_that_the_user_cannot_reach(place: Path) -> None:
    (place / "closed").mkdir(mode=0o700)
    target = image(place / "target.img", SIZE)
    said = command(
        "recv", "--target", str(target), "--user", NOBODY, "--state-dir", str(place / "closed" / "receiver"),
        "--control-port", "0", "--data-port", "0", code=2,
    )  # fmt: skip
    assert said["code"] == "BS1700"
    assert "cannot reach" in said["message"]


def test_only_state_is_given_away(place: Path) -> None:
    account = Account(NOBODY, pwd.getpwnam(NOBODY).pw_uid, pwd.getpwnam(NOBODY).pw_gid)
    names = frozenset(("slots",))
    (place / "slots").mkdir()
    (place / "passwords").write_text("")
    with pytest.raises(PrivilegesError, match="no state of blocksync"):
        hand_over(place, account, names)
    (place / "passwords").unlink()
    os.symlink("/etc/passwd", place / "slots" / "manifest")
    with pytest.raises(PrivilegesError, match="is a link"):
        hand_over(place, account, names)
    assert Path("/etc/passwd").stat().st_uid == 0
    (place / "slots" / "manifest").unlink()
    os.link(image(place.with_name(place.name + "-other"), 10), place / "slots" / "manifest")
    try:
        with pytest.raises(PrivilegesError, match="is a link"):
            hand_over(place, account, names)
    finally:
        place.with_name(place.name + "-other").unlink()


def test_root_and_nobody_at_all_are_no_users_to_become() -> None:
    need_root()
    for name in ("root", "0", "nosuchuser", "99999999999999999999"):
        with pytest.raises(PrivilegesError):
            find_account(name)


def test_the_helper_opens_what_it_was_given_and_nothing_else(place: Path) -> None:
    first = image(place / "first.img", 4096)
    descriptor = os.open(first, os.O_RDWR)
    helper = Helper([descriptor])
    try:
        inode = os.fstat(descriptor).st_ino
        os.replace(image(place / "other.img", 4096), first)  # whatever its path is now
        again = helper.opener(0)(os.O_RDWR)
        assert os.fstat(again).st_ino == inode
        os.close(again)
        for index, flags in ((1, os.O_RDWR), (0, os.O_RDWR | os.O_TRUNC), (0, os.O_RDWR | os.O_CREAT)):
            with pytest.raises(OSError, match="not permitted"):
                helper.opener(index)(flags)
    finally:
        helper.close()
        os.close(descriptor)
    with pytest.raises(OSError):
        helper.opener(0)(os.O_RDWR)

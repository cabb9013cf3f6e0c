"""What a peer says is shown, never obeyed: escape sequences in names, paths, messages, on each way to a terminal."""

from __future__ import annotations

import os
import pty
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from blocksync import api
from blocksync.cli import main
from blocksync.errors import BlocksyncError, PeerError
from blocksync.options import SendOptions
from tests.serving import MIB, Receiver, receiver
from tests.story.story_processes import World, sample_disk

TITLE = "\x1b]0;owned\x07"
CLEAR = "\x1b[2J\x9b2J"
TURNED = "\u202egnp.exe"
HOSTILE = f"{TITLE}{CLEAR}{TURNED}\r\n"
FORBIDDEN = ("\x1b]0;owned", "\x07", "\x1b[2J", "\x9b", "\u202e")


def harmless(text: str) -> None:
    for each in FORBIDDEN:
        assert each not in text, (each, text)


def at_a_terminal(*words: str | Path) -> tuple[int, str]:
    """Run the command on a terminal of its own; its exit code and everything that the terminal got."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "blocksync", *map(str, words)], stdin=theirs, stdout=theirs, stderr=theirs,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "400", "PYTHONIOENCODING": "utf-8"},
    )  # fmt: skip
    os.close(theirs)
    got = bytearray()
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:
            break
        if not part:
            break
        got += part
    os.close(ours)
    return process.wait(), got.decode("utf-8", "replace")


def test_a_senders_name_and_its_disks_path_reach_the_receivers_terminal_harmless(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path)
    try:
        disk = sample_disk(tmp_path / f"disk{HOSTILE}.img", 4 * MIB, seed=1)
        out = tmp_path / "out"
        with out.open("wb") as file:
            process = subprocess.Popen(
                [
                    sys.executable, "-m", "blocksync", "recv", "--target", f"a={tmp_path / 'target.img'}",
                    "--create", "4M", "--once", "--listen", "127.0.0.1", "--control-port", "0", "--data-port", "0",
                    "--state-dir", tmp_path / "receiver", "--code-file", tmp_path / "code",
                ],
                stdout=file, stderr=subprocess.STDOUT,
            )  # fmt: skip
            while "control port " not in out.read_text():
                assert process.poll() is None
            port = out.read_text().partition("control port ")[2].partition(",")[0]
            monkeypatch.setattr(socket, "gethostname", lambda: f"peer{HOSTILE}")
            code = (tmp_path / "code").read_text()
            api.send(str(disk), SendOptions(to=f"127.0.0.1:{port}", code=code, state_dir=tmp_path / "sender"))
            assert process.wait(60) == 0
        shown = out.read_text()
        assert "\\x1b]0;owned" in shown, "the name is not shown at all"
        harmless(shown)
        _, listed = at_a_terminal("peers", "--state-dir", tmp_path / "receiver")
        assert "x1b" in listed
        harmless(listed)
        _, listed = at_a_terminal("manifest", "show", "a", "--state-dir", tmp_path / "receiver")
        harmless(listed)
    finally:
        world.close()


@pytest.fixture
def served(tmp_path: Path) -> Receiver:
    with receiver(tmp_path) as made:
        yield made  # type: ignore[misc]


@pytest.mark.parametrize("command", ["send", "verify"])
def test_a_receivers_error_reaches_the_senders_terminal_harmless(
    served: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    def refuse(*_: object) -> object:
        raise PeerError(f"the disk {HOSTILE} says no", remedy=f"type this: {HOSTILE}")

    monkeypatch.setattr("blocksync.engine.port.PeerPort.open", refuse)
    monkeypatch.setattr("blocksync.engine.port.PeerPort.verify", refuse)
    (tmp_path / "code").write_text(served.listening.code)
    disk = sample_disk(tmp_path / "disk.img", 4 * MIB, seed=2)
    code, shown = at_a_terminal(
        command, disk, "--to", served.to, "--slot", "a", "--state-dir", tmp_path / "sender",
        "--code-file", tmp_path / "code",
    )  # fmt: skip
    assert code == 7
    assert "says no" in shown
    assert "type this" in shown
    harmless(shown)


def test_a_receivers_notice_and_slots_name_reach_the_senders_terminal_harmless(
    served: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dataclasses

    from blocksync.engine.port import PeerPort

    real = PeerPort.open
    monkeypatch.setattr(
        PeerPort,
        "open",
        lambda port, asked: dataclasses.replace(real(port, asked), notice=f"note {HOSTILE}", slot=f"a{HOSTILE}"),
    )
    (tmp_path / "code").write_text(served.listening.code)
    disk = sample_disk(tmp_path / "disk.img", 4 * MIB, seed=2)
    code, shown = at_a_terminal(
        "send", disk, "--to", served.to, "--slot", "a", "--state-dir", tmp_path / "sender",
        "--code-file", tmp_path / "code",
    )  # fmt: skip
    assert code == 0, shown
    harmless(shown)


def test_a_path_in_an_error_of_our_own_is_harmless(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["copy", str(tmp_path / f"no{HOSTILE}"), str(tmp_path / "x")]) == 4
    shown = capfd.readouterr()
    harmless(shown.out + shown.err)


def test_json_lines_are_ascii(served: Receiver, tmp_path: Path) -> None:
    disk = tmp_path / f"none{HOSTILE}"
    done = subprocess.run(
        [sys.executable, "-m", "blocksync", "send", disk, "--to", served.to, "--json"],
        check=False, capture_output=True,
    )  # fmt: skip
    assert done.returncode == 4
    done.stdout.decode("ascii")
    harmless(done.stdout.decode())
    harmless(done.stderr.decode("utf-8", "replace"))


def test_an_error_of_ours_keeps_what_a_peer_said_as_it_was() -> None:
    # Neutralising happens where text is shown, not before: programs get what was said.
    assert BlocksyncError(HOSTILE).message == HOSTILE

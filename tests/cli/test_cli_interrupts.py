"""Ctrl-C and its kin: exit code 130, no traceback, and the same command resumes."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cli_processes import MIB, Said, command, environment, limited, make_disk, receiver, running

from blocksync.trust.codes import PairingCode


def moving(said: Said) -> bool:
    return bool(said["type"] == "progress" and said["stage"] == "transferring" and said["durable"] > 0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_sender_that_is_stopped_resumes(folder: Path, number: int) -> None:
    disk = make_disk(folder / "source.img", 64 * MIB, data=24 * MIB)
    with receiver(folder, size=64 * MIB) as there:
        near = ("send", disk, "--to", there.to, "--state-dir", folder / "s", "--json", "--code", there.code)
        with running(*near, "--bwlimit", "3M") as sender:
            before = sender.until(moving)
            ended = sender.end(number)
        assert ended.code == 130
        error = ended.last
        assert (error["type"], error["exit_code"]) == ("error", 130)
        assert "resumes" in error["remedy"]
        assert "durable" in error["safe"]
        again = command(*near)
        assert again.code == 0, again
        assert again.last["resumed"] >= before["durable"]
        assert there.target.read_bytes() == disk.read_bytes()


def test_a_receiver_that_is_stopped_and_started_again(folder: Path) -> None:
    disk = make_disk(folder / "source.img", 64 * MIB, data=24 * MIB)
    with receiver(folder, size=64 * MIB) as there:
        near = ("send", disk, "--to", there.to, "--state-dir", folder / "s", "--json", "--code", there.code)
        ports = (there.listening["control_port"], there.listening["data_port"])
        with running(*near, "--bwlimit", "3M") as sender:
            sender.until(moving)
            ended = there.run.end(signal.SIGINT)
            assert ended.code == 130
            assert ended.last["exit_code"] == 130
            assert "resume" in ended.last["safe"]
            waiting = sender.until(lambda said: said.get("stage") == "waiting")
            assert "trying again" in waiting["message"]
            with receiver(folder, size=64 * MIB, ports=ports) as again:
                done = sender.end()
                assert done.code == 0, done
                assert done.last["retries"] >= 1
                assert done.last["resumed"] > 0
                assert again.target.read_bytes() == disk.read_bytes()


def test_the_second_signal_ends_it_at_once(folder: Path, disk: Path) -> None:
    """A terminal that was stopped, or a pager that does not read, holds the copy in a write that no Cancel reaches."""
    with running("copy", disk, folder / "t.img", "--create", "--state-dir", folder / "s") as copy:
        fill(copy.process)
        # Two of one kind might become one before the process sees them.
        copy.process.send_signal(signal.SIGINT)
        copy.process.send_signal(signal.SIGTERM)
        assert copy.process.wait(60) == 130


def fill(process: subprocess.Popen[str]) -> None:
    """Leave no room in the pipe that is a process's stderr, and wait until it hangs in a write to it."""
    path = Path(f"/proc/{process.pid}")
    pipe = os.open(path / "fd/2", os.O_WRONLY | os.O_NONBLOCK)
    try:
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(pipe, bytes(4096))
    finally:
        os.close(pipe)
    # The number of the call, which is write's on x86 or on ARM, and its first argument, the descriptor.
    while not any(each.read_text().startswith(("1 0x2 ", "64 0x2 ")) for each in path.glob("task/*/syscall")):
        assert process.poll() is None
        time.sleep(0.02)


@pytest.mark.parametrize("words", [["--version"], ["inspect", "/dev/null/none"]])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_after_the_last_word_changes_nothing(words: list[str], number: int) -> None:
    """The interpreter takes a while to go; the last that it runs of ours sends the signal."""
    late = f"import atexit, os; atexit.register(os.kill, os.getpid(), {number:d}); "
    alone, signalled = (
        by_script(f"{before}import sys; sys.argv[1:] = {words}; command()") for before in ("", late)
    )
    assert alone.stdout or alone.stderr
    assert alone.returncode == (4 if "inspect" in words else 0)
    assert (signalled.returncode, signalled.stdout, signalled.stderr) == (
        alone.returncode,
        alone.stdout,
        alone.stderr,
    )


def test_a_signal_while_it_starts_is_an_interruption_too() -> None:
    early = by_script("import os; cli.main = lambda: os.kill(os.getpid(), 2); command()")
    assert (early.returncode, early.stdout, early.stderr) == (130, "", "")


def by_script(script: str) -> subprocess.CompletedProcess[str]:
    program = f"from blocksync import cli; from blocksync.cli import command; {script}"
    return subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True, env=environment(), timeout=60
    )


def test_the_first_signal_ends_a_pairing_that_nobody_answers(folder: Path, disk: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        to = f"127.0.0.1:{silent.getsockname()[1]}"
        code = PairingCode.make(bytes(32)).text
        with running("send", disk, "--to", to, "--state-dir", folder / "s", "--code", code) as sender:
            held, _ = silent.accept()
            with held:
                held.recv(65536)
                sender.process.send_signal(signal.SIGINT)
                assert held.recv(65536) == b""
            assert sender.process.wait(60) == 130
            said = sender.stderr()
        assert "interrupted" in said
        assert "Traceback" not in said


def test_what_was_started_to_ignore_interrupts_goes_on(folder: Path) -> None:
    words = [sys.executable, "-m", "blocksync", "recv", "--json", "--target", str(folder / "t"), "--create", "1M"]
    words += ["--listen", "127.0.0.1", "--control-port", "0", "--data-port", "0", "--state-dir", str(folder / "s")]
    process = subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN) and None,
    )
    try:
        assert process.stdout is not None
        assert "listening" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        rest = process.stdout.read()
        assert process.wait(60) == 130
        assert '"exit_code": 130' in rest
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def test_a_reader_that_leaves_stops_it_resumably(folder: Path) -> None:
    disk = make_disk(folder / "source.img", 64 * MIB, data=24 * MIB)
    with receiver(folder, size=64 * MIB) as there:
        near = ("send", disk, "--to", there.to, "--state-dir", folder / "s", "--json", "--code", there.code)
        with running(*near, "--bwlimit", "3M") as sender:
            sender.until(moving)
            assert sender.process.stdout is not None
            sender.process.stdout.close()
            assert sender.process.wait(60) == 130
            assert sender.stderr() == ""
        assert command(*near).last["resumed"] > 0


def test_a_result_that_cannot_be_written(folder: Path, disk: Path) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full")
    words = [sys.executable, "-m", "blocksync", "copy", str(disk), str(folder / "t.img"), "--create"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*words, "--state-dir", str(folder / "s")],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            env=environment(),
            timeout=60,
        )
    assert done.returncode == 1
    assert "cannot write the output" in done.stderr
    assert "Traceback" not in done.stderr
    assert (folder / "t.img").read_bytes() == disk.read_bytes()


def test_a_pipe_that_nobody_reads_is_no_error(folder: Path) -> None:
    words = [sys.executable, "-m", "blocksync", "manifest", "list", "--state-dir", str(folder / "s")]
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            words, stdout=writing, stderr=subprocess.PIPE, text=True, check=False, env=environment(), timeout=60
        )
    finally:
        os.close(writing)
    assert done.returncode == 0
    assert done.stderr == ""


_ASKED = """
import os, signal, sys
from blocksync.cli.output import Output
from blocksync.cli.signals import Interrupts

with Interrupts(Output()) as interrupts:
    try:
        with interrupts.asking():
            # As if it came between the last look and the read: another thread gets it, and the read goes on.
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
            print("asked", flush=True)
            os.read(0, 1)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""


def test_a_signal_that_comes_just_before_the_answer_is_read_ends_the_question() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", _ASKED], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment()
    )
    with limited(process):
        assert process.stdout is not None
        assert process.stdout.readline() == "asked\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "interrupted\n"
        assert process.wait() == 0
        process.stdout.close()
        assert process.stdin is not None
        process.stdin.close()

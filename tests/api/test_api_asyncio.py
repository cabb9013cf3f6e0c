"""The library as an agent uses it: in one process, from asyncio, with cancellation that leaves everything resumable."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from blocksync import api
from blocksync.api import (
    Cancel,
    CopyOptions,
    Listening,
    Progress,
    ReceiveOptions,
    SendOptions,
    TargetSpec,
    VerifyOptions,
)
from blocksync.errors import (
    InterruptedTransferError,
    NetworkError,
    PeerError,
    StateDamagedError,
    TargetRefusedError,
    TrustError,
)
from blocksync.sources.memory import MemorySource
from blocksync.trust.codes import PairingCode
from tests.story.story_processes import MIB, change_pages, sample_disk, sha256

SIZE = 96 * MIB


class Receiver:
    """``areceive`` as a task of the running loop."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._heard: asyncio.Future[Listening] = asyncio.get_running_loop().create_future()
        self._loop = asyncio.get_running_loop()

    async def __aenter__(self) -> Listening:
        options = ReceiveOptions(
            targets=(TargetSpec(path=str(self._folder / "target.img"), slot="web", create_size=SIZE),),
            listen="127.0.0.1",
            control_port=0,
            data_port=0,
            state_dir=self._folder / "receiver",
            on_listening=lambda listening: self._loop.call_soon_threadsafe(self._heard.set_result, listening),
        )
        self._task = asyncio.ensure_future(api.areceive(options))
        return await asyncio.wait_for(self._heard, 60)

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await self._task


def options(folder: Path, listening: Listening, **more: object) -> SendOptions:
    return SendOptions(
        to=f"127.0.0.1:{listening.control_port}",
        code=listening.code,
        state_dir=folder / "sender",
        **more,  # type: ignore[arg-type]  # keywords of each test
    )


def test_an_agent_sends_is_cancelled_sends_again_and_verifies(tmp_path: Path) -> None:
    disk = sample_disk(tmp_path / "disk.img", SIZE, seed=11)

    async def story() -> None:
        async with Receiver(tmp_path) as listening:
            started = asyncio.Event()
            loop = asyncio.get_running_loop()

            def tell(progress: Progress) -> None:
                if progress.stage == "transferring" and progress.durable:
                    loop.call_soon_threadsafe(started.set)

            slow = options(tmp_path, listening, bwlimit=4 * MIB, progress=tell)
            task = asyncio.ensure_future(api.asend(str(disk), slow))
            await asyncio.wait_for(started.wait(), 60)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            resumed = await api.asend(str(disk), options(tmp_path, listening))
            assert resumed.resumed > 0
            assert sha256(tmp_path / "target.img") == sha256(disk)
            change_pages(disk, 10, seed=12)
            again = await api.asend(str(disk), options(tmp_path, listening))
            assert (again.kind, again.generation) == ("incremental", 2)
            verdict = await api.averify(
                str(disk), VerifyOptions(to=f"127.0.0.1:{listening.control_port}", state_dir=tmp_path / "sender")
            )
            assert verdict.identical
            (peer,) = api.peers(tmp_path / "receiver")
            assert peer.slots == ("web",)
            api.revoke(peer.fingerprint, tmp_path / "receiver")
            with pytest.raises(TrustError):
                await api.asend(str(disk), SendOptions(
                    to=f"127.0.0.1:{listening.control_port}", state_dir=tmp_path / "sender"))  # fmt: skip

    asyncio.run(story())
    (manifest,) = api.manifests(tmp_path / "receiver")
    assert (manifest.slot, manifest.generation, manifest.known_bytes) == ("web", 2, SIZE)


def test_no_thread_is_left_behind(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    test_an_agent_sends_is_cancelled_sends_again_and_verifies(tmp_path)
    ours = ("heartbeat", "control", "data-", "checkpoint", "rehash")
    left = set(threading.enumerate()) - before
    assert [thread.name for thread in left if thread.name.startswith(ours)] == []


def test_a_source_object_of_the_agents_is_sent_and_stays_open(tmp_path: Path) -> None:
    source = MemorySource(8 * MIB)
    source.write(3 * MIB, b"agent" * 1000)
    result = api.copy(source, str(tmp_path / "target.img"), CopyOptions(create=True, state_dir=tmp_path / "state"))
    assert result.generation == 1
    content = (tmp_path / "target.img").read_bytes()
    assert content[3 * MIB : 3 * MIB + 5000] == b"agent" * 1000
    assert len(content) == 8 * MIB
    source.write(0, b"still open")


def test_copy_refuses_resumes_and_repeats_as_send_does(tmp_path: Path) -> None:
    disk = sample_disk(tmp_path / "disk.img", 32 * MIB, seed=13)
    target = tmp_path / "target.img"
    wanted = CopyOptions(create=True, state_dir=tmp_path / "state")
    cancel = Cancel()
    cancel.set()
    with pytest.raises(InterruptedTransferError):
        api.copy(str(disk), str(target), wanted, cancel=cancel)
    first = api.copy(str(disk), str(target), wanted)
    assert sha256(target) == sha256(disk)
    assert target.stat().st_blocks * 512 < 32 * MIB
    change_pages(disk, 5, seed=14)
    second = api.copy(str(disk), str(target), wanted)
    assert (first.generation, second.generation) == (1, 2)
    assert second.changed <= 5 * 65536
    assert sha256(target) == sha256(disk)
    other = sample_disk(tmp_path / "other.img", 32 * MIB, seed=15)
    with pytest.raises(PeerError, match="another disk"):
        api.copy(str(other), str(target), wanted)
    with pytest.raises(TargetRefusedError, match="not empty"):
        api.copy(str(disk), str(other), CopyOptions(state_dir=tmp_path / "state"))
    assert sha256(other) == sha256(sample_disk(tmp_path / "same.img", 32 * MIB, seed=15))


def paired_by(work: str, port: int, folder: Path, cancel: Cancel) -> None:
    """A call that pairs, with a code that no receiver has."""
    to, code = f"127.0.0.1:{port}", PairingCode.make(bytes(32)).text
    source = MemorySource(MIB)
    if work == "send":
        api.send(source, SendOptions(to=to, code=code, state_dir=folder, snapshot="none"), cancel=cancel)
    elif work == "verify":
        api.verify(source, VerifyOptions(to=to, code=code, state_dir=folder), cancel=cancel)
    else:
        api.estimate(source, api.EstimateOptions(to=to, code=code, state_dir=folder), cancel=cancel)


@pytest.mark.parametrize("work", ["send", "verify", "estimate"])
def test_cancelling_does_not_wait_for_a_peer_that_says_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, work: str
) -> None:
    monkeypatch.setattr("blocksync.control.contact.CONNECT_SECONDS", 20.0)
    cancel, left = Cancel(), []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def silent() -> None:
            if work == "estimate":
                listening.accept()[0].close()  # asks first whether this receiver's target is the source itself
            met, _ = listening.accept()
            with met:
                met.settimeout(15)
                # The client's hello: its handshake waits for ours from here on.
                met.recv(65536)
                cancel.set()
                left.append(met.recv(65536))

        thread = threading.Thread(target=silent)
        thread.start()
        with pytest.raises(InterruptedTransferError):
            paired_by(work, listening.getsockname()[1], tmp_path, cancel)
        thread.join()
    assert left == [b""], "it left only when the other end did"


@pytest.mark.parametrize("stopped", [True, False])
def test_a_pairing_that_was_stopped_is_told_as_stopped(tmp_path: Path, stopped: bool) -> None:
    cancel = Cancel()
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def silent() -> None:
            met, _ = listening.accept()
            if stopped:
                cancel.set()
            met.close()

        thread = threading.Thread(target=silent)
        thread.start()
        options = SendOptions(
            to=f"127.0.0.1:{listening.getsockname()[1]}",
            code=PairingCode.make(bytes(32)).text,
            state_dir=tmp_path,
            snapshot="none",
        )
        with pytest.raises(InterruptedTransferError if stopped else NetworkError):
            api.send(MemorySource(MIB), options, cancel=cancel)
        thread.join()


def test_damaged_state_is_told_and_rebuilt_from_the_target(tmp_path: Path) -> None:
    disk = sample_disk(tmp_path / "disk.img", SIZE, seed=16)

    async def one_pass() -> api.SendResult:
        async with Receiver(tmp_path) as listening:
            return await api.asend(str(disk), options(tmp_path, listening))

    asyncio.run(one_pass())
    (path,) = (tmp_path / "receiver").glob("**/web/manifest")
    damaged = bytearray(path.read_bytes())
    damaged[100] ^= 1
    path.write_bytes(damaged)
    offered = ReceiveOptions(
        targets=(TargetSpec(path=str(tmp_path / "target.img"), slot="web"),),
        listen="127.0.0.1",
        control_port=0,
        data_port=0,
        state_dir=tmp_path / "receiver",
    )
    with pytest.raises(StateDamagedError, match="damaged") as told:
        api.receive(offered)
    assert "manifest rebuild" in told.value.remedy
    cancel, heard = Cancel(), []

    def once(said: Progress) -> None:
        heard.append(said.done)
        cancel.set()

    with pytest.raises(InterruptedTransferError, match="interrupted") as stopped:
        api.rebuild("web", str(tmp_path / "target.img"), tmp_path / "receiver", progress=once, cancel=cancel)
    assert "only read" in (stopped.value.safe or "")
    assert len(heard) == 1, "it went on after it was cancelled"
    (left,) = api.manifests(tmp_path / "receiver")
    assert left.known_bytes <= heard[0] < SIZE
    rebuilt = api.rebuild("web", str(tmp_path / "target.img"), tmp_path / "receiver")
    assert rebuilt.known_bytes == SIZE
    again = asyncio.run(one_pass())
    assert (again.changed, again.zero) == (0, 0)
    assert sha256(tmp_path / "target.img") == sha256(disk)


@pytest.mark.parametrize(("agent", "more"), [("agent.py", []), ("sync_agent.py", ["receipt.json"])])
def test_the_example_agents_migrate_a_disk(tmp_path: Path, agent: str, more: list[str]) -> None:
    disk = sample_disk(tmp_path / "disk.img", SIZE, seed=17)
    heard: list[Listening] = []
    ready, cancel = threading.Event(), Cancel()

    def listening(said: Listening) -> None:
        heard.append(said)
        ready.set()

    receiver = threading.Thread(
        target=api.receive,
        args=(
            ReceiveOptions(
                targets=(TargetSpec(path=str(tmp_path / "target.img"), slot="web", create_size=SIZE),),
                listen="127.0.0.1",
                control_port=0,
                data_port=0,
                state_dir=tmp_path / "receiver",
                code_file=tmp_path / "code",
                on_listening=listening,
            ),
        ),
        kwargs={"cancel": cancel},
    )
    receiver.start()
    try:
        assert ready.wait(60)
        program = Path(__file__).parents[2] / "examples" / agent
        words = [disk, f"127.0.0.1:{heard[0].control_port}", tmp_path / "code", *(tmp_path / name for name in more)]
        done = subprocess.run(
            [sys.executable, str(program), *map(str, words)],
            env={"BLOCKSYNC_STATE_DIR": str(tmp_path / "sender"), "PATH": "/usr/bin:/bin"},
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
    finally:
        cancel.set()
        receiver.join()
    assert done.returncode == 0, done.stderr
    assert "generation 2" in done.stdout or "finished" in done.stdout
    assert sha256(tmp_path / "target.img") == sha256(disk)
    assert all(api.verify_receipt(tmp_path / name).receiver_fingerprint for name in more)

"""What is proven or claimed of a target comes from its storage: a change below the page cache is seen.

The disk that lies is a loop device: its backing file is changed while the device's pages stay cached, and so is the
block of a mounted filesystem that holds an image file.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from blocksync import api
from blocksync.api import SendOptions, VerifyOptions
from blocksync.engine.rehash import withdraw_changed
from blocksync.engine.serving import Serving
from blocksync.engine.statedir import prepare
from blocksync.errors import TargetError
from blocksync.options import ReceiveOptions, TargetSpec
from blocksync.sources.memory import MemorySource
from blocksync.targets.base import Target
from tests.devices import image, loop_device, need_root, run

MIB = 1 << 20
SIZE = 8 * MIB
AT = 5 * MIB
MARK = b"a page that is on no other disk, and on this one once"
CONTENT = (os.urandom(AT) + MARK.ljust(4096, b"\1") + os.urandom(SIZE))[:SIZE]


def disk() -> MemorySource:
    made = MemorySource(SIZE)
    made.write(0, CONTENT)
    return made


@dataclass(frozen=True, slots=True)
class Below:
    """A target and what lies below its cache."""

    target: Path
    backing: Path

    def change(self) -> None:
        """The storage loses what was written to it, durably, and nobody tells the target's cache."""
        content = self.backing.read_bytes()
        at = content.index(MARK)
        assert content.find(MARK, at + 1) < 0
        with self.backing.open("r+b") as file:
            file.seek(at)
            file.write(bytes(len(MARK)))
            file.flush()
            os.fsync(file.fileno())


@pytest.fixture(params=["device", "file"])
def below(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Below]:
    need_root()
    backing = image(tmp_path / "backing", 64 * MIB if request.param == "file" else SIZE)
    with contextlib.ExitStack() as exits:
        device = exits.enter_context(loop_device(backing))
        if request.param == "device":
            yield Below(Path(device), backing)
            return
        run("mkfs.ext4", "-q", "-O", "^has_journal", device)
        folder = tmp_path / "mounted"
        folder.mkdir()
        run("mount", device, folder)
        exits.callback(run, "umount", folder)
        yield Below(image(folder / "target.img", SIZE), backing)


class Ends:
    """A receiver of the target in this process, and what a sender asks of it."""

    def __init__(self, below: Below, folder: Path) -> None:
        spec = TargetSpec(path=str(below.target), slot="a", overwrite=True)
        options = ReceiveOptions(targets=(spec,), listen="127.0.0.1", control_port=0, data_port=0)
        self.serving = Serving(options, prepare(folder / "receiver"))
        listening = self.serving.listening()
        self.to, self.code = f"127.0.0.1:{listening.control_port}", listening.code
        self.state = folder / "sender"

    @property
    def target(self) -> Target:
        return self.serving._receiver.slots["a"].target

    def send(self) -> api.SendResult:
        options = SendOptions(to=self.to, code=self.code, state_dir=self.state, snapshot="none")
        return api.send(disk(), options)

    def verify(self) -> api.VerifyResult:
        return api.verify(disk(), VerifyOptions(to=self.to, code=self.code, state_dir=self.state))

    def warm(self) -> None:
        """Everything is in the cache, as the source has it."""
        buffer = memoryview(bytearray(SIZE))
        self.target.read_into(0, buffer)
        assert bytes(buffer) == CONTENT


@pytest.fixture
def ends(below: Below, tmp_path: Path) -> Iterator[Ends]:
    made = Ends(below, tmp_path)
    with contextlib.closing(made.serving):
        made.send()
        yield made


def test_verify_sees_what_the_storage_lost(below: Below, ends: Ends) -> None:
    assert ends.verify().identical
    ends.warm()
    below.change()
    ends.warm()
    found = ends.verify()
    assert not found.identical
    assert list(found.differing) == [(AT, 4096)]


def test_a_rebuild_claims_what_the_storage_holds(below: Below, ends: Ends, tmp_path: Path) -> None:
    # A device's cache goes with the last descriptor: one stays, as another reader's may.
    with below.target.open("rb", buffering=0) as held:
        ends.warm()
        below.change()
        ends.serving.close()
        assert MARK in held.read()
        api.rebuild("a", str(below.target), tmp_path / "receiver")
        again = Ends(below, tmp_path)
        with contextlib.closing(again.serving):
            sent = again.send()
            assert sent.changed > 0, "the rebuild claimed what was in the cache"
            assert again.verify().identical


def test_re_hashing_withdraws_what_the_storage_lost(below: Below, ends: Ends) -> None:
    ends.warm()
    below.change()
    store = ends.serving._receiver.slots["a"].store
    assert store is not None
    assert withdraw_changed(ends.target, store) == 1


def test_a_verify_whose_sync_fails_proves_nothing(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    failing = ends.target

    def fails() -> None:
        raise TargetError("cannot make it durable")

    with monkeypatch.context() as patched:
        patched.setattr(failing, "sync", fails)
        with pytest.raises(TargetError, match="durable"):
            ends.verify()
    assert ends.verify().identical, "opened again, it is asked again"

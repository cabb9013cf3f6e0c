"""The steps of the demo, in order, each with what it really did."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from blocksync.cli.demo.child import Child, Said
from blocksync.cli.demo.sample import SampleDisk, damage, sha256
from blocksync.cli.quantities import show_size
from blocksync.errors import IncompleteError, IntegrityError
from blocksync.geometry import PAGE_BYTES

SLOT = "demo"
CHANGED_PAGES = 100
# The pass that is to be killed takes about this long if nobody kills it: long enough for a first checkpoint.
KILLED_PASS_SECONDS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A line of the demo's table. Bytes; None where a step moves none."""

    name: str
    happened: str
    seconds: float
    read: int | None = None
    sent: int | None = None
    wire: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """What the last step found: hex SHA-256 of both files."""

    source_sha256: str
    target_sha256: str


class Story:
    """Tells it.

    Args:
        folder: empty; the disks and both state folders go there.
        size: of the sample disk, bytes.
        tell: called with each step when it is over.
        begin: called with what is about to be done, in a few words.
        start: of a child process, by the words of its command line; whoever tells the story ends what still runs.
    """

    def __init__(
        self,
        folder: Path,
        size: int,
        *,
        tell: Callable[[Step], None],
        begin: Callable[[str], None],
        start: Callable[[tuple[str, ...]], Child],
    ) -> None:
        self._disk = SampleDisk(folder / "source.img", size)
        self._target = folder / "target.img"
        self._code_file = folder / "pairing-code"
        self._states = (folder / "sender-state", folder / "receiver-state")
        self._to = ""
        self._tell = tell
        self._begin = begin
        self._begin_child = start

    def run(self) -> Ending:
        """From an empty folder to two identical disks.

        Raises:
            BlocksyncError: a step failed or did not do what it should.
        """
        self._make_disk()
        with self._receiver():
            self._cut_pass()
            self._pass("resume", "the same command again", expect_resume=True)
            self._begin(f"changing {CHANGED_PAGES} scattered pages of 4 KiB")
            changed = self._disk.change(CHANGED_PAGES)
            self._pass("incremental", f"{CHANGED_PAGES} pages changed ({show_size(changed)})")
            self._pass("no change", "nothing changed")
            self._verify("verify", None)
            spot = self._disk.size // 2 + 1234
            damage(self._target, spot)
            self._verify("damage", spot)
            self._pass("repair", "the write by somebody else was noticed, the target read again")
            self._verify("verify again", None)
        return self._compare()

    # -- steps --------------------------------------------------------------------------------------------------

    def _make_disk(self) -> None:
        self._begin("making a sample disk")
        began = time.monotonic()
        self._disk.make()
        happened = f"{show_size(self._disk.size)} of holes, zeros, text and random data"
        self._tell(Step(name="sample disk", happened=happened, seconds=time.monotonic() - began))

    @contextlib.contextmanager
    def _receiver(self) -> Iterator[None]:
        self._begin("starting a receiver")
        began = time.monotonic()
        with self._start(
            "recv",
            *("--target", f"{SLOT}={self._target}", "--create", str(self._disk.size)),
            *("--listen", "127.0.0.1", "--control-port", "0", "--data-port", "0"),
            *("--code-file", str(self._code_file), "--state-dir", str(self._states[1])),
        ) as child:
            listening = child.until("listening")
            self._to = f"127.0.0.1:{listening['control_port']}"
            happened = f"offers slot {SLOT}, prints a pairing code"
            self._tell(Step(name="receiver", happened=happened, seconds=time.monotonic() - began))
            yield

    def _cut_pass(self) -> None:
        """Pair, begin the full pass, and kill the sender once something is durable."""
        self._begin("first pass; its sender will be killed in the middle")
        began = time.monotonic()
        limit = ("--bwlimit", str(self._disk.size // KILLED_PASS_SECONDS))
        with self._send(*limit, "--code-file", str(self._code_file)) as child:
            last = _until_durable(child)
            child.kill()
        share = 100 * last["done"] // last["size"]
        self._tell(
            Step(
                name="full pass, cut",
                happened=f"paired; sender killed (kill -9) at {share} %, {show_size(last['durable'])} durable",
                seconds=time.monotonic() - began,
                read=last["read"],
                sent=last["changed"],
                wire=last["wire"],
            )
        )

    def _pass(self, name: str, happened: str, *, expect_resume: bool = False) -> None:
        self._begin(f"{name}: {happened}")
        began = time.monotonic()
        with self._send() as child:
            result = child.result()
        if expect_resume and not result["resumed"]:
            raise IncompleteError("the pass that was cut left nothing to resume")
        if expect_resume:
            happened += f"; {show_size(result['resumed'])} were durable already"
        self._tell(
            Step(
                name=name,
                happened=f"{happened}; generation {result['generation']}",
                seconds=time.monotonic() - began,
                read=result["read"],
                sent=result["changed"],
                wire=result["wire"],
            )
        )

    def _verify(self, name: str, spot: int | None) -> None:
        """Compare both ends; ``spot`` is the only offset where they may, and must, differ."""
        self._begin(f"{name}: both ends read everything again" + ("" if spot is None else ", one bit is wrong"))
        began = time.monotonic()
        words = (str(self._disk.path), "--to", self._to, "--state-dir", str(self._states[0]))
        with self._start("verify", *words) as child:
            result = child.result()
        ranges = [tuple(each) for each in result["differing"]]
        expected = [] if spot is None else [(spot // PAGE_BYTES * PAGE_BYTES, PAGE_BYTES)]
        if ranges != expected or result["identical"] != (spot is None):
            raise IntegrityError(f"verify found {ranges or 'no range'} differing, not {expected or 'none'}")
        happened = "identical by keyed BLAKE3 of both disks"
        if spot is not None:
            happened = f"one bit flipped on the target; verify names offset {ranges[0][0]}, length {ranges[0][1]}"
        self._tell(Step(name=name, happened=happened, seconds=time.monotonic() - began, read=result["size"]))

    def _compare(self) -> Ending:
        self._begin("SHA-256 of both files")
        ending = Ending(source_sha256=sha256(self._disk.path), target_sha256=sha256(self._target))
        if ending.source_sha256 != ending.target_sha256:
            raise IntegrityError("the two files differ")
        return ending

    # -- children -------------------------------------------------------------------------------------------------

    def _send(self, *more: str) -> Child:
        words = (str(self._disk.path), "--to", self._to, "--state-dir", str(self._states[0]))
        return self._start("send", *words, *more)

    def _start(self, *words: str) -> Child:
        return self._begin_child(words)


def _until_durable(child: Child) -> Said:
    for said in child.heard():
        if said.get("type") == "error":
            raise IncompleteError(f"{child.name}: {said.get('message')}")
        if said.get("type") == "result":
            raise IncompleteError("the first pass ended before it could be cut", remedy="take a larger --size")
        if said.get("type") == "progress" and said["durable"] and said["done"] < said["size"]:
            return said
    raise IncompleteError(f"{child.name} ended before it could be cut")

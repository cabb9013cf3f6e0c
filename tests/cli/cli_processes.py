"""The command as its users meet it: a process with arguments, an environment, two streams and an exit code."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

ROOT = Path(__file__).parents[2]
LIMIT_SECONDS = 90
MIB = 1 << 20

Said = dict[str, Any]


def environment(**changes: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("BLOCKSYNC_")}
    kernels = os.environ.get("BLOCKSYNC_KERNELS")
    if kernels:
        kept["BLOCKSYNC_KERNELS"] = kernels
    paths = [changes.pop("PYTHONPATH", ""), str(ROOT), kept.get("PYTHONPATH", "")]
    return {**kept, "PYTHONPATH": os.pathsep.join(filter(None, paths)), **changes}


@dataclass(frozen=True)
class Ended:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def objects(self) -> list[Said]:
        return [cast("Said", json.loads(line)) for line in self.out.splitlines()]

    @property
    def last(self) -> Said:
        return self.objects[-1]


@dataclass
class Running:
    """A command that has not ended."""

    process: subprocess.Popen[str]
    said: list[Said] = field(default_factory=list)

    def heard(self) -> Iterator[Said]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said.append(json.loads(line))
            yield self.said[-1]

    def until(self, wanted: Callable[[Said], bool]) -> Said:
        for said in self.heard():
            if wanted(said):
                return said
        raise AssertionError(f"ended with {self.process.wait()} after {self.said}: {self.stderr()}")

    def stderr(self) -> str:
        assert self.process.stderr is not None
        return self.process.stderr.read()

    def end(self, with_signal: int | None = None) -> Ended:
        """Wait for its end; the objects already read come first in ``out``."""
        if with_signal is not None:
            self.process.send_signal(with_signal)
        earlier = "".join(json.dumps(said) + "\n" for said in self.said)
        out, err = self.process.communicate(timeout=LIMIT_SECONDS)
        return checked(Ended(self.process.returncode, earlier + out, err))


def checked(ended: Ended) -> Ended:
    assert "Traceback" not in ended.out + ended.err, ended
    return ended


def command(*words: object, env: dict[str, str] | None = None, before: Callable[[], None] | None = None) -> Ended:
    """Run a command to its end."""
    done = subprocess.run(
        [sys.executable, "-m", "blocksync", *map(str, words)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
        check=False,
        env=env or environment(),
        preexec_fn=before,
    )
    return checked(Ended(done.returncode, done.stdout, done.stderr))


@contextlib.contextmanager
def limited(process: subprocess.Popen[Any]) -> Iterator[None]:
    """A process that hangs is killed, and the test that waits for it fails instead of hanging too."""
    watchdog = threading.Timer(LIMIT_SECONDS, process.kill)
    watchdog.start()
    try:
        yield
    finally:
        watchdog.cancel()
        watchdog.join()


@contextlib.contextmanager
def running(*words: object, env: dict[str, str] | None = None) -> Iterator[Running]:
    """Run a command beside the test; it is killed in the end."""
    process = subprocess.Popen(
        [sys.executable, "-m", "blocksync", *map(str, words)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=env or environment(),
        # A shell that started the tests in the background had them ignore it.
        preexec_fn=_obey_interrupts,
    )
    try:
        with limited(process):
            yield Running(process)
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdout, process.stderr):
            assert stream is not None
            stream.close()


def _obey_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup had them ignore that one


def fails(ended: Ended, code: int, *about: str) -> Said:
    """Assert that it failed as it should, in JSON: exit code, message, something to do next. Returns the error."""
    assert ended.code == code, ended
    error = ended.last
    assert error["type"] == "error"
    assert error["exit_code"] == code
    assert error["message"]
    assert error["remedy"]
    for part in about:
        assert part in error["message"], error
    return error


def obey_permissions() -> None:
    """In a child that root starts: give up what makes root read everything, so that modes count."""
    libc = ctypes.CDLL(None, use_errno=True)
    drop_from_bounding_set, dac_override, dac_read_search = 24, 1, 2
    for capability in (dac_override, dac_read_search):
        if libc.prctl(drop_from_bounding_set, capability, 0, 0, 0) and os.geteuid() == 0:
            raise OSError(ctypes.get_errno(), "prctl")


def make_disk(path: Path, size: int, *, data: int | None = None, seed: int = 1) -> Path:
    """A sparse image whose first ``data`` bytes are random."""
    with open(path, "wb") as file:
        file.write(random.Random(seed).randbytes(size if data is None else data))
        file.truncate(size)
    return path


@dataclass(frozen=True)
class Receiver:
    """A running ``recv`` that listens."""

    run: Running
    listening: Said
    state: Path
    target: Path

    @property
    def to(self) -> str:
        return f"127.0.0.1:{self.listening['control_port']}"

    @property
    def code(self) -> str:
        return str(self.listening["code"])


@contextlib.contextmanager
def receiver(
    folder: Path,
    *more: object,
    size: int = 4 * MIB,
    name: str = "r",
    slot: str = "disk",
    ports: tuple[int, int] = (0, 0),
    env: dict[str, str] | None = None,
) -> Iterator[Receiver]:
    state, target = folder / f"{name}-state", folder / f"{name}.img"
    words = ["recv", "--json", "--listen", "127.0.0.1", "--state-dir", state, "--target", f"{slot}={target}"]
    words += ["--create", size, "--control-port", ports[0], "--data-port", ports[1]]
    with running(*words, *more, env=env) as run:
        listening = run.until(lambda said: said["type"] in ("listening", "error"))
        assert listening["type"] == "listening", listening
        yield Receiver(run, listening, state, target)

"""Each tool as a class: what it needs, and one timed move of the disk. All processes are ended by their id."""

from __future__ import annotations

import abc
import argparse
import json
import os
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

LIMIT_SECONDS = 600


@dataclass(frozen=True, slots=True)
class Run:
    """One timed move.

    Args:
        seconds: of wall clock.
        wire: bytes sent, where the tool says so.
        processor: seconds of all its processes that have ended.
        inner: seconds that the tool itself tells, its start left out.
    """

    seconds: float
    wire: int | None = None
    processor: float = 0.0
    inner: float | None = None


def timed(*words: str | Path, stdin: Path | None = None) -> Run:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    with open(stdin or os.devnull, "rb") as source:
        done = subprocess.run(
            [str(word) for word in words], stdin=source, capture_output=True, timeout=LIMIT_SECONDS, check=False
        )
    seconds = time.perf_counter() - began
    if done.returncode:
        raise RuntimeError(
            f"{words[0]} ended with {done.returncode}: {done.stderr.decode(errors='replace')[-500:]}"
        )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = (after.ru_utime - before.ru_utime) + (after.ru_stime - before.ru_stime)
    return Run(seconds, processor=used)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextmanager
def background(*words: str | Path) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([str(word) for word in words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def await_port(port: int) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise RuntimeError(f"nobody listens on {port}")


def await_listener(port: int) -> None:
    """Wait until somebody listens, without a connection: a listener for one would be gone after it."""
    wanted = f":{port:04X} 00000000:0000 0A"
    deadline = time.monotonic() + 20
    while wanted not in Path("/proc/net/tcp").read_text():
        if time.monotonic() > deadline:
            raise RuntimeError(f"nobody listens on {port}")
        time.sleep(0.02)


def told(about: str | None, measure: Callable[[Path], object]) -> None:
    """The whole of a benchmark's command that has no option but where its images go: what it measured, as JSON."""
    parser = argparse.ArgumentParser(description=(about or "").partition("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="for the images")
    print(json.dumps(measure(parser.parse_args().folder), indent=1))


class Tool(abc.ABC):
    """Moves ``source`` to ``target``; the target keeps what earlier moves wrote.

    Tools that write everything each time (``rewrites``) share one target, empty again when the next of them begins:
    with a target each, those of 4 GiB drove programs and libraries out of a memory of 24 GiB.
    """

    name: str
    needs: tuple[str, ...] = ()
    rewrites = False

    def __init__(self, source: Path, folder: Path) -> None:
        self.source = source
        self.target = folder / f"{self.name.replace(' ', '-')}.img"
        if self.rewrites:
            self.target = folder.parent / "rewritten.img"
            self.target.unlink(missing_ok=True)

    @classmethod
    def missing(cls) -> list[str]:
        return [program for program in cls.needs if shutil.which(program) is None]

    @abc.abstractmethod
    def move(self) -> Run: ...

    def close(self) -> None:
        self.target.unlink(missing_ok=True)


class Cat(Tool):
    name = "cat to null"
    needs = ("cat",)

    def move(self) -> Run:
        return timed("sh", "-c", f"cat {self.source} > /dev/null")


class Blocksync(Tool):
    """Sender and receiver as commands of their own, over TLS, paired before the clock starts."""

    name = "blocksync"

    def __init__(self, source: Path, folder: Path) -> None:
        super().__init__(source, folder)
        self._state = folder / "state"
        self._control, data = free_port(), free_port()
        self._receiver = subprocess.Popen(
            [
                sys.executable, "-m", "blocksync", "recv", "--json", "--target", f"bench={self.target}", "--create",
                str(source.stat().st_size), "--listen", "127.0.0.1", "--control-port", str(self._control),
                "--data-port", str(data), "--state-dir", str(self._state / "receiver"),
                "--code-file", str(folder / "code"),
            ],
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        await_port(self._control)
        self._code = folder / "code"
        # A verify of the empty target pairs without moving anything.
        self._command("verify", str(self.source))

    def _command(self, *words: str) -> tuple[Run, dict[str, object]]:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        began = time.perf_counter()
        done = subprocess.run(
            [
                sys.executable, "-m", "blocksync", *words, "--json", "--to", f"127.0.0.1:{self._control}",
                "--code-file", str(self._code), "--state-dir", str(self._state / "sender"),
            ],
            capture_output=True, text=True, timeout=LIMIT_SECONDS, check=False,
        )  # fmt: skip
        seconds = time.perf_counter() - began
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        last = json.loads(done.stdout.splitlines()[-1])
        used = (after.ru_utime - before.ru_utime) + (after.ru_stime - before.ru_stime)
        inner = last.get("seconds")
        return Run(seconds, last.get("wire"), used, inner), last

    def move(self) -> Run:
        run, last = self._command("send", str(self.source))
        if last["type"] != "result":
            raise RuntimeError(str(last))
        return run

    def close(self) -> None:
        self._receiver.terminate()
        self._receiver.wait()
        super().close()


class NbdCopy(Tool):
    name = "nbdcopy TCP"
    rewrites = True
    needs = ("nbdcopy", "nbdkit")

    def _server(self, port: int) -> list[str]:
        return ["nbdkit", "-f", "-i", "127.0.0.1", "-p", str(port), "file", str(self.target)]

    def _address(self, port: int) -> str:
        return f"nbd://127.0.0.1:{port}"

    def move(self) -> Run:
        port = free_port()
        if not self.target.exists():
            with self.target.open("wb") as file:
                file.truncate(self.source.stat().st_size)
        with background(*self._server(port)):
            await_port(port)
            return timed("nbdcopy", self.source, self._address(port))


class NbdCopyTls(NbdCopy):
    name = "nbdcopy TLS"

    def __init__(self, source: Path, folder: Path) -> None:
        super().__init__(source, folder)
        self._keys = folder / "keys.psk"
        self._keys.write_text(f"bench:{os.urandom(32).hex()}\n")
        self._keys.chmod(0o600)

    def _server(self, port: int) -> list[str]:
        first, *rest = super()._server(port)
        return [first, "--tls=require", f"--tls-psk={self._keys}", *rest]

    def _address(self, port: int) -> str:
        return f"nbds://bench@127.0.0.1:{port}?tls-psk-file={self._keys}"


class QemuImg(NbdCopy):
    name = "qemu-img TCP"
    needs = ("qemu-img", "nbdkit")

    def move(self) -> Run:
        port = free_port()
        if not self.target.exists():
            with self.target.open("wb") as file:
                file.truncate(self.source.stat().st_size)
        with background(*self._server(port)):
            await_port(port)
            return timed(
                "qemu-img",
                "convert",
                "-n",
                "-W",
                "-m",
                "16",
                "-f",
                "raw",
                "-O",
                "raw",
                self.source,
                self._address(port),
            )


class Zstd(Tool):
    name = "zstd -1 socat"
    rewrites = True
    needs = ("zstd", "socat")

    def move(self) -> Run:
        port = free_port()
        # Written in place, as the others do; what arrived counts, not what was sent.
        listening = f"zstd -dcq --no-sparse 1<>{self.target}"
        with background(
            "socat", "-u", f"TCP-LISTEN:{port},bind=127.0.0.1,reuseaddr", f"SYSTEM:{listening}"
        ) as receiver:
            await_listener(port)
            began = time.perf_counter()
            sent = timed("sh", "-c", f"zstd -1 -cq {self.source} | socat -u - TCP:127.0.0.1:{port}")
            receiver.wait(LIMIT_SECONDS)
            seconds = time.perf_counter() - began
        if self.target.stat().st_size != self.source.stat().st_size:
            raise RuntimeError("what came out of zstd is not as long as what went in")
        return Run(seconds, processor=sent.processor)


class Rsync(Tool):
    name = "rsync --inplace"
    needs = ("rsync",)

    def move(self) -> Run:
        return timed("rsync", "--inplace", "--no-whole-file", "-I", self.source, self.target)


TOOLS: tuple[type[Tool], ...] = (Cat, Blocksync, NbdCopy, NbdCopyTls, QemuImg, Zstd, Rsync)

"""Real senders and receivers as processes of their own, so that they can be killed, and what they say, as events."""

from __future__ import annotations

import hashlib
import json
import os
import queue
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

Event = dict[str, Any]
WAIT_SECONDS = 120.0
PAGE = 4096
MIB = 1 << 20


class Process:
    """A ``blocksync`` command with ``--json``; its events are read as they come."""

    def __init__(
        self, *words: str, environment: dict[str, str] | None = None, prefix: tuple[str, ...] = ()
    ) -> None:
        self.process = subprocess.Popen(
            [*prefix, sys.executable, "-m", "blocksync", *words, "--json"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **(environment or {})},
        )
        self.events: list[Event] = []
        self.errors = ""
        self._queue: queue.Queue[Event | None] = queue.Queue()
        self._threads = [
            threading.Thread(target=self._read_events, daemon=True),
            threading.Thread(target=self._read_errors, daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def _read_events(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._queue.put(json.loads(line))
        self._queue.put(None)

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        self.errors = self.process.stderr.read()

    def wait_for(self, wanted: Callable[[Event], bool]) -> Event:
        """The next event that fits; an AssertionError when the process ends or is silent before."""
        while True:
            event = self._queue.get(timeout=WAIT_SECONDS)
            assert event is not None, f"it ended with {self.process.wait()}: {self.events[-1:]} {self.errors}"
            self.events.append(event)
            if wanted(event):
                return event

    def end(self) -> Event:
        """Wait for the end; the last event."""
        while (event := self._queue.get(timeout=WAIT_SECONDS)) is not None:
            self.events.append(event)
        self.process.wait(WAIT_SECONDS)
        for thread in self._threads:
            thread.join(WAIT_SECONDS)
        assert "Traceback" not in self.errors, self.errors
        return self.events[-1] if self.events else {}

    def result(self) -> Event:
        """Wait for the end, which must be a success; the result."""
        last = self.end()
        assert self.process.returncode == 0, (last, self.errors)
        assert last["type"] == "result"
        return last

    def kill(self) -> None:
        self.process.kill()
        self.end()

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def peak_memory(self) -> int:
        """Bytes, so far."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) << 10
        raise AssertionError("the process has ended")


class World:
    """A folder with both ends' state, and the processes that were started, ended at its end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.code = folder / "code"
        self._running: list[Process] = []

    def recv(
        self, *targets: str, more: tuple[str, ...] = (), control: int = 0, data: int = 0, listen: str = "127.0.0.1",
        prefix: tuple[str, ...] = (),
    ) -> tuple[Process, Event]:  # fmt: skip
        """A receiver that listens, and its ``listening`` event."""
        process = Process(
            "recv", *(word for target in targets for word in ("--target", target)), *more,
            "--listen", listen, "--control-port", str(control), "--data-port", str(data),
            "--state-dir", str(self.folder / "receiver"), "--code-file", str(self.code), prefix=prefix,
        )  # fmt: skip
        self._running.append(process)
        return process, process.wait_for(lambda event: event["type"] == "listening")

    def send(
        self, source: Path, to: str, *more: str, command: str = "send", prefix: tuple[str, ...] = ()
    ) -> Process:
        process = Process(
            command, str(source), "--to", to, "--code-file", str(self.code),
            "--state-dir", str(self.folder / "sender"), *more, prefix=prefix,
        )  # fmt: skip
        self._running.append(process)
        return process

    def close(self) -> None:
        for process in self._running:
            if process.process.poll() is None:
                process.kill()
            for stream in (process.process.stdout, process.process.stderr):
                if stream is not None:
                    stream.close()


def sample_disk(path: Path, size: int, seed: int) -> Path:
    """Runs of zeros, text and random bytes; sparse where it is zero by chance of a third of its MiB."""
    chance = random.Random(seed)
    words = [bytes(chance.choices(range(97, 123), k=chance.randrange(2, 10))) for _ in range(500)]
    with path.open("wb") as file:
        file.truncate(size)
        for offset in range(0, size, MIB):
            length = min(MIB, size - offset)
            kind = chance.randrange(4)
            if kind == 0:
                continue
            if kind == 1:
                content = bytes(length)
            elif kind == 2:
                content = b" ".join(chance.choices(words, k=length // 5))[:length]
            else:
                content = chance.randbytes(length)
            file.seek(offset)
            file.write(content)
    return path


def change_pages(path: Path, count: int, seed: int) -> None:
    chance = random.Random(seed)
    pages = path.stat().st_size // PAGE
    with path.open("r+b") as file:
        for page in chance.sample(range(pages), count):
            file.seek(page * PAGE)
            file.write(chance.randbytes(PAGE))


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(MIB):
            digest.update(block)
    return digest.hexdigest()

"""A receiver and its sender as processes of their own, paired before anything is measured."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typing_extensions import Self

LIMIT_SECONDS = 600
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Pass:
    """One pass.

    Args:
        seconds: of the whole command.
        result: what ``send --json`` ended with; its ``seconds`` leave the command's start out.
        sender, receiver: seconds of processor.
    """

    seconds: float
    result: dict[str, Any]
    sender: float
    receiver: float


class Ends:
    """Ends the receiver when it is left.

    Args:
        folder: for state and targets.
        slots: name and size in bytes of each target, which is made anew.
        near, far: words in front of the sender's and the receiver's command.
        listen: address of the receiver.
        to: address that the sender uses, where it is another.
        ports: control and data.
        target: folder of the targets; ``folder`` by default.
        more: words behind the receiver's command.
    """

    def __init__(
        self,
        folder: Path,
        slots: dict[str, int],
        *,
        ports: tuple[int, int],
        near: tuple[str, ...] = (),
        far: tuple[str, ...] = (),
        listen: str = "127.0.0.1",
        to: str = "",
        target: Path | None = None,
        more: tuple[str, ...] = (),
    ) -> None:
        self.folder = folder
        self.near = near
        self._to = f"{to or listen}:{ports[0]}"
        targets = [word for name in slots for word in ("--target", f"{name}={(target or folder) / name}.target")]
        for name, size in slots.items():
            with open((target or folder) / f"{name}.target", "wb") as file:
                file.truncate(size)
        self._process = subprocess.Popen(
            [
                *far, sys.executable, "-m", "blocksync", "recv", "--json", *targets, "--listen", listen,
                "--control-port", str(ports[0]), "--data-port", str(ports[1]), "--state-dir", str(folder / "far"),
                "--code-file", str(folder / "code"), *more,
            ],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._process.stdout is not None
        if '"listening"' not in self._process.stdout.readline():
            raise RuntimeError("the receiver does not listen")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.communicate()

    @property
    def process_id(self) -> int:
        """Of the receiver."""
        return self._process.pid

    def pair(self, source: Path, slot: str) -> None:
        """Make first contact and nothing else."""
        self.command("verify", str(source), "--slot", slot)

    def send(self, source: Path, slot: str, *options: str) -> Pass:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        receiver, began = self._receiver_processor(), time.perf_counter()
        result = self.command("send", str(source), "--slot", slot, *options)
        seconds = time.perf_counter() - began
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if result["type"] != "result":
            raise RuntimeError(str(result))
        sender = (after.ru_utime - before.ru_utime) + (after.ru_stime - before.ru_stime)
        return Pass(seconds, result, sender, self._receiver_processor() - receiver)

    def command(self, *words: str) -> dict[str, Any]:
        done = subprocess.run(
            self.words(*words), capture_output=True, text=True, timeout=LIMIT_SECONDS, check=False
        )
        last: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return last

    def words(self, *words: str) -> list[str]:
        return [
            *self.near, sys.executable, "-m", "blocksync", *words, "--json", "--to", self._to,
            "--code-file", str(self.folder / "code"), "--state-dir", str(self.folder / "near"),
        ]  # fmt: skip

    def _receiver_processor(self) -> float:
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def receiver_peak_bytes(self) -> int:
        """The most memory that the receiver had so far."""
        text = Path(f"/proc/{self._process.pid}/status").read_text()
        found = re.search(r"VmHWM:\s+(\d+) kB", text)
        return int(found[1]) << 10 if found else 0

"""``blocksync`` commands as processes forked from one that has everything imported: a run costs milliseconds, not a
third of a second. What they do from there on is what the command does; ``strace`` runs start the real program.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any

from tests.faults import injector
from tests.faults.injector import Arm

WAIT_SECONDS = 90.0
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
MODULES = (
    "aiohttp", "uvloop", "blake3", "zstandard", "rich.progress", "blocksync.api", "blocksync.cli.session",
    "blocksync.cli.program", "blocksync.cli.receiving", "blocksync.cli.sending", "blocksync.cli.verifying",
    "blocksync.cli.copying", "blocksync.cli.slots", "blocksync.engine.serving", "blocksync.engine.sender",
    "blocksync.engine.reach", "blocksync.engine.verify", "blocksync.engine.local", "blocksync.engine.inventory",
    "blocksync.sources.disk", "blocksync.targets.disk",
)  # fmt: skip


class Broken(AssertionError):
    """A promise was broken."""


def die_with_parent() -> None:
    """From now on this process ends when the one that forked it does, however that ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def import_all() -> None:
    for name in MODULES:
        importlib.import_module(name)


class Child:
    """A running command; what it says goes to files.

    Args:
        folder: for the files.
        words: of the command line.
        wanted: armed with this; None for a run without faults.
        watched: folder and device whose operations count.
        prefix: words to start the real program behind, instead of forking.
    """

    def __init__(
        self,
        folder: Path,
        *words: str,
        wanted: Arm | None = None,
        watched: tuple[str, str] = ("", ""),
        prefix: tuple[str, ...] = (),
    ) -> None:
        self.words = words
        self.code: int | None = None
        self._out, self._err, self._hit = (folder / f"{words[0]}.{kind}" for kind in ("out", "err", "hit"))
        for path in (self._out, self._err, self._hit):
            path.write_bytes(b"")
        self.pid = os.fork()
        if not self.pid:
            self._become(words, wanted, watched, prefix)

    def _become(
        self, words: tuple[str, ...], wanted: Arm | None, watched: tuple[str, str], prefix: tuple[str, ...]
    ) -> None:
        code = 70
        try:
            os.setsid()
            die_with_parent()
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            for number, path in ((1, self._out), (2, self._err)):
                os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), number)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
            sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
            sys.stdin = open(0, closefd=False)  # noqa: SIM115
            if prefix:
                environment = {key: value for key, value in os.environ.items() if key != "LD_PRELOAD"}
                program = [sys.executable, "-m", "blocksync"]
                os.execvpe(prefix[0], [*prefix, *program, *words, "--json"], environment)
            report = os.open(self._hit, os.O_WRONLY | os.O_APPEND)
            if wanted is not None:
                injector.arm(wanted, *watched, report)
            from blocksync.cli import main

            code = main([*words, "--json"])
            sys.stdout.flush()
            sys.stderr.flush()
            if wanted is not None:
                os.write(report, f"seen {injector.seen()}\n".encode())
        except BaseException:  # noqa: BLE001 - what it was is on stderr
            import traceback

            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(code)

    # -- what became of it ------------------------------------------------------------------------------------

    def poll(self) -> bool:
        """Whether it has ended."""
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
        return self.code is not None

    @property
    def killed(self) -> bool:
        return self.code == -signal.SIGKILL

    def wait(self, seconds: float = WAIT_SECONDS) -> int:
        deadline = time.monotonic() + seconds
        while not self.poll():
            if time.monotonic() > deadline:
                told = self.told()
                self.kill()
                raise Broken(f"{self.words[0]} did not end in {seconds:.0f} s: {told[-300:]}")
            time.sleep(0.003)
        assert self.code is not None
        return self.code

    def kill(self) -> None:
        # The whole group: a tracer that is killed leaves the process that it traced.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        if self.code is None:
            self.wait()

    def interrupt(self) -> None:
        if not self.poll():
            os.kill(self.pid, signal.SIGINT)

    def events(self) -> list[dict[str, Any]]:
        lines = self._out.read_text().splitlines(keepends=True)
        # A killed process may leave half a line.
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def event(self, kind: str) -> dict[str, Any] | None:
        return next((event for event in self.events() if event["type"] == kind), None)

    def told(self) -> str:
        return (self._out.read_text()[-1500:] + self._err.read_text())[-3000:]

    def hit(self) -> str:
        """Call, count and path that the fault met; empty where it met none."""
        lines = [line for line in self._hit.read_text().splitlines() if not line.startswith("seen ")]
        return lines[0] if lines else ""

    def seen(self) -> int:
        for line in self._hit.read_text().splitlines():
            if line.startswith("seen "):
                return int(line.split()[1])
        return 0

    def check_said(self) -> None:
        """Nothing that it said until now is a bug's.

        Raises:
            Broken: a traceback.
        """
        text = self._err.read_text()
        if "Traceback" in text or "unexpected" in text:
            raise Broken(f"{self.words[0]} shows a bug: {text[-2000:]}")

    def check(self) -> dict[str, Any]:
        """The last event of a process that ended by itself; its exit must be one that is documented.

        Raises:
            Broken: a traceback, an exit code of a bug, or an end that does not fit what was said.
        """
        code = self.wait()
        self.check_said()
        events = self.events()
        last = events[-1] if events else {}
        if code == 0:
            if last.get("type") != "result":
                raise Broken(f"{self.words[0]} ends well without a result: {last}")
        elif last.get("type") == "error":
            if last["exit_code"] != code or code in (1, 2) or not last["message"] or not last["remedy"]:
                raise Broken(f"{self.words[0]} ended with {code} and said {last}")
        elif not (code == 9 and last.get("command") == "verify"):
            raise Broken(f"{self.words[0]} ended with {code} and said nothing: {self.told()}")
        return last


def processor_seconds() -> float:
    """Of this process and all its children that have ended."""
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime

"""Commands of ours as child processes that speak JSON, one of which will be killed in the middle."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from types import TracebackType
from typing import Any, cast

from typing_extensions import Self

from blocksync.errors import BlocksyncError, IncompleteError
from blocksync.protocol.sender import error_by_code

STOP_SECONDS = 10.0
# What must not leak from the user's shell into the story.
_OURS = ("BLOCKSYNC_CODE", "BLOCKSYNC_STATE_DIR")

Said = dict[str, Any]


class Child:
    """One command, running.

    Args:
        words: of its command line, after ``blocksync``; ``--json`` is added.
    """

    def __init__(self, *words: str) -> None:
        environment = {name: value for name, value in os.environ.items() if name not in _OURS}
        # The package that runs the demo is the one to be shown, installed or not.
        root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (root, environment.get("PYTHONPATH"))))
        self.name = f"blocksync {words[0]}"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "blocksync", *words, "--json"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
            # Ctrl-C goes to the demo alone, which then ends its children in order.
            start_new_session=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def heard(self) -> Iterator[Said]:
        """What it says, line by line, until it ends."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with contextlib.suppress(ValueError):
                said = json.loads(line)
                if isinstance(said, dict):
                    yield cast("Said", said)

    def until(self, kind: str) -> Said:
        """Wait for an object of this type.

        Raises:
            BlocksyncError: it failed, or ended without.
        """
        for said in self.heard():
            if said.get("type") == kind:
                return said
            if said.get("type") == "error":
                raise self._failed(said)
        raise IncompleteError(f"{self.name} ended with exit code {self.process.wait()} and said nothing")

    def result(self) -> Said:
        """Wait for its end; returns its result.

        Raises:
            BlocksyncError: it failed.
        """
        said = self.until("result")
        self.process.wait()
        return said

    def kill(self) -> None:
        """``kill -9``: nothing of it runs any more when this returns."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """Ask it to end, and insist after a while."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.kill()
        if self.process.stdout is not None:
            self.process.stdout.close()

    def _failed(self, said: Said) -> BlocksyncError:
        error = error_by_code(said.get("code"), said.get("message"), said.get("remedy"))
        error.message = f"{self.name}: {error.message.removeprefix('receiver: ')}"
        return error

"""A whole receiver in this process, and senders' ways to it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from blocksync.engine.reach import Reach
from blocksync.engine.serving import Serving
from blocksync.engine.statedir import prepare
from blocksync.options import ReceiveOptions, TargetSpec
from blocksync.results import Listening

MIB = 1 << 20


class Receiver:
    """Offers slots ``a`` and ``b`` of 4 MiB on loopback."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        targets = tuple(
            TargetSpec(path=str(folder / f"{name}.img"), slot=name, create_size=4 * MIB) for name in ("a", "b")
        )
        options = ReceiveOptions(targets=targets, listen="127.0.0.1", control_port=0, data_port=0)
        self.state = prepare(folder / "receiver")
        self.serving = Serving(options, self.state)
        self.listening: Listening = self.serving.listening()
        self.to = f"127.0.0.1:{self.listening.control_port}"

    def reach(self, name: str = "sender", code: str | None = None) -> Reach:
        """Pairs where a code is given."""
        return Reach(prepare(self.folder / name), self.to, code)


@contextlib.contextmanager
def receiver(folder: Path) -> Iterator[Receiver]:
    made = Receiver(folder)
    try:
        yield made
    finally:
        made.serving.close()

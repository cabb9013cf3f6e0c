"""``blocksync demo``."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from blocksync.cli.grid import draw
from blocksync.cli.parameters import common, sized
from blocksync.cli.quantities import show_seconds, show_size
from blocksync.cli.session import Session
from blocksync.errors import StateError, UsageError, from_os_error

if TYPE_CHECKING:
    from collections.abc import Iterator

    from blocksync.cli.demo.story import Ending, Step

MIB = 1 << 20
LEAST_BYTES = 64 * MIB
"""Below this the first pass is over before it can be cut."""

COLUMNS = ("step", "what happened", "read", "sent", "on the wire", "seconds")


@click.command()
@click.option(
    "--size", type=sized(LEAST_BYTES), default="256M", show_default=True, metavar="SIZE", help="Of the sample disk."
)
@click.option("--keep", is_flag=True, help="Keep the folder with both disks and their state.")
@common(state=False)
def demo(session: Session, size: int, keep: bool) -> int:
    """Tell the whole story on this machine, with a sample disk in a temporary folder.

    Pairs, makes a full pass whose sender is killed, resumes it, sends changes, verifies, and repairs damage.
    """
    from blocksync.cli.demo.child import Child
    from blocksync.cli.demo.story import Story

    size = -(-size // MIB) * MIB
    steps: list[Step] = []
    children: list[Child] = []
    began = time.monotonic()

    def kill_children() -> None:
        for child in children:
            with contextlib.suppress(OSError):
                child.process.kill()

    def tell(step: Step) -> None:
        steps.append(step)
        session.output.event("step", dataclasses.asdict(step), f"  {step.name}: {step.happened}")

    def start(words: tuple[str, ...]) -> Child:
        # An interrupt between the start of a process and our knowing it would leave it running.
        with session.interrupts.held():
            children.append(Child(*words))
        return children[-1]

    def stop_children() -> None:
        for child in children:
            child.stop()

    session.interrupts.before_exit = kill_children
    with _folder(size, keep) as folder, contextlib.ExitStack() as ends:
        ends.callback(stop_children)
        session.output.note(f"in {folder}")
        ending = Story(folder, size, tell=tell, begin=session.output.note, start=start).run()
        _conclude(session, steps, ending, time.monotonic() - began, folder if keep else None)
    return 0


@contextlib.contextmanager
def _folder(size: int, keep: bool) -> Iterator[Path]:
    try:
        folder = Path(tempfile.mkdtemp(prefix="blocksync-demo-"))
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise from_os_error(error, StateError, "cannot make a temporary folder") from error
    try:
        if free < 2 * size:
            raise UsageError(
                f"{folder.parent} has {show_size(free)} free, the demo needs twice {show_size(size)}",
                remedy="choose another place with TMPDIR, or a smaller --size",
            )
        yield folder
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


def _conclude(session: Session, steps: list[Step], ending: Ending, seconds: float, kept: Path | None) -> None:
    output = session.output
    if output.json_lines:
        facts = {
            "command": "demo",
            "identical": True,
            "seconds": seconds,
            "steps": [dataclasses.asdict(step) for step in steps],
            "folder": str(kept) if kept else None,
        }
        output.result({**facts, **dataclasses.asdict(ending)})
        return
    rows = [
        (step.name, step.happened, _size(step.read), _size(step.sent), _size(step.wire), f"{step.seconds:.1f}")
        for step in steps
    ]
    output.table("\n" + draw("", COLUMNS, rows, numbers=COLUMNS[2:]))
    output.result(
        {},
        f"sha256 source {ending.source_sha256}",
        f"sha256 target {ending.target_sha256}",
        f"identical, in {show_seconds(seconds)}; of the pass that was cut, the numbers are its sender's last ones",
    )
    if kept is not None:
        output.result({}, f"kept in {kept}")


def _size(count: int | None) -> str:
    return "" if count is None else show_size(count)

"""``check``: all that can be looked at on this end, and on the way to the receiver."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from blocksync.engine.cancel import Cancel
from blocksync.engine.reach import parse_address
from blocksync.engine.statedir import prepare
from blocksync.errors import BlocksyncError, StateError
from blocksync.flatten.tree import FolderTree, Guest
from blocksync.platforms import SHADOW_COPIES
from blocksync.preflight import findings
from blocksync.preflight.findings import Finding, found
from blocksync.preflight.network import Way
from blocksync.preflight.offline import offline_system
from blocksync.preflight.places import picture, readable, target_findings
from blocksync.preflight.quantities import size_of
from blocksync.preflight.quick import mounted_at
from blocksync.preflight.results import CheckOptions, CheckResult
from blocksync.preflight.shadows import shadow_findings
from blocksync.preflight.snapshots import free_of_groups, snapshot_findings
from blocksync.preflight.state import state_findings
from blocksync.preflight.system import is_system, system_findings
from blocksync.sources import open_source
from blocksync.sources.base import Source
from blocksync.trust.identity import Identity
from blocksync.trust.pins import Pins
from blocksync.volumes.layout import Layout, read_layout
from blocksync.volumes.reader import SourceReader

PROGRAM_SECONDS = 60


def check(options: CheckOptions, cancel: Cancel) -> CheckResult:
    """Look at everything that the options name. Faults are findings; nothing is changed.

    Raises:
        InterruptedTransferError: cancelled.
    """
    made: list[Finding] = []
    for finding in _findings(options, cancel):
        # What was cut short looks like trouble with the network: it is none.
        cancel.check()
        made.append(finding)
    cancel.check()
    return CheckResult(findings=tuple(made))


def _findings(options: CheckOptions, cancel: Cancel) -> Iterator[Finding]:
    try:
        state = prepare(options.state_dir)
    except StateError as error:
        yield found(findings.STATE_UNUSABLE, error.message, error.remedy)
        return
    sizes: list[tuple[str, int]] = []
    for name in options.sources:
        _tell(options, f"looking at {name}")
        try:
            with open_source(name, cancel.watching) as source:
                sizes.append((name, source.size))
                yield from source_findings(name, source)
        except BlocksyncError as error:
            yield found(findings.SOURCE_UNREADABLE, error.message, error.remedy)
    if not options.sources and not options.targets and options.system:
        _tell(options, "looking at this system")
        yield from _own_system()
    if SHADOW_COPIES and not options.targets:
        yield from shadow_findings(run_program)
    for path in options.targets:
        _tell(options, f"looking at {path}")
        yield from target_findings(path, state)
    total = sum(size for _, size in sizes) + sum(_size_of_file(path) for path in options.targets)
    yield from state_findings(state, total)
    if options.to:
        _tell(options, f"looking for {options.to}")
        yield from _way_findings(options, state, sizes, cancel)


def _tell(options: CheckOptions, what: str) -> None:
    if options.progress is not None:
        options.progress(what)


# -- the source -----------------------------------------------------------------------------------------------


def source_findings(name: str, source: Source) -> Iterator[Finding]:
    """Readable, what it holds, whether a snapshot can be taken, and the system on it."""
    unreadable = list(readable(source))
    if unreadable:
        yield from unreadable
        return
    layout = read_layout([(name, SourceReader(source))])
    yield from picture(source, layout)
    mounted = mounted_at(name)
    if mounted is not None:
        yield from snapshot_findings(name, layout, mounted, free_of_groups)
    if mounted is not None and "/" in mounted:
        yield from _own_system()
    elif mounted:
        yield found(
            findings.SYSTEM_UNSEEN, f"{name} is in use and is not this system's own disk: its files were not read"
        )
    else:
        yield from _offline(name, layout)


def _own_system(*, initramfs: bool = True) -> Iterator[Finding]:
    if os.name != "posix":
        return
    descriptor = os.open("/", os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_CLOEXEC", 0))
    with contextlib.closing(FolderTree(descriptor, "this system")) as tree:
        guest = Guest(tree)
        if is_system(guest):
            yield from system_findings(guest, initramfs=initramfs)


def _offline(name: str, layout: Layout) -> Iterator[Finding]:
    if not any(part.filesystem for disk in layout.disks for part in disk.partitions):
        return
    if os.name != "posix" or os.geteuid() != 0:
        yield found(
            findings.SYSTEM_UNSEEN,
            f"the files on {name} were not read: that needs root",
            "run blocksync check as root",
        )
        return
    try:
        with offline_system(name, layout) as guest:
            if guest is None:
                yield found(
                    findings.SYSTEM_UNSEEN, f"{name} has no partition with a Linux system that can be read here"
                )
                return
            yield from system_findings(guest)
    except BlocksyncError as error:
        yield found(findings.SYSTEM_UNSEEN, f"the files on {name} were not read: {error.message}")


# -- the receiver ---------------------------------------------------------------------------------------------


def _way_findings(
    options: CheckOptions, state: Path, sizes: list[tuple[str, int]], cancel: Cancel
) -> Iterator[Finding]:
    host, port = parse_address(options.to)
    names = [name for name, _ in sizes]
    way = Way(host, port, Identity.load_or_create(state), Pins(state).find(host, port), names, cancel)
    yield from way.findings()
    for name, size in sizes:
        slot = way.slots.get(options.slot) if options.slot else None
        if slot is None and len(way.slots) == 1:
            slot = next(iter(way.slots.values()))
        there = slot.get("size") if isinstance(slot, dict) else None
        if isinstance(there, int) and there < size:
            yield found(findings.TARGET_SMALL, f"the target has {size_of(there)}, and {name} {size_of(size)}")


def _size_of_file(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def run_program(words: list[str]) -> tuple[int, str]:
    """Run one of the system's own programs for a look."""
    try:
        done = subprocess.run(
            words, check=False, capture_output=True, text=True, errors="replace", timeout=PROGRAM_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return 1, str(error)
    return done.returncode, done.stdout or done.stderr

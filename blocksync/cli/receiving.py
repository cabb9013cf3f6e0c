"""``blocksync recv``."""

from __future__ import annotations

import dataclasses
import os
import socket
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import click

from blocksync.cli.display import HAPPENINGS, Display, showing
from blocksync.cli.parameters import PATH, common, log_option, sized
from blocksync.cli.session import Session
from blocksync.errors import InterruptedTransferError, UsageError
from blocksync.options import DEFAULT_CONTROL_PORT, DEFAULT_DATA_PORT, ReceiveOptions, TargetSpec
from blocksync.results import Listening, Progress

if TYPE_CHECKING:
    from blocksync.results import ReceiveResult

PORT = click.IntRange(0, 65535)
# A documentation address (RFC 5737): connecting a UDP socket sends nothing, but chooses the way out.
_ANYWHERE = ("192.0.2.1", 9)


@click.command()
@click.option(
    "--target",
    "targets",
    multiple=True,
    required=True,
    metavar="[SLOT=]PATH",
    help="An image file, block device or nbd:// export to offer, and its name for senders. Repeatable.",
)
@click.option("--create", type=sized(512), metavar="SIZE", help="Make image files that are missing, of this size.")
@click.option(
    "--overwrite", multiple=True, metavar="PATH", help="Consent to this target not being empty. Repeatable."
)
@click.option(
    "--no-repair",
    is_flag=True,
    help="Mount nothing: no repair after --flatten, no removal of excluded names.",
)
@click.option("--boot-test", is_flag=True, help="Boot a throw-away overlay of each system that was flattened here.")
@click.option("--once", is_flag=True, help="Exit after one committed transfer to each target.")
@click.option("--status-listen", default="", metavar="ADDRESS:PORT", help="Status page and metrics, loopback only.")
@click.option("--listen", default="", metavar="ADDRESS", help="Listen on this address. [default: all]")
@click.option("--control-port", type=PORT, default=DEFAULT_CONTROL_PORT, show_default=True, help="0 picks one.")
@click.option("--data-port", type=PORT, default=DEFAULT_DATA_PORT, show_default=True, help="0 picks one.")
@log_option
@click.option("--code-file", type=PATH, metavar="FILE", help="Also write the pairing code there (0600).")
@click.option(
    "--code-folder", type=PATH, metavar="DIR", help="A code of its own for each slot, in files of the slots' names."
)
@click.option(
    "--senders", type=click.IntRange(1, 1024), default=64, show_default=True, help="At a time; others wait."
)
@click.option(
    "--memory",
    type=sized(64 << 20),
    metavar="SIZE",
    help="Buffers for all senders together. [default: a quarter of this machine's, at most 512M]",
)
@click.option("--user", metavar="NAME", help="Become this user once targets and ports are open; needs root.")
@common()
def recv(
    session: Session,
    targets: tuple[str, ...],
    create: int | None,
    overwrite: tuple[str, ...],
    no_repair: bool,
    boot_test: bool,
    once: bool,
    status_listen: str,
    listen: str,
    control_port: int,
    data_port: int,
    code_file: Path | None,
    code_folder: Path | None,
    senders: int,
    memory: int | None,
    log_file: Path | None,
    user: str | None,
    state_dir: Path | None,
) -> int:
    """Offer targets to senders.

    Prints the pairing code and the line to type on the source. Ctrl-C ends it and leaves everything resumable.
    """
    session.log_to(log_file)
    specs = target_specs(targets, create, overwrite)
    from blocksync import api

    with session.cancellable() as cancel, showing(session.output) as display:
        options = ReceiveOptions(
            targets=specs,
            listen=listen,
            control_port=control_port,
            data_port=data_port,
            state_dir=state_dir,
            code_file=code_file,
            code_folder=code_folder,
            senders=senders,
            memory=memory or 0,
            repair=not no_repair,
            boot_test=boot_test,
            once=once,
            user=user,
            status_listen=status_listen,
            progress=lambda progress: _tell(session, display, progress),
            on_listening=lambda listening: _introduce(session, listening, listen),
        )
        result = api.receive(options, cancel=cancel)
    if cancel.is_set():
        raise InterruptedTransferError(
            "the receiver was stopped",
            safe="everything that was acknowledged is durable; senders resume there",
            remedy="run the same command again",
        )
    _conclude(session, result)
    return 0


def target_specs(
    targets: tuple[str, ...], create: int | None, overwrite: tuple[str, ...]
) -> tuple[TargetSpec, ...]:
    """What ``--target``, ``--create`` and ``--overwrite`` mean together.

    Raises:
        UsageError: consent is given for something that is not offered, or a size to what has one.
    """
    named = [_split(target) for target in targets]
    consents = {os.path.realpath(path): path for path in overwrite}
    specs = []
    for slot, path in named:
        consent = consents.pop(os.path.realpath(path), None)
        size = None if _is_device(path) else create
        specs.append(TargetSpec(path=path, slot=slot, create_size=size, overwrite=consent is not None))
    for path in consents.values():
        raise UsageError(f"--overwrite {path} names no target", remedy="name it as in --target, without the slot")
    if create is not None and all(spec.create_size is None for spec in specs):
        raise UsageError(
            "--create makes image files, and every target is a device or an export", remedy="leave --create out"
        )
    return tuple(specs)


def _split(target: str) -> tuple[str, str]:
    """``SLOT=PATH`` or a path, which may hold ``=`` itself: a slot's name has no separator."""
    from blocksync.trust.names import check_slot_name

    slot, equals, path = target.partition("=")
    # An address has its own equals signs, behind separators; a slot may stand before it.
    if not equals or os.sep in slot or os.path.lexists(target):
        return "", target
    if not path:
        raise UsageError(f"--target {target} names no path", remedy="write --target SLOT=PATH")
    return check_slot_name(slot), path


def _is_device(path: str) -> bool:
    if "://" in path:
        return True
    try:
        return stat.S_ISBLK(os.stat(path).st_mode)
    except OSError:
        return False


def _introduce(session: Session, listening: Listening, listen: str) -> None:
    host = _own_address(listen)
    to = f"[{host}]" if ":" in host else host
    if listening.control_port != DEFAULT_CONTROL_PORT:
        to = f"{to}:{listening.control_port}"
    ports = f"control port {listening.control_port}, data port {listening.data_port}"
    lines = [f"offering {', '.join(listening.slots)} on {ports}"]
    if listening.codes:
        lines.append("pairing codes, one for each slot:")
        lines.extend(f"  {slot} {code}" for slot, code in listening.codes)
    else:
        lines.append(f"pairing code: {listening.code}")
    lines.append("on the source type, and give the code when asked for it:")
    if len(listening.slots) == 1:
        lines.append(f"  blocksync send SOURCE --to {to}")
    else:
        lines.extend(f"  blocksync send SOURCE --to {to} --slot {slot}" for slot in listening.slots)
    session.output.event("listening", {**dataclasses.asdict(listening), "to": to}, *lines)


def _own_address(listen: str) -> str:
    """An address of ours that a source can probably reach."""
    if listen not in ("", "0.0.0.0", "::"):  # noqa: S104 - compared with, not listened on
        return listen
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(_ANYWHERE)
            address: str = probe.getsockname()[0]
            return address
    except OSError:
        return socket.gethostname()


def _tell(session: Session, display: Display, progress: Progress) -> None:
    if progress.stage in HAPPENINGS:
        text = f"{progress.slot}: {progress.message}" if progress.slot else progress.message
        facts = {"slot": progress.slot, "message": progress.message, **progress.detail}
        session.output.event(progress.stage, facts, text)
        progress = dataclasses.replace(progress, message="")
        if session.output.json_lines:
            return
    elif progress.stage == "transferring":
        # What counts at this end is what is durable.
        progress = dataclasses.replace(progress, done=max(progress.done, progress.durable))
    display(progress)


def _conclude(session: Session, result: ReceiveResult) -> None:
    committed = [{"slot": slot, "generation": generation} for slot, generation in result.committed]
    session.output.result(
        {"command": "recv", "committed": committed},
        "received: " + ", ".join(f"{slot} (generation {generation})" for slot, generation in result.committed),
    )

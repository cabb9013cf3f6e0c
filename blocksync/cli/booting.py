"""``blocksync boot-test``."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click

from blocksync.cli.parameters import PATH, common
from blocksync.cli.quantities import show_seconds
from blocksync.cli.session import Session
from blocksync.errors import BootFailedError
from blocksync.options import BootOptions

if TYPE_CHECKING:
    from blocksync.flatten.boottest import BootReport


@click.command("boot-test")
@click.argument("targets", nargs=-1, required=True, metavar="TARGET…")
@click.option(
    "--firmware",
    type=click.Choice(["bios", "uefi", "uefi-secure"]),
    default=None,
    help="The last with Secure Boot on, and Microsoft's keys. [default: what TARGET is made for]",
)
@click.option("--timeout", type=click.FloatRange(min=1), default=600.0, show_default=True, metavar="SECONDS")
@click.option("--memory", type=click.IntRange(128), default=1024, show_default=True, metavar="MIB")
@click.option(
    "--output", type=PATH, metavar="DIR", help="For the log and the screenshot. [default: TARGET.boot-test]"
)
@common(state=False)
def boot_test(
    session: Session,
    targets: tuple[str, ...],
    firmware: str | None,
    timeout: float,
    memory: int,
    output: Path | None,
) -> int:
    """Boot TARGET in QEMU, on an overlay that is thrown away, and say how far it comes.

    A system on several targets needs them all, the one that the firmware boots first.

    Nothing of TARGET is written, and the guest has no network. Exits with 11 where the system does not come up.
    """
    from blocksync import api

    options = BootOptions(firmware=firmware or "", folder=output, seconds=timeout, memory_mib=memory)
    with session.cancellable() as cancel:
        report = api.boot_test(targets[0], options, beside=targets[1:], cancel=cancel)
    session.output.result({"command": "boot-test", **dataclasses.asdict(report)}, *report_lines(report))
    return 0 if report.good else BootFailedError.exit_code


def report_lines(report: BootReport) -> list[str]:
    """A trial boot in words."""
    how = "hardware virtualisation" if report.accelerated else "emulation"
    took = f"after {show_seconds(report.seconds)} ({report.firmware.upper()}, {how})"
    lines = [
        f"the system boots: a login prompt {took}" if report.good else f"it does not boot: {report.verdict} {took}"
    ]
    if report.seen:
        lines.append(f"  seen: {report.seen}")
    lines += [f"  {notice}" for notice in report.notices]
    if report.remedy:
        lines.append(f"  next: {report.remedy}")
    lines.append(f"  console: {report.console}")
    if report.screenshot:
        lines.append(f"  screenshot: {report.screenshot}")
    return lines

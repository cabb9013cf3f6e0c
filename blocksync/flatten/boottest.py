"""A trial boot of a target in QEMU: on a throw-away overlay, watched by its serial console and its text screen.

Nothing of the target is written: QEMU opens it read-only behind an overlay that is deleted. Hardware virtualisation is
used where a trial shows that it works (``/dev/kvm`` may be there and broken), else QEMU's own emulation. The guest has
no network. What a screen in text mode shows is read from the video memory, so that a boot loader's prompt is recognised
on systems without a serial console too; a screenshot is kept in any case.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from blocksync.errors import BootTestError
from blocksync.flatten.bootsigns import SIGNS, Sign, judge, notices, plain
from blocksync.flatten.emulator import Monitor, accelerator, command, running
from blocksync.trust.names import printable

DEFAULT_SECONDS = 600.0
_POLL_SECONDS = 0.5
_MOST_CONSOLE_BYTES = 8 << 20
_SETTLE_SECONDS = 3.0
_HANDED_OVER = re.compile(r"Booting from Hard Disk\.*\s*\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class BootReport:
    """What a trial boot showed.

    Args:
        verdict: a sign's, ``silent`` where the time ran out without one, ``ended`` where QEMU did.
        good: a login prompt came.
        seen: the line that told it.
        remedy: what to do; empty where nothing is.
        notices: other things worth knowing, in lines.
        console: path of the console's log.
        screenshot: path of the last screen; empty where there is none.
        accelerated: by hardware virtualisation.
        seconds: until the verdict.
    """

    verdict: str
    good: bool
    seen: str
    remedy: str
    notices: tuple[str, ...]
    console: str
    screenshot: str
    accelerated: bool
    firmware: str
    seconds: float


def boot_test(
    path: str,
    *,
    firmware: str,
    folder: Path,
    seconds: float = DEFAULT_SECONDS,
    memory_mib: int = 1024,
    stopped: Callable[[], bool] = lambda: False,
    until: str = "",
    beside: Sequence[str] = (),
) -> BootReport:
    """Boot a target and watch.

    Args:
        path: of the target.
        firmware: ``bios``, ``uefi``, or ``uefi-secure``: with Secure Boot on.
        folder: where the console's log and the screenshot are kept.
        seconds: how long to wait for a sign; time stands still for nobody without hardware virtualisation.
        memory_mib: of the guest.
        stopped: asked now and then whether to give up.
        until: a text on the console to go on waiting for after the login prompt, if any.
        beside: paths of the further targets of the system, in their order.

    Raises:
        BootTestError: QEMU or the firmware is missing, or it cannot be started.
    """
    qemu = shutil.which("qemu-system-x86_64") or shutil.which("qemu-kvm") or "/usr/libexec/qemu-kvm"
    if not os.access(qemu, os.X_OK):
        raise BootTestError("qemu-system-x86_64 is missing on this machine")
    fastest = accelerator(qemu)
    folder.mkdir(parents=True, exist_ok=True)
    console, screen = folder / "console.log", folder / "screen.png"
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="blocksync-boot-") as work:
        words = command(qemu, (path, *beside), firmware, Path(work), console, memory_mib, accelerator=fastest)
        with running(words, Path(work)) as (process, monitor):
            verdict, seen, sign = _watch(process, monitor, console, began + seconds, stopped, until)
            shown = monitor.screenshot(screen)
    text = plain(_tail(console))
    return BootReport(
        verdict=verdict,
        good=verdict == "login",
        seen=seen,
        remedy=_remedy(verdict, sign),
        notices=tuple(notices(text)),
        console=str(console),
        screenshot=str(screen) if shown else "",
        accelerated="kvm" in fastest,
        firmware=firmware,
        seconds=round(time.monotonic() - began, 1),
    )


def _remedy(verdict: str, sign: Sign | None) -> str:
    if sign is not None:
        return sign.remedy
    if verdict == "silent":
        return (
            "look at the screenshot: the system says nothing on a serial console (console=ttyS0 on its command line), "
            "or needs more time (--timeout)"
        )
    return "look at the console log"


def _watch(
    process: subprocess.Popen[bytes],
    monitor: Monitor,
    console: Path,
    deadline: float,
    stopped: Callable[[], bool],
    until: str,
) -> tuple[str, str, Sign | None]:
    while time.monotonic() < deadline and not stopped():
        text = plain(_tail(console))
        found = judge(text) or judge(monitor.text_screen())
        if found is not None and (found[0].verdict != "login" or until in text):
            # What follows at once belongs to it: the name of the device, the prompt.
            time.sleep(_SETTLE_SECONDS)
            return found[0].verdict, found[1], found[0]
        if process.poll() is not None:
            return "ended", f"QEMU ended with {process.returncode}", None
        time.sleep(_POLL_SECONDS)
    lines = [line for line in plain(_tail(console)).splitlines() if line.strip()]
    stuck = _HANDED_OVER.search(monitor.text_screen()) if not lines else None
    if stuck is not None:
        # A boot sector without a program in it: the firmware ran it and never came back.
        return "no-loader", stuck[0].strip(), next(sign for sign in SIGNS if sign.verdict == "no-loader")
    return "silent", printable(lines[-1].strip()) if lines else "", None


def _tail(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _MOST_CONSOLE_BYTES))
            return file.read(_MOST_CONSOLE_BYTES)
    except FileNotFoundError:
        return b""

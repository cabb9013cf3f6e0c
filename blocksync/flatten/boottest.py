"""A trial boot of a target in QEMU: on a throw-away overlay, watched by its serial console and its text screen.

Nothing of the target is written: QEMU opens it read-only behind an overlay that is deleted. Hardware virtualisation is
used where a trial shows that it works (``/dev/kvm`` may be there and broken), else QEMU's own emulation. The guest has
no network. What a screen in text mode shows is read from the video memory, so that a boot loader's prompt is recognised
on systems without a serial console too; a screenshot is kept in any case.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blocksync.errors import BootTestError

DEFAULT_SECONDS = 600.0
_POLL_SECONDS = 0.5
_MOST_CONSOLE_BYTES = 8 << 20
_VGA_TEXT, _VGA_BYTES = 0xB8000, 4000
_SETTLE_SECONDS = 3.0
_TRIAL_SECONDS = 4.0
_TRIAL_WORD = b"[trial-done]"
# Nested or old hosts refuse to set what "host" promises; the second is the least that today's distributions run on.
_KVM_MODELS = ("host", "Nehalem")
_FIRMWARE = (
    ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
    ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"),
    ("/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sign:
    """Something that a console shows.

    Args:
        verdict: what it means: ``login``, ``emergency``, ``grub-rescue``, ``initramfs``, ``panic``, ``dracut``,
            ``no-loader``, ``resume``.
        pattern: of the text.
        last: nothing else will come.
        remedy: what to do.
    """

    verdict: str
    pattern: re.Pattern[str]
    last: bool
    remedy: str


_REPAIR = "blocksync flatten --check TARGET names what is left; blocksync flatten --repair TARGET mends it"
SIGNS = (
    Sign(verdict="login", pattern=re.compile(r"^[\w.-]{1,64} login: ?", re.MULTILINE), last=True, remedy=""),
    Sign(
        verdict="emergency",
        pattern=re.compile(r"You are in (?:emergency|rescue) mode|Give root password for maintenance"),
        last=True,
        remedy=f"a filesystem of fstab did not come: look for 'Timed out waiting for device' above; {_REPAIR}",
    ),
    Sign(
        verdict="grub-rescue",
        pattern=re.compile(r"grub rescue>|error: disk .{0,200} not found|error: no such device"),
        last=True,
        remedy=f"GRUB looks for its files on the old volume: {_REPAIR}",
    ),
    Sign(
        verdict="grub-prompt",
        pattern=re.compile(r"^\s*grub> ?", re.MULTILINE),
        last=True,
        remedy=f"GRUB found no configuration: {_REPAIR}",
    ),
    Sign(
        verdict="initramfs",
        pattern=re.compile(r"\(initramfs\) ?|ALERT!\s+\S+ does not exist|Dropping to a shell"),
        last=True,
        remedy=f"the kernel's root= names something that is not there: {_REPAIR}",
    ),
    Sign(
        verdict="dracut",
        pattern=re.compile(r"Warning: dracut-initqueue.{0,40}timeout|Entering emergency mode|dracut:/#"),
        last=True,
        remedy=f"the initramfs waits for the old volumes: the command line needs rd.lvm=0; {_REPAIR}",
    ),
    Sign(
        verdict="panic",
        pattern=re.compile(r"Kernel panic - not syncing"),
        last=True,
        remedy="look at the console above: a missing driver for the disk, or a root that cannot be mounted",
    ),
    Sign(
        verdict="no-loader",
        pattern=re.compile(r"No bootable device|Boot failed: not a bootable disk|BdsDxe: No bootable option"),
        last=True,
        remedy=f"there is no boot loader for this firmware on the target: {_REPAIR}",
    ),
)
NOTICES = (
    (re.compile(r"Timed out waiting for device ([^\n]{0,200})"), "a device did not come"),
    (re.compile(r"Gave up waiting for (suspend/resume device)"), "the initramfs waited for the old swap"),
    (re.compile(r"Dependency failed for ([^\n]{0,200})"), "something did not come up"),
    (re.compile(r"Failed to start ([^\n]{0,200})"), "a unit failed"),
)
_HANDED_OVER = re.compile(r"Booting from Hard Disk\.*\s*\Z")
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[()][0-9A-B]|\r")


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


def judge(text: str) -> tuple[Sign, str] | None:
    """The first of the signs in the order of their appearance, and the line that told it."""
    best: tuple[int, Sign, str] | None = None
    for sign in SIGNS:
        hit = sign.pattern.search(text)
        if hit is not None and (best is None or hit.start() < best[0]):
            line = text[text.rfind("\n", 0, hit.start()) + 1 :].partition("\n")[0]
            best = hit.start(), sign, line.strip()[:200]
    return best[1:] if best is not None else None


def notices(text: str) -> list[str]:
    """What a console shows beside its end."""
    return [f"{what}: {hit[1].strip()}" for pattern, what in NOTICES for hit in pattern.finditer(text)][:50]


def plain(raw: bytes) -> str:
    """A console's bytes as text, without the terminal's escapes."""
    return _ESCAPES.sub("", raw.decode("utf-8", "replace"))


def boot_test(
    path: str,
    *,
    firmware: str,
    folder: Path,
    seconds: float = DEFAULT_SECONDS,
    memory_mib: int = 1024,
    stopped: Callable[[], bool] = lambda: False,
    until: str = "",
) -> BootReport:
    """Boot a target and watch.

    Args:
        path: of the target.
        firmware: ``bios`` or ``uefi``.
        folder: where the console's log and the screenshot are kept.
        seconds: how long to wait for a sign; time stands still for nobody without hardware virtualisation.
        memory_mib: of the guest.
        stopped: asked now and then whether to give up.
        until: a text on the console to go on waiting for after the login prompt, if any.

    Raises:
        BootTestError: QEMU or the firmware is missing, or it cannot be started.
    """
    qemu = shutil.which("qemu-system-x86_64") or shutil.which("qemu-kvm") or "/usr/libexec/qemu-kvm"
    if not os.access(qemu, os.X_OK):
        raise BootTestError("qemu-system-x86_64 is missing on this machine")
    accelerator = _accelerator(qemu)
    folder.mkdir(parents=True, exist_ok=True)
    console, screen = folder / "console.log", folder / "screen.png"
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="blocksync-boot-") as work:
        words = _words(qemu, path, firmware, Path(work), console, memory_mib, accelerator=accelerator)
        with _running(words, Path(work)) as (process, monitor):
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
        accelerated="kvm" in accelerator,
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
    monitor: _Monitor,
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
    return "silent", lines[-1].strip()[:200] if lines else "", None


def _tail(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _MOST_CONSOLE_BYTES))
            return file.read(_MOST_CONSOLE_BYTES)
    except FileNotFoundError:
        return b""


def _accelerator(qemu: str) -> list[str]:
    """QEMU's words for the fastest way to run a guest that really works here: the device being there proves nothing."""
    if os.access("/dev/kvm", os.R_OK | os.W_OK):
        for model in _KVM_MODELS:
            words = ["-accel", "kvm", "-cpu", model]
            if _runs(qemu, words):
                return words
    return ["-accel", "tcg,thread=multi", "-cpu", "max"]


def _trial_sector() -> bytes:
    """A boot sector that counts, crosses into QEMU some thousand times, and says so on the debug port."""
    code = b"\xfa\x31\xc0\x8e\xd8"  # cli; ds = 0
    code += b"\x66\xb9" + struct.pack("<I", 1 << 27) + b"\x66\x49\x75\xfc"  # ecx = 2^27; dec ecx; jnz
    code += b"\x66\xb9" + struct.pack("<I", 20_000) + b"\xe4\x80\x66\x49\x75\xfa"  # in al, 0x80; dec ecx; jnz
    code += b"\xba\x02\x04" + b"".join(b"\xb0" + bytes((each,)) + b"\xee" for each in _TRIAL_WORD)  # out 0x402
    return (code + b"\xf4\xeb\xfd").ljust(510, b"\0") + b"\x55\xaa"  # hlt


def _runs(qemu: str, words: list[str]) -> bool:
    """Whether a small program gets done in the time that emulation would take too: broken KVM takes minutes."""
    with tempfile.TemporaryDirectory(prefix="blocksync-boot-") as folder:
        said, disk = Path(folder) / "said", Path(folder) / "disk"
        disk.write_bytes(_trial_sector())
        words = [qemu, *words, "-nodefaults", "-display", "none", "-machine", "pc", "-m", "64", "-no-reboot"]
        words += ["-drive", f"file={disk},format=raw,if=ide"]
        words += ["-chardev", f"file,id=said,path={said}", "-device", "isa-debugcon,iobase=0x402,chardev=said"]
        try:
            process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
        except OSError:
            return False
        try:
            deadline = time.monotonic() + _TRIAL_SECONDS
            while time.monotonic() < deadline and process.poll() is None:
                if said.exists() and _TRIAL_WORD in said.read_bytes():
                    return True
                time.sleep(0.05)
        finally:
            process.kill()
            process.wait()
    return False


def _words(
    qemu: str, path: str, firmware: str, work: Path, console: Path, memory_mib: int, *, accelerator: list[str]
) -> list[str]:
    overlay = work / "overlay.qcow2"
    image_tool = shutil.which("qemu-img")
    if image_tool is None:
        raise BootTestError("qemu-img is missing on this machine", remedy="apt-get install qemu-utils")
    made = subprocess.run(
        [image_tool, "create", "-q", "-f", "qcow2", "-F", "raw", "-b", os.path.abspath(path), str(overlay)],
        check=False,
        capture_output=True,
        text=True,
    )
    if made.returncode:
        raise BootTestError(f"cannot make an overlay of {path}: {made.stderr.strip()[:200]}")
    words = [
        qemu,
        *accelerator,
        "-m",
        str(memory_mib),
        "-smp",
        "1",
        "-nodefaults",
        "-display",
        "none",
        "-no-reboot",
    ]
    words += ["-vga", "std", "-serial", f"file:{console}", "-nic", "none"]
    words += ["-qmp", f"unix:{work / 'qmp'},server=on,wait=off"]
    words += ["-drive", f"file={overlay},format=qcow2,if=virtio,cache=unsafe,file.locking=off"]
    if firmware == "uefi":
        code, variables = next((pair for pair in _FIRMWARE if os.path.exists(pair[0])), ("", ""))
        if not code:
            raise BootTestError("the UEFI firmware OVMF is missing on this machine", remedy="apt-get install ovmf")
        mine = work / "vars.fd"
        shutil.copyfile(variables, mine)
        words += ["-machine", "q35", "-drive", f"if=pflash,format=raw,readonly=on,file={code}"]
        words += ["-drive", f"if=pflash,format=raw,file={mine}"]
    else:
        words += ["-machine", "pc"]
    return words


@contextlib.contextmanager
def _running(words: list[str], work: Path) -> Iterator[tuple[subprocess.Popen[bytes], _Monitor]]:
    said = work / "qemu.log"
    # Where we are killed the guest must not go on: the thread that starts it also waits for it.
    leash = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
    with said.open("wb") as errors:
        process = subprocess.Popen(
            [*leash, *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,
        )
    try:
        monitor = _Monitor(work / "qmp", process, said)
        try:
            yield process, monitor
        finally:
            monitor.close()
    finally:
        process.kill()
        process.wait()


class _Monitor:
    """QEMU's machine protocol, as far as it is needed here."""

    def __init__(self, path: Path, process: subprocess.Popen[bytes], said: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(30)
        self._folder = path.parent
        deadline = time.monotonic() + 30
        while True:
            try:
                self._socket.connect(str(path))
                break
            except OSError as error:
                if process.poll() is not None or time.monotonic() > deadline:
                    self._socket.close()
                    words = said.read_text(errors="replace").strip()[-300:]
                    raise BootTestError(f"QEMU does not start: {words}") from error
                time.sleep(0.05)
        self._file = self._socket.makefile("rwb")
        try:
            self._file.readline()
        except OSError as error:
            self.close()
            raise BootTestError(f"QEMU ends at once: {said.read_text(errors='replace').strip()[-300:]}") from error
        self._ask("qmp_capabilities")

    def text_screen(self) -> str:
        """What a screen in VGA text mode shows; empty in graphics mode, where that memory holds none."""
        dump = self._folder / "vga"
        if self._ask("pmemsave", val=_VGA_TEXT, size=_VGA_BYTES, filename=str(dump)) is None:
            return ""
        raw = dump.read_bytes()[::2]
        rows = [raw[at : at + 80].decode("cp437").replace("\0", " ").rstrip() for at in range(0, len(raw), 80)]
        return "\n".join(rows)

    def screenshot(self, path: Path) -> bool:
        """Save the screen as PNG, or as PPM where QEMU is old."""
        if self._ask("screendump", filename=str(path), format="png") is not None:
            return True
        return self._ask("screendump", filename=str(path)) is not None

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._file.close()
        self._socket.close()

    def _ask(self, command: str, **arguments: Any) -> Any:
        """The answer, None where it is an error or QEMU is gone."""
        try:
            self._file.write(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
            self._file.flush()
            while line := self._file.readline(1 << 20):
                said = json.loads(line)
                if "return" in said:
                    return said["return"]
                if "error" in said:
                    return None
        except (OSError, ValueError):
            return None
        return None

"""QEMU for a trial boot: the fastest way to run a guest that works here, its command line, and its monitor.

The target is opened behind an overlay that is deleted. Hardware virtualisation is used where a trial shows that it
works: ``/dev/kvm`` may be there and broken.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from blocksync.errors import BootTestError

_VGA_TEXT, _VGA_BYTES = 0xB8000, 4000
_TRIAL_SECONDS = 4.0
_TRIAL_WORD = b"[trial-done]"
# Nested or old hosts refuse to set what "host" promises; the second is the least that today's distributions run on.
_KVM_MODELS = ("host", "Nehalem")
_FIRMWARE = (
    ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
    ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"),
    ("/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"),
)
# With Secure Boot on, and Microsoft's keys enrolled, as on machines that are bought.
_SECURE_FIRMWARE = (
    ("/usr/share/OVMF/OVMF_CODE_4M.secboot.fd", "/usr/share/OVMF/OVMF_VARS_4M.ms.fd"),
    ("/usr/share/OVMF/OVMF_CODE.secboot.fd", "/usr/share/OVMF/OVMF_VARS.ms.fd"),
    ("/usr/share/edk2/ovmf/OVMF_CODE.secboot.fd", "/usr/share/edk2/ovmf/OVMF_VARS.secboot.fd"),
)


def accelerator(qemu: str) -> list[str]:
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


def command(
    qemu: str,
    paths: Sequence[str],
    firmware: str,
    work: Path,
    console: Path,
    memory_mib: int,
    *,
    accelerator: list[str],
) -> list[str]:
    """QEMU's words for a boot of some disks, the one that the firmware boots first.

    Raises:
        BootTestError: a tool, or the firmware, is missing.
    """
    overlays = [_overlay(path, work / f"overlay-{index}.qcow2") for index, path in enumerate(paths)]
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
    for overlay in overlays:  # the system finds them in this order, as vda, vdb, …
        words += ["-drive", f"file={overlay},format=qcow2,if=virtio,cache=unsafe,file.locking=off"]
    return [*words, *(["-machine", "pc"] if firmware == "bios" else _uefi_words(firmware, work))]


def _uefi_words(firmware: str, work: Path) -> list[str]:
    """OVMF on variables of its own, that are thrown away; ``uefi-secure`` refuses what is not signed."""
    secure = firmware == "uefi-secure"
    pairs = _SECURE_FIRMWARE if secure else _FIRMWARE
    code, variables = next((pair for pair in pairs if all(map(os.path.exists, pair))), ("", ""))
    if not code:
        raise BootTestError("the UEFI firmware OVMF is missing on this machine", remedy="apt-get install ovmf")
    mine = work / "vars.fd"
    shutil.copyfile(variables, mine)
    words = ["-machine", "q35,smm=on" if secure else "q35"]
    if secure:
        # Without these the guest could write to the variables past the firmware, which therefore does not start.
        words += ["-global", "driver=cfi.pflash01,property=secure,value=on", "-global", "ICH9-LPC.disable_s3=1"]
    words += ["-drive", f"if=pflash,format=raw,readonly=on,file={code}"]
    return [*words, "-drive", f"if=pflash,format=raw,file={mine}"]


def _overlay(path: str, overlay: Path) -> Path:
    """A file that takes what is written to a target."""
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
    return overlay


@contextlib.contextmanager
def running(words: list[str], work: Path) -> Iterator[tuple[subprocess.Popen[bytes], Monitor]]:
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
        monitor = Monitor(work / "qmp", process, said)
        try:
            yield process, monitor
        finally:
            monitor.close()
    finally:
        process.kill()
        process.wait()


class Monitor:
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

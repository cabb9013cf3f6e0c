"""A machine with a real device-mapper, for tests: QEMU with the disks of a test, and a way to run commands in it.

The root disk is thrown away at the end; the test's own disks are written. Hardware virtualisation is not asked for:
what is tested must not depend on it, and machines that offer it do not always keep that promise.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from typing_extensions import Self

from tests.vm.base import INIT_PATH, base

BOOT_SECONDS = 300.0
PIECE_BYTES = 256 << 10


class CommandError(AssertionError):
    """A command in the machine failed; says which, and what it printed."""


class Machine:
    """A running guest.

    Args:
        disks: image files, ``/dev/vdb`` onwards in their order; raw unless they end in ``.qcow2``.
        memory_mib: of the guest.
        forward: guest's TCP ports to ports of the host's loopback. The guest reaches the host at 10.0.2.2.
        options: more words for QEMU.
    """

    def __init__(
        self,
        disks: Sequence[str | Path] = (),
        *,
        memory_mib: int = 768,
        forward: Mapping[int, int] | None = None,
        options: Sequence[str] = (),
    ) -> None:
        self._disks = [Path(disk) for disk in disks]
        self._memory_mib = memory_mib
        self._forward = dict(forward or {})
        self._options = list(options)
        self._folder = tempfile.TemporaryDirectory(prefix="blocksync-vm-")
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None

    @property
    def console(self) -> str:
        """What the kernel and the first process printed."""
        path = Path(self._folder.name) / "console"
        return path.read_text(errors="replace") if path.exists() else ""

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, *_error: object) -> None:
        self.stop()

    def run(self, command: str, *, timeout: float = 120.0, check: bool = True) -> str:
        """Run a bash command as root.

        Args:
            command: for ``bash -c``.
            timeout: seconds; it is killed then.
            check: whether an exit code other than 0 is an error.

        Returns:
            what it printed, stdout and stderr together.

        Raises:
            CommandError: it failed, where that is checked, or took too long.
        """
        answer = self._ask({"do": "run", "command": command, "timeout": timeout}, timeout + 60)
        output = base64.b64decode(answer["output"]).decode(errors="replace")
        if answer.get("late"):
            raise CommandError(f"{command!r} took more than {timeout} s and printed:\n{output[-4000:]}")
        if check and answer["code"]:
            raise CommandError(f"{command!r} ended with {answer['code']} and printed:\n{output[-4000:]}")
        return output

    def push(self, here: str | Path, there: str) -> None:
        """Copy a file of the host into the guest."""
        with Path(here).open("rb") as file:
            first = True
            while (piece := file.read(PIECE_BYTES)) or first:
                data = base64.b64encode(piece).decode()
                self._check(self._ask({"do": "write", "path": there, "first": first, "data": data}, 60))
                first = False
        self.run(f"chmod {Path(here).stat().st_mode & 0o777:o} '{there}'")

    def pull(self, there: str, here: str | Path) -> None:
        """Copy a file of the guest to the host."""
        offset = 0
        with Path(here).open("wb") as file:
            while True:
                answer = self._ask({"do": "read", "path": there, "offset": offset, "length": PIECE_BYTES}, 60)
                self._check(answer)
                piece = base64.b64decode(answer["output"])
                if not piece:
                    return
                file.write(piece)
                offset += len(piece)

    def stop(self) -> None:
        """Unmount what can be, sync, and switch off."""
        if self._process is not None and self._process.poll() is None and self._socket is not None:
            with contextlib.suppress(OSError, AssertionError):
                self.run("umount -a -t ext4,xfs,btrfs,vfat -O no=root 2>/dev/null; sync", timeout=60, check=False)
        self.kill()

    def kill(self) -> None:
        """Pull the plug: what the guest had not synced to its disks is lost to it."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        self._folder.cleanup()

    # -- inside -----------------------------------------------------------------------------------------------

    def _start(self) -> None:
        folder = Path(self._folder.name)
        with (folder / "qemu").open("wb") as said:
            self._process = subprocess.Popen(
                self._words(folder), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said
            )
        deadline = time.monotonic() + BOOT_SECONDS
        self._socket = socket.socket(socket.AF_UNIX)
        while True:
            try:
                self._socket.connect(str(folder / "agent"))
                break
            except OSError:
                self._alive()
                assert time.monotonic() < deadline, "QEMU does not open its socket"
                select.select([], [], [], 0.05)
        answer = self._receive(deadline - time.monotonic())
        assert answer.get("ready"), answer

    def _words(self, folder: Path) -> list[str]:
        files = base()
        net = "user,id=net0" + "".join(
            f",hostfwd=tcp:127.0.0.1:{here}-:{there}" for there, here in self._forward.items()
        )
        words = [
            *("qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "1"),
            *("-m", str(self._memory_mib), "-nodefaults", "-display", "none", "-no-reboot"),
            *("-kernel", str(files.kernel), "-initrd", str(files.initrd)),
            # quiet: each line on an emulated serial port costs time.
            # On a busy host the kernel's trial of the timer fails, and it panics.
            *(
                "-append",
                f"root=/dev/vda rw console=ttyS0 quiet panic=-1 mitigations=off no_timer_check init={INIT_PATH}",
            ),
            *("-serial", f"file:{folder / 'console'}"),
            *("-drive", f"file={files.root},format=raw,if=virtio,snapshot=on,cache=unsafe"),
            *(
                "-device",
                "virtio-serial-pci",
                "-chardev",
                f"socket,id=agent,path={folder / 'agent'},server=on,wait=off",
            ),
            *("-device", "virtserialport,chardev=agent,name=agent"),
            *("-netdev", net, "-device", "virtio-net-pci,netdev=net0,romfile="),
            *("-device", "virtio-rng-pci"),
        ]
        for disk in self._disks:
            kind = "qcow2" if disk.suffix == ".qcow2" else "raw"
            words += ["-drive", f"file={disk},format={kind},if=virtio,cache=writeback,discard=unmap"]
        return [*words, *self._options]

    def _alive(self) -> None:
        assert self._process is not None
        if self._process.poll() is not None:
            said = (Path(self._folder.name) / "qemu").read_text(errors="replace")
            raise CommandError(f"QEMU ended with {self._process.returncode}: {said[-2000:]}")

    def _ask(self, what: dict[str, Any], timeout: float) -> dict[str, Any]:
        assert self._socket is not None, "the machine is not running"
        body = json.dumps(what).encode()
        self._socket.sendall(struct.pack("<I", len(body)) + body)
        return self._receive(timeout)

    def _receive(self, timeout: float) -> dict[str, Any]:
        deadline = time.monotonic() + timeout
        (length,) = struct.unpack("<I", self._exactly(4, deadline))
        answer = json.loads(self._exactly(length, deadline))
        assert isinstance(answer, dict)
        return answer

    def _exactly(self, count: int, deadline: float) -> bytes:
        assert self._socket is not None
        got = bytearray()
        while len(got) < count:
            self._alive()
            left = deadline - time.monotonic()
            if left <= 0:
                raise CommandError(f"the machine does not answer; its console says:\n{self.console[-4000:]}")
            readable, _, _ = select.select([self._socket], [], [], min(left, 1.0))
            if readable:
                piece = os.read(self._socket.fileno(), count - len(got))
                if not piece:
                    self._alive()
                    raise CommandError(f"the machine is gone; its console says:\n{self.console[-4000:]}")
                got += piece
        return bytes(got)

    def _check(self, answer: dict[str, Any]) -> None:
        if answer["code"]:
            raise CommandError(base64.b64decode(answer["output"]).decode(errors="replace"))

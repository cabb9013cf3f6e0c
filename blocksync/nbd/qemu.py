"""``qemu-nbd`` as the way to image formats: started for one image, ended with it.

It is handed a listening socket (systemd's socket activation) to which we may connect before it runs, and it is
told nothing of
staying: when its last client has gone, it writes back and exits. So it ends also where this process is killed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import stat
import subprocess
import tempfile

from blocksync.errors import BlocksyncError, SourceError, TargetError, from_os_error
from blocksync.nbd.address import Address

QCOW2_SUFFIX = ".qcow2"
QCOW2_MAGIC = b"QFI\xfb"
CLIENTS = 4
_START_SECONDS = 20.0
# Writing back what is cached may take a slow disk long; killing it then would lose nothing that was synced.
_END_SECONDS = 120.0
_MESSAGE_BYTES = 2000
# The socket is its standard input until here; the variables that hand it over name the process that will read them.
_HAND_OVER = 'exec 3<&0 </dev/null; export LISTEN_PID=$$ LISTEN_FDS=1; exec "$@"'
_Kind = type[SourceError] | type[TargetError]


def is_qcow2(path: str) -> bool:
    """Whether a path is meant as an image that qemu-nbd opens."""
    return path.endswith(QCOW2_SUFFIX) and "://" not in path


def check_magic(path: str, kind: _Kind) -> None:
    """Refuse what is named like an image and is none."""
    try:
        # A pipe of that name would keep whoever opens it waiting for somebody who writes.
        mode = os.stat(path).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode) or stat.S_ISDIR(mode)):
            raise kind(f"{path} is no file", remedy="name a disk image or a block device")
        with open(path, "rb") as file:
            magic = file.read(len(QCOW2_MAGIC))
    except OSError as error:
        raise from_os_error(error, kind, f"cannot open {path}") from error
    if magic != QCOW2_MAGIC:
        raise kind(
            f"{path} is named {QCOW2_SUFFIX} and is no image of that format",
            remedy="give a raw image another name, for example disk.img",
        )


def create_qcow2(path: str, size: int) -> None:
    """Make a new empty image, durably; never over something that exists."""
    doing = f"cannot create the target {path}"
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o600))
        try:
            # The name is given with its protocol: QEMU reads the part before a colon as one.
            name = f"file:{os.path.abspath(path)}"
            _run([_tool("qemu-img", TargetError), "create", "-q", "-f", "qcow2", name, str(size)])
            with open(path, "rb") as file:
                os.fsync(file.fileno())
        except BaseException:
            os.unlink(path)
            raise
    except OSError as error:
        raise from_os_error(error, TargetError, doing) from error
    except subprocess.CalledProcessError as error:
        raise TargetError(f"{doing}: {error.stderr.strip()[:_MESSAGE_BYTES]}") from error


class QemuServer:
    """Serves one qcow2 image on a unix socket of its own.

    Args:
        path: of the image.
        writable: else opened read-only.
        kind: class to raise.

    Raises:
        SourceError, TargetError: qemu-nbd is not there or cannot be started.
    """

    def __init__(self, path: str, *, writable: bool, kind: _Kind) -> None:
        self._path = path
        self._kind = kind
        program = _tool("qemu-nbd", kind)
        # A file name of QEMU's may hold words of its own; in an option only the comma means something.
        image = os.path.abspath(path).replace(",", ",,")
        more = ["--cache=writeback", "--discard=unmap"] if writable else ["--read-only"]
        options = f"driver=qcow2,file.driver=file,file.filename={image}"
        try:
            self._folder = tempfile.mkdtemp(prefix="blocksync-nbd-")
            self.socket = os.path.join(self._folder, "socket")
            self._messages = open(os.path.join(self._folder, "messages"), "w+b")  # noqa: SIM115 - closed in close
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
                listening.bind(self.socket)
                listening.listen(CLIENTS)
                self._process = subprocess.Popen(
                    [
                        "/bin/sh",
                        "-c",
                        _HAND_OVER,
                        "sh",
                        program,
                        f"--shared={CLIENTS}",
                        *more,
                        "--image-opts",
                        options,
                    ],
                    stdin=listening.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=self._messages,
                    # Ctrl-C on our terminal is for us: the image is closed in order.
                    start_new_session=True,
                )
        except OSError as error:
            raise from_os_error(error, kind, f"cannot start qemu-nbd for {path}") from error

    @property
    def address(self) -> Address:
        return Address(host="", port=0, socket=self.socket, export="", tls=False)

    def explain(self, error: BlocksyncError) -> BlocksyncError:
        """What qemu-nbd said when it ended by itself, else the error as it is."""
        try:
            self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            return error
        self._messages.seek(0)
        said = self._messages.read(_MESSAGE_BYTES).decode(errors="replace").strip()
        return self._kind(
            f"qemu-nbd cannot serve {self._path}: {said or error.message}", remedy="see qemu-img check"
        )

    def close(self) -> None:
        """Wait until it has written back and ended; may be called twice. Close the connections first."""
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._messages.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def stop(self) -> None:
        """As :meth:`close`, where nobody ever connected."""
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        self.close()


def _tool(name: str, kind: _Kind) -> str:
    path = shutil.which(name) or shutil.which(name, path="/usr/bin:/usr/local/bin")
    if path is None:
        raise kind(
            f"{name} is needed for {QCOW2_SUFFIX} images and is not installed", remedy="apt install qemu-utils"
        )
    return path


def _run(words: list[str]) -> None:
    subprocess.run(words, check=True, capture_output=True, text=True, timeout=_START_SECONDS)

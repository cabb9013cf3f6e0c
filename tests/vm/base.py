"""The root disk of the test machine: a Debian with device-mapper, LVM and filesystem tools, from Debian's packages.

It is made once and kept in a cache folder (``BLOCKSYNC_VM_CACHE``, or ``~/.cache/blocksync-vm``) under a name with
the digest of its recipe, so that another recipe makes a new one. The guest has no init system: a script mounts
what must be mounted, starts udev (without it ``lvcreate`` waits for device nodes that never come) and then an agent
that runs what the host asks for. That boots in seconds, also without hardware virtualisation.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SUITE = "bookworm"
IMAGE_BYTES = 3 << 30
PACKAGES = """
linux-image-amd64 initramfs-tools kmod udev procps iproute2 util-linux mount python3 python3-venv ca-certificates
lvm2 thin-provisioning-tools dmsetup mdadm cryptsetup-bin e2fsprogs xfsprogs btrfs-progs dosfstools ntfs-3g mtools
fdisk gdisk parted grub-pc-bin grub-efi-amd64-bin grub2-common debootstrap tar zstd gzip rsync strace file
"""
# The modules that bring the root disk up; the rest is loaded by udev and by hand.
INITRD_MODULES = ("virtio_pci", "virtio_blk", "ext4")

INIT_PATH = "/usr/local/sbin/test-init"
INIT = """\
#!/bin/bash
# The test machine's first process.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
mount -t proc proc /proc; mount -t sysfs sys /sys
mountpoint -q /dev || mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm /run/lock /run/lvm
mount -t devpts devpts /dev/pts; mount -t tmpfs tmpfs /run; mount -t tmpfs tmpfs /dev/shm; mount -t tmpfs tmpfs /tmp
mkdir -p /run/lock /run/lvm
/lib/systemd/systemd-udevd --daemon
udevadm trigger --action=add --type=subsystems; udevadm trigger --action=add --type=devices
modprobe -a virtio_console virtio_net dm_mod dm_snapshot dm_thin_pool dm_mirror dm_raid raid1 2>/dev/null
modprobe -a loop xfs btrfs vfat 2>/dev/null
udevadm settle --timeout=60
ip link set lo up
nic=$(ls /sys/class/net | grep -v -e lo -e sit | head -n 1)
if [ -n "$nic" ]; then
    ip link set "$nic" up; ip address add 10.0.2.15/24 dev "$nic"; ip route add default via 10.0.2.2
fi
exec /usr/bin/python3 -u /usr/local/sbin/test-agent
"""

AGENT = '''\
"""Runs what the host asks for: frames of a length and JSON, over a virtio port."""

import base64, ctypes, glob, json, os, signal, struct, subprocess, sys, threading, time

while not glob.glob("/dev/vport*"):
    time.sleep(0.05)
port = os.open(glob.glob("/dev/vport*")[0], os.O_RDWR)
# What children leave behind would stay as zombies: this process is the first one.
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)

def read(count):
    got = b""
    while len(got) < count:
        piece = os.read(port, count - len(got))
        if not piece:
            time.sleep(0.02)
        got += piece
    return got

def write(data):
    view = memoryview(data)
    while view:
        view = view[os.write(port, view):]

def answer(**facts):
    body = json.dumps(facts).encode()
    write(struct.pack("<I", len(body)) + body)

def handle(said):
    if said["do"] == "run":
        process = subprocess.Popen(
            ["/bin/bash", "-c", said["command"]], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, start_new_session=True, cwd="/root")
        late = False
        try:
            output, _ = process.communicate(timeout=said["timeout"])
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            late = True
            output, _ = process.communicate()
        answer(code=process.returncode, late=late, output=base64.b64encode(output).decode())
    elif said["do"] == "write":
        with open(said["path"], "wb" if said["first"] else "ab") as file:
            file.write(base64.b64decode(said["data"]))
        answer(code=0)
    elif said["do"] == "read":
        with open(said["path"], "rb") as file:
            file.seek(said["offset"])
            answer(code=0, output=base64.b64encode(file.read(said["length"])).decode())

answer(ready=True)
while True:
    (length,) = struct.unpack("<I", read(4))
    said = json.loads(read(length))
    try:
        handle(said)
    except OSError as error:
        answer(code=1, output=base64.b64encode(str(error).encode()).decode())
'''


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """What a machine boots from; nothing of it is ever written."""

    root: Path
    kernel: Path
    initrd: Path


def cache_folder() -> Path:
    named = os.environ.get("BLOCKSYNC_VM_CACHE")
    folder = Path(named) if named else Path.home() / ".cache" / "blocksync-vm"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def run(*words: str | Path, timeout: float = 1800) -> str:
    done = subprocess.run(
        [str(word) for word in words], check=False, capture_output=True, text=True, timeout=timeout
    )
    assert done.returncode == 0, (words, done.stdout[-3000:], done.stderr[-3000:])
    return done.stdout


def mirror() -> str:
    """The one that this machine's packages come from."""
    lines = run("apt-get", "indextargets", "--format", "$(RELEASE) $(REPO_URI)").splitlines()
    sites = [uri for release, uri in (line.split() for line in lines) if release == SUITE]
    return sites[0] if sites else "http://deb.debian.org/debian"


@contextlib.contextmanager
def made_once(name: str) -> Iterator[tuple[Path, bool]]:
    """A folder of the cache that is filled by one process and complete ever after.

    Yields:
        the folder, and whether it must be filled: then what is put there counts once the block ends without an error.
    """
    final = cache_folder() / name
    with (cache_folder() / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if final.is_dir():
            yield final, False
            return
        work = Path(tempfile.mkdtemp(prefix=f"{name}.", dir=cache_folder()))
        try:
            yield work, True
            work.rename(final)
        except BaseException:
            shutil.rmtree(work, ignore_errors=True)
            raise


def base() -> Base:
    """The root disk; made when there is none yet, which takes one to three minutes and needs root."""
    recipe = hashlib.sha256("\0".join((SUITE, PACKAGES, *INITRD_MODULES, INIT, AGENT)).encode()).hexdigest()[:16]
    with made_once(f"base-{recipe}") as (folder, empty):
        if empty:
            _make(folder)
    return Base(root=folder.parent / f"base-{recipe}" / "root.img", **_boot_files(folder.parent / f"base-{recipe}"))


def _boot_files(folder: Path) -> dict[str, Path]:
    return {"kernel": folder / "vmlinuz", "initrd": folder / "initrd.img"}


def _make(folder: Path) -> None:
    tree = folder / "tree"
    modules = "\\n".join(INITRD_MODULES)
    run(
        "mmdebstrap",
        "--mode=root",
        "--variant=minbase",
        '--aptopt=APT::Install-Recommends "false"',
        "--dpkgopt=path-exclude=/usr/share/man/*",
        "--dpkgopt=path-exclude=/usr/share/doc/*",
        "--dpkgopt=path-exclude=/usr/share/locale/*",
        f"--include={','.join(PACKAGES.split())}",
        # A small initrd: unpacking one with every driver takes longer than all the rest of the start.
        '--essential-hook=mkdir -p "$1/etc/initramfs-tools/conf.d"',
        '--essential-hook=echo MODULES=list > "$1/etc/initramfs-tools/conf.d/small"',
        '--essential-hook=echo RESUME=none >> "$1/etc/initramfs-tools/conf.d/small"',
        f"--essential-hook=printf '{modules}\\n' > \"$1/etc/initramfs-tools/modules\"",
        SUITE,
        tree,
        mirror(),
    )
    _write(tree / INIT_PATH[1:], INIT)
    _write(tree / "usr/local/sbin/test-agent", AGENT)
    _write(tree / "etc/hosts", "127.0.0.1 localhost\n10.0.2.2 host\n")
    boot = tree / "boot"
    shutil.copy(next(boot.glob("vmlinuz-*")), folder / "vmlinuz")
    shutil.copy(next(boot.glob("initrd.img-*")), folder / "initrd.img")
    run("mkfs.ext4", "-q", "-F", "-O", "^has_journal", "-d", tree, folder / "root.img", f"{IMAGE_BYTES >> 10}k")
    run("rm", "-rf", "--one-file-system", tree)


def _write(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)

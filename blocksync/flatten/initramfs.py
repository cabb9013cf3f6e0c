"""``--rebuild-initramfs``: the system's own tool, run in its own tree. The one place where code of the system runs.

It runs in namespaces of its own for processes, mounts, host name, IPC and network: it sees no process of this machine,
reaches no network, and leaves no process behind. Its tree is moved over the root of that mount namespace, as an
initramfs does with switch_root, so that no way leads up to this machine's files; device nodes in it do not work, and
the rights to mount, to make nodes, to load modules and the like are gone before its first program starts.
"""

from __future__ import annotations

import os
import subprocess

from blocksync.errors import FlattenError, GuestMountError
from blocksync.flatten.changes import uses_dracut
from blocksync.flatten.mounts import run_tool
from blocksync.flatten.system import System

_SECONDS = 3600.0
_DRACUT = (
    "dracut -f --no-hostonly --no-hostonly-cmdline --omit lvm "
    '--add-drivers "virtio_blk virtio_scsi virtio_pci virtio_net" --kver'
)
_LOST = ",".join(
    f"-{right}"
    for right in (
        *("sys_admin", "mknod", "sys_module", "sys_rawio", "sys_boot", "sys_ptrace", "sys_time", "sys_tty_config"),
        *("net_admin", "net_raw", "syslog", "mac_admin", "mac_override", "audit_control", "linux_immutable"),
    )
)
_SCRIPT = """set -e
mount -t proc proc "$1/proc"
mount -t sysfs -o ro sysfs "$1/sys"
mount -t tmpfs -o mode=755 dev "$1/dev"
for node in null zero full random urandom; do
    : > "$1/dev/$node"; mount --bind "/dev/$node" "$1/dev/$node"
done
ln -s /proc/self/fd "$1/dev/fd"
mount -t tmpfs run "$1/run"; mount -t tmpfs tmp "$1/tmp"
mount --bind "$1/proc/sys" "$1/proc/sys"; mount -o remount,bind,ro "$1/proc/sys"
[ ! -e "$1/proc/sysrq-trigger" ] || mount --bind /dev/null "$1/proc/sysrq-trigger"
cd "$1"
mount --move . /
exec setpriv --bounding-set="$3" --inh-caps=-all chroot . /bin/sh -c "$2"
"""


def rebuild_initramfs(system: System) -> list[str]:
    """Rebuild the initramfs of each kernel.

    Raises:
        FlattenError: it failed; the system's words are in the message.
    """
    top = system.folders.get("/")
    if top is None:
        raise FlattenError("an initramfs can only be rebuilt by root")
    if uses_dracut(system.guest):
        kernels = [
            name for name in system.guest.names("/lib/modules") if name.replace(".", "").replace("-", "").isascii()
        ]
        command = "set -e; " + "; ".join(f"{_DRACUT} '{_quoted(kernel)}'" for kernel in kernels)
    else:
        command = "update-initramfs -u -k all"
    for point in sorted(system.folders):
        # Below the root these are mounts inside a private namespace; the guards against programs go for this run.
        where = top if point == "/" else f"{top}/{'/'.join(system.guest.resolve(point))}"
        if point == "/":
            run_tool(["mount", "-o", "remount,exec,suid,nodev", top], GuestMountError)
        else:
            if os.path.realpath(where) != os.path.abspath(where):
                raise FlattenError(f"{point} leads out of the system")
            run_tool(["mount", "--bind", system.folders[point], where], GuestMountError)
            run_tool(["mount", "-o", "remount,bind,exec,suid,nodev", where], GuestMountError)
    try:
        return _run(top, command)
    finally:
        for point in sorted(system.folders, reverse=True):
            if point != "/":
                run_tool(["umount", f"{top}/{'/'.join(system.guest.resolve(point))}"], GuestMountError)


def _quoted(kernel: str) -> str:
    if "'" in kernel or "\n" in kernel:
        raise FlattenError("a kernel's name in /lib/modules is none")
    return kernel


def _run(top: str, command: str) -> list[str]:
    namespaces = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--net", "--uts", "--ipc"]
    words = [*namespaces, "/bin/sh", "-c", _SCRIPT, "rebuild", top, command, _LOST]
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", "HOME": "/root"}
    try:
        done = subprocess.run(
            words,
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SECONDS,
            env=environment,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise FlattenError(f"the initramfs cannot be rebuilt: {error}") from error
    if done.returncode:
        said = " ".join((done.stdout + done.stderr).split())[-400:]
        raise FlattenError(
            f"the system could not rebuild its initramfs: {said}",
            safe="all other repairs are done",
            remedy="boot it without: blocksync boot-test TARGET says whether that is needed at all",
        )
    return [f"initramfs rebuilt by the system itself: {command.split(';', maxsplit=1)[0][:60]}"]

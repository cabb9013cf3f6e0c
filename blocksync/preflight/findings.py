"""The catalogue of findings: one place for codes, severities and remedies. ``docs/ERRORS.md`` lists the same.

Findings and errors share the numbers: errors below 2000, findings from 2000 on (20 network, 21 source, 22 snapshots, 23
system, 24 target, 25 state).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from blocksync.errors import (
    BlocksyncError,
    NetworkError,
    PeerError,
    SourceError,
    StateError,
    TargetError,
    TargetRefusedError,
    TrustError,
)


class Severity(enum.Enum):
    """How much a finding matters: an error stops a transfer, a warning spoils something, a note is to be known."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Kind:
    """An entry of the catalogue.

    Args:
        code: stays.
        severity: of all its findings.
        when: what is the case.
        remedy: what to do; empty for a note that asks for nothing.
        error: the class of errors that ``send`` raises for it; decides the exit code of ``check`` too.
    """

    code: str
    severity: Severity
    when: str
    remedy: str
    error: type[BlocksyncError] = BlocksyncError


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something that was found.

    Args:
        code: of the catalogue, ``BS2000`` to ``BS2999``; it never changes its meaning.
        severity: ``error``, ``warning`` or ``note``.
        what: is the case, in one line.
        remedy: in one line; may be empty for a note.
        exit_code: of a command that stops for it; 0 where none does.
    """

    code: str
    severity: str
    what: str
    remedy: str
    exit_code: int = 0


_E, _W, _N = Severity.ERROR, Severity.WARNING, Severity.NOTE
_CONTROL = "check the firewall for the control port, and that blocksync recv runs there"
_DATA = "open the data port in the firewall: the receiver says which it is (recv --data-port)"

NAME_UNKNOWN = Kind(
    "BS2001", _E, "the receiver's name is not known", "check the name, or give an address", NetworkError
)
CONTROL_REFUSED = Kind(
    "BS2002", _E, "nobody listens on the control port", "start blocksync recv there, or name its port", NetworkError
)
CONTROL_SILENT = Kind("BS2003", _E, "the control port does not answer: packets are dropped", _CONTROL, NetworkError)
NO_ROUTE = Kind("BS2004", _E, "there is no way to the receiver's address", "check address and routes", NetworkError)
CONTROL_FOREIGN = Kind(
    "BS2005",
    _E,
    "something other than blocksync answers on the control port",
    "check the address and the port",
    PeerError,
)
OTHER_KEY = Kind(
    "BS2006",
    _E,
    "the receiver shows another key than the one this machine is paired with",
    "find out why; if its state was made anew, pair again with a fresh code",
    TrustError,
)
KEY_REFUSED = Kind(
    "BS2007",
    _E,
    "the receiver does not accept this machine's key",
    "pair again with a fresh code from blocksync recv",
    TrustError,
)
NOT_PAIRED = Kind(
    "BS2008", _N, "this machine is not paired with the receiver yet", "have a pairing code ready for the first send"
)
DATA_REFUSED = Kind("BS2009", _E, "nobody listens on the data port", _DATA, NetworkError)
DATA_SILENT = Kind("BS2010", _E, "the data port does not answer: packets are dropped", _DATA, NetworkError)
DATA_FOREIGN = Kind(
    "BS2011",
    _E,
    "something other than the receiver answers on the data port",
    "look for a proxy between",
    PeerError,
)
LARGE_LOST = Kind(
    "BS2012",
    _E,
    "small packets arrive and large ones vanish: the path's MTU is smaller than it says",
    "let ICMP pass (type 3 code 4, ICMPv6 type 2), or lower the MTU of this machine's interface",
    NetworkError,
)
PATH_MTU = Kind("BS2013", _N, "the path's MTU", "")
CLOCK_SKEW = Kind(
    "BS2014", _N, "the two clocks differ; it breaks nothing, but logs do not line up", "set both by NTP"
)
VERSION_SKEW = Kind(
    "BS2015", _W, "the two ends run different versions", "install the same version of blocksync-engine on both"
)
PROTOCOL_SKEW = Kind(
    "BS2016",
    _E,
    "the two ends speak different protocols",
    "install the same version of blocksync-engine on both",
    PeerError,
)
REACHED = Kind("BS2017", _N, "the receiver was reached on both ports", "")

SOURCE_UNREADABLE = Kind(
    "BS2101", _E, "the source cannot be opened or read", "check the path and that you may read it", SourceError
)
PICTURE = Kind("BS2102", _N, "what the source holds", "")
LAYOUT_ODD = Kind(
    "BS2103",
    _W,
    "a part of the source's layout is damaged, incomplete or unknown",
    "look at it with blocksync inspect; every block is sent all the same",
)

SNAPSHOT_POSSIBLE = Kind("BS2201", _N, "a snapshot can be taken", "")
SNAPSHOT_IMPOSSIBLE = Kind(
    "BS2202",
    _W,
    "the source is in use and no snapshot of it can be taken",
    "make the last pass with the source quiet: writers stopped, or filesystems frozen or read-only",
)
SNAPSHOT_SPACE = Kind(
    "BS2203",
    _W,
    "there is little room for a snapshot: it would overflow when much is written",
    "free extents in the volume group, or make the last pass with the source quiet",
)
SOURCE_QUIET = Kind("BS2204", _N, "nothing of the source is mounted: it needs no snapshot", "")
SHADOW_SERVICE = Kind(
    "BS2211",
    _W,
    "the Volume Shadow Copy service cannot be used",
    "set the service VSS to start on demand, then look at vssadmin list providers",
)
SHADOW_WRITERS = Kind(
    "BS2212",
    _W,
    "VSS writers have failed",
    "restart the services of these writers, then look at vssadmin list writers",
)
SHADOW_READY = Kind("BS2213", _N, "the VSS writers are ready", "")

VIRTIO_MISSING = Kind(
    "BS2301",
    _W,
    "an initramfs lacks the virtio drivers: on KVM the kernel would not find its root",
    "add them before the last pass: dracut -f --add-drivers 'virtio_blk virtio_scsi virtio_pci', or list them in "
    "/etc/initramfs-tools/modules and run update-initramfs -u -k all",
)
VIRTIO_THERE = Kind("BS2302", _N, "the virtio drivers are there", "")
INITRAMFS_UNREADABLE = Kind(
    "BS2303", _W, "an initramfs could not be looked into", "look for virtio_blk in lsinitramfs or lsinitrd"
)
SELINUX = Kind("BS2304", _N, "SELinux' mode", "after flatten the first boot relabels, which takes a while")
NO_BOOT_LOADER = Kind(
    "BS2305", _W, "no GRUB was found", "if the target is to boot, see to its boot loader yourself"
)
BOOT_LOADER = Kind("BS2306", _N, "the boot loader", "")
FSTAB_NAMES = Kind(
    "BS2307",
    _W,
    "fstab names devices that are called otherwise on other machines",
    "write UUID=… (see blkid) in their place before the last pass",
)
CLOUD_INIT = Kind(
    "BS2308",
    _N,
    "cloud-init will take the target for a new machine: host keys, name and network may be made anew",
    "where that is not wanted, touch /etc/cloud/cloud-init.disabled before the last pass",
)
SYSTEM_UNSEEN = Kind("BS2309", _N, "the system on the source was not looked into", "")

TARGET_UNFIT = Kind("BS2401", _E, "the target is refused", "choose another target, or free this one", TargetError)
TARGET_FITS = Kind("BS2402", _N, "the target can be used", "")
TARGET_SMALL = Kind(
    "BS2403", _E, "the target is smaller than the source", "offer one at least as large as the source", TargetError
)
TARGET_FULL = Kind(
    "BS2404",
    _W,
    "the target is not empty",
    "if what it holds may be lost, say so by name: recv --overwrite PATH",
)
TARGET_SPACE = Kind(
    "BS2405",
    _W,
    "the filesystem under the target image has less room than the image may need",
    "free space there; a sparse source may fit all the same",
)

TARGET_ITSELF = Kind(
    "BS2406",
    _E,
    "the receiver runs on this machine, and one of its targets is the source, holds it, or lies on it",
    "send another disk, or offer another target",
    TargetRefusedError,
)

STATE_UNUSABLE = Kind(
    "BS2501",
    _E,
    "the state folder cannot be used",
    "check its permissions, or name another with --state-dir",
    StateError,
)
STATE_SPACE = Kind(
    "BS2502",
    _E,
    "the state folder has no room for the manifest",
    "free space there, or name a folder on another disk with --state-dir",
    StateError,
)

KINDS: tuple[Kind, ...] = tuple(
    sorted((value for value in list(globals().values()) if isinstance(value, Kind)), key=lambda kind: kind.code)
)


def found(kind: Kind, what: str, remedy: str | None = None) -> Finding:
    """A finding of a kind.

    Args:
        what: is the case here, with its numbers and names.
        remedy: where it is another than the kind's.
    """
    stops = kind.severity is Severity.ERROR
    return Finding(
        code=kind.code,
        severity=kind.severity.value,
        what=what,
        remedy=kind.remedy if remedy is None else remedy,
        exit_code=kind.error.exit_code if stops else 0,
    )


def told(finding: Finding) -> str:
    """A finding in one line, for people."""
    remedy = f"; {finding.remedy}" if finding.remedy else ""
    return f"{finding.severity} {finding.code}: {finding.what}{remedy}"


def as_error(finding: Finding) -> BlocksyncError:
    """The error that a transfer stops with for a finding."""
    kind = next(kind for kind in KINDS if kind.code == finding.code)
    return kind.error(f"{finding.what} ({finding.code})", remedy=finding.remedy, safe="nothing was sent")

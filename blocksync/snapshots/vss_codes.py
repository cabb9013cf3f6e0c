"""What VSS answers when it makes no shadow copy: name, whether another try helps, and what a person can do.

Numbers and names are those of ``vss.h`` and ``vswriter.h``; how often and after how long to try again follows
Microsoft's advice to requesters (ten minutes and three tries after a timeout of holding writes) and is bounded
everywhere.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_HRESULT = re.compile(r"0x(8[0-9a-f]{7})\b", re.IGNORECASE)
_HOLD_SECONDS = 600.0
_BUSY_SECONDS = 30.0
_VSSADMIN_WRITERS = "vssadmin list writers names the writer; restart its service, or stop it for the transfer"


@dataclass(frozen=True, slots=True)
class Trouble:
    """One answer.

    Args:
        number: the HRESULT, unsigned.
        name: of the header, without ``VSS_E_``.
        remedy: what a person can do.
        tries: how often to try in all.
        seconds: before the second try; doubled before each further one where ``doubled``.
    """

    number: int
    name: str
    remedy: str
    tries: int = 1
    seconds: float = 0.0
    doubled: bool = False

    def wait_before(self, attempt: int) -> float:
        """Seconds before the ``attempt``-th try, the second being the first that waits."""
        return self.seconds * 2 ** (attempt - 2) if self.doubled else self.seconds


_SPLIT = "delete old shadow copies (vssadmin list shadows), or send fewer volumes at once"
_NOT_SHADOWED = "it is not NTFS or ReFS, or removable: read it as it is with --live"
TROUBLES = {
    each.number: each
    for each in (
        Trouble(0x80042301, "BAD_STATE", "restart the service VSS and send again", 2, _BUSY_SECONDS),
        Trouble(
            0x80042302, "UNEXPECTED", "look into the event log; restart the services VSS and COM+ Event System"
        ),
        Trouble(
            0x80042304, "PROVIDER_NOT_REGISTERED", "vssadmin list providers: reinstall the one that is missing"
        ),
        Trouble(0x80042306, "PROVIDER_VETO", "look into the event log; remove a provider that is not Microsoft's"),
        Trouble(
            0x80042308,
            "OBJECT_NOT_FOUND",
            "start the service VSS; remove the QEMU guest agent's VSS provider; check the volume's name",
        ),
        Trouble(0x8004230C, "VOLUME_NOT_SUPPORTED", _NOT_SHADOWED),
        Trouble(0x8004230E, "VOLUME_NOT_SUPPORTED_BY_PROVIDER", _NOT_SHADOWED),
        Trouble(
            0x8004230F, "UNEXPECTED_PROVIDER_ERROR", "start the service swprv; run chkdsk; remove other providers"
        ),
        Trouble(0x80042312, "MAXIMUM_NUMBER_OF_VOLUMES_REACHED", _SPLIT),
        Trouble(0x80042313, "FLUSH_WRITES_TIMEOUT", "send when less is written", 3, _HOLD_SECONDS),
        Trouble(0x80042314, "HOLD_WRITES_TIMEOUT", "send when less is written", 3, _HOLD_SECONDS),
        Trouble(
            0x80042316,
            "SNAPSHOT_SET_IN_PROGRESS",
            "another backup makes a shadow copy: send when it is done",
            6,
            _BUSY_SECONDS,
            True,
        ),
        Trouble(0x80042317, "MAXIMUM_NUMBER_OF_SNAPSHOTS_REACHED", _SPLIT),
        Trouble(0x8004231D, "VOLUME_IN_USE", "find what holds the volume", 3, _BUSY_SECONDS, True),
        Trouble(
            0x8004231F,
            "INSUFFICIENT_STORAGE",
            "enlarge the shadow storage (vssadmin resize shadowstorage), or delete old copies",
        ),
        Trouble(0x80042327, "REBOOT_REQUIRED", "restart the machine"),
        Trouble(0x800423F0, "WRITERERROR_INCONSISTENTSNAPSHOT", _VSSADMIN_WRITERS),
        Trouble(0x800423F1, "WRITERERROR_OUTOFRESOURCES", "free memory and disk space; then restart the writer"),
        Trouble(0x800423F2, "WRITERERROR_TIMEOUT", _VSSADMIN_WRITERS, 3, _HOLD_SECONDS),
        Trouble(0x800423F3, "WRITERERROR_RETRYABLE", _VSSADMIN_WRITERS, 3, _BUSY_SECONDS, True),
        Trouble(0x800423F4, "WRITERERROR_NONRETRYABLE", _VSSADMIN_WRITERS),
        Trouble(0x800423F5, "WRITERERROR_RECOVERY_FAILED", _VSSADMIN_WRITERS),
        Trouble(0x80070005, "ACCESSDENIED", "run it elevated, as administrator"),
    )
}
STORAGE = frozenset({0x80042312, 0x80042317, 0x8004231F})
"""Too little room, or too many copies."""
_UNKNOWN_REMEDY = "look into the event log (VSS, volsnap), or read it as it is with --live"

CREATE_RETURNS = {
    1: 0x80070005,
    2: 0x80070057,
    3: 0x80042308,
    4: 0x8004230C,
    5: 0x8004231B,
    6: 0x8004231F,
    7: 0x8004231D,
    8: 0x80042317,
    9: 0x80042316,
    10: 0x80042306,
    11: 0x80042304,
    12: 0x8004230F,
    13: 0x80042302,
}
"""Return values of ``Win32_ShadowCopy.Create`` as the HRESULTs that say the same."""


def trouble_in(text: str) -> Trouble:
    """What a program's output complains of: the last HRESULT in it that is known, else the last, else none (0)."""
    numbers = [int(found, 16) for found in _HRESULT.findall(text)]
    known = [number for number in numbers if number in TROUBLES]
    return trouble_of((known or numbers or [0])[-1])


def trouble_of(number: int) -> Trouble:
    """The catalogue's entry of an HRESULT; one without retries for every other number."""
    return TROUBLES.get(number) or Trouble(number, "unknown", _UNKNOWN_REMEDY)

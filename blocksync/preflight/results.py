"""Options and result of a check."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from blocksync.preflight.findings import Finding


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckOptions:
    """What to look at; what is left out is not looked at.

    Args:
        sources: disks that would be sent.
        to: the receiver, ``HOST[:CONTROL_PORT]``.
        slot: at the receiver.
        targets: paths that would be offered.
        system: look at this machine's own system where no source is named.
        state_dir: folder of identity and pins; None for the system's.
        progress: called with what is being looked at, in a few words.
    """

    sources: tuple[str, ...] = ()
    to: str = ""
    slot: str = ""
    targets: tuple[str, ...] = ()
    system: bool = True
    state_dir: Path | None = None
    progress: Callable[[str], None] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """What was found; ``exit_code`` is that of the first error, 0 without one.

    Args:
        findings: in the order in which they were made.
    """

    findings: tuple[Finding, ...]

    @property
    def exit_code(self) -> int:
        return next((finding.exit_code for finding in self.findings if finding.exit_code), 0)

    def of(self, severity: str) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.severity == severity)

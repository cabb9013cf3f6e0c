"""Windows: whether the Volume Shadow Copy service and its writers are fit, from what its own programs say."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from blocksync.preflight import findings
from blocksync.preflight.findings import Finding, found
from blocksync.snapshots.vss import failed_writers

Run = Callable[[list[str]], "tuple[int, str]"]
"""Runs a program; returns its exit code and its output."""

_DISABLED = re.compile(r":\s*4\s+\w+")
MOST_NAMED = 5


def shadow_findings(run: Run) -> Iterator[Finding]:
    """Ask the service and its writers.

    Args:
        run: starts a program; tests put their own in its place.
    """
    code, text = run(["sc.exe", "qc", "VSS"])
    if code or _DISABLED.search(_line_of(text, "START_TYPE")):
        reason = "it is disabled" if not code else f"sc.exe says {text.strip()[:120] or code}"
        yield found(findings.SHADOW_SERVICE, f"the service VSS cannot be used: {reason}")
        return
    code, text = run(["vssadmin.exe", "list", "writers"])
    if code:
        yield found(findings.SHADOW_SERVICE, f"vssadmin cannot list the writers: {text.strip()[:120] or code}")
        return
    failed, count = failed_writers(text)
    if failed:
        yield found(findings.SHADOW_WRITERS, f"VSS writers have failed: {', '.join(failed[:MOST_NAMED])}")
    else:
        yield found(findings.SHADOW_READY, f"{count} VSS writers are ready")


def _line_of(text: str, word: str) -> str:
    return next((line for line in text.splitlines() if word in line), "")

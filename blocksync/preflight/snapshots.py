"""Whether a snapshot of a source could be taken, and whether there is room for it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator, Mapping

from blocksync.preflight import findings
from blocksync.preflight.findings import Finding, found
from blocksync.preflight.quantities import size_of
from blocksync.volumes.layout import Layout, Volume

# What is written while a pass runs must fit; a tenth of the volume holds a busy day on most servers.
LEAST_SHARE = 0.1
LVM_SECONDS = 30
# A thin pool whose data is as full as this leaves a snapshot little.
MOST_POOL_PERCENT = 80.0

# A pool is a volume that one sees, and nobody takes a snapshot of it.
_THIN = ("thin", "thin-pool")

Free = Callable[[], "Mapping[str, int] | None"]


def snapshot_findings(name: str, layout: Layout, mounted: list[str], free: Free) -> Iterator[Finding]:
    """For one device.

    Args:
        name: of the source.
        layout: of it.
        mounted: where something of it is mounted.
        free: tells the free bytes of each volume group, or None where LVM's tools are not there.
    """
    if not mounted:
        yield found(findings.SOURCE_QUIET, f"nothing of {name} is mounted: what is read does not change meanwhile")
        return
    at = f"{name} is mounted at {', '.join(mounted[:3])}"
    volumes = [
        volume for group in layout.groups for volume in group.volumes if volume.visible and not volume.origin
    ]
    if not volumes:
        yield found(findings.SNAPSHOT_IMPOSSIBLE, f"{at}, and LVM is not below it: no snapshot can be taken")
        return
    known = free()
    if known is None:
        yield found(
            findings.SNAPSHOT_IMPOSSIBLE,
            f"{at}, and LVM's tools cannot be used here: no snapshot can be taken",
            "install lvm2 and run as root, or make the last pass with the source quiet",
        )
        return
    yield from _by_group(layout, volumes, known)


def _by_group(layout: Layout, volumes: list[Volume], known: Mapping[str, int]) -> Iterator[Finding]:
    for group in layout.groups:
        classic = [volume for volume in volumes if volume.group == group.name and volume.type not in _THIN]
        thin = [volume for volume in volumes if volume.group == group.name and volume.type == "thin"]
        needed = sum(int(volume.size * LEAST_SHARE) for volume in classic)
        spare = known.get(group.name, 0)
        if thin and not classic:
            yield found(
                findings.SNAPSHOT_POSSIBLE, f"volume group {group.name}: thin snapshots, which need no space"
            )
        elif spare >= needed:
            yield found(
                findings.SNAPSHOT_POSSIBLE,
                f"volume group {group.name} has {size_of(spare)} free for snapshots of {len(classic)} volumes",
            )
        else:
            yield found(
                findings.SNAPSHOT_SPACE,
                f"volume group {group.name} has {size_of(spare)} free, less than a tenth of its volumes "
                f"({size_of(needed)})",
            )


def free_of_groups() -> Mapping[str, int] | None:
    """Bytes free in each volume group, as LVM says; None where it cannot be asked."""
    words = ["vgs", "--reportformat", "json", "--units", "b", "--nosuffix", "-o", "vg_name,vg_free"]
    try:
        done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=LVM_SECONDS)
        rows = json.loads(done.stdout)["report"][0]["vg"] if done.returncode == 0 else None
        return None if rows is None else {row["vg_name"]: int(row["vg_free"]) for row in rows}
    except (OSError, subprocess.TimeoutExpired, ValueError, LookupError, TypeError):
        return None

"""How long a slot takes to open whose disk is huge and whose every segment is stored.

    python -m benchmarks.opening [--tebibytes 64]

The manifest is a sparse file: its table is written, the payloads behind it are a hole, which reads as segments without
claims. Opening checks the header and the table, counts the claims and folds the root; a view reads one segment.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path
from typing import Any

from blocksync.geometry import DIGEST_BYTES, Geometry
from blocksync.kernels import DigestKind, fold
from blocksync.manifest.folder import OsFolder
from blocksync.manifest.format import HEADER_BYTES, Header, SegmentState, entry, payload_bytes
from blocksync.manifest.journal import create_journal
from blocksync.manifest.store import MANIFEST_FILE, SlotStore

TIB = 1 << 40
KEY = bytes(32)
ROUNDS = 5


def simulate(folder: Path, geometry: Geometry) -> None:
    """Make a slot of that geometry."""
    count, payload = geometry.segment_count, bytes(payload_bytes(geometry, geometry.segment_blocks))
    digest = fold(DigestKind.XXH3, KEY, payload)
    at = HEADER_BYTES + count * 32
    table = b"".join(
        entry(SegmentState.STORED, payload, at + index * len(payload), digest, 0) for index in range(count)
    )
    header = Header(
        manifest_id=bytes(16), generation=1, complete=True, covered=1, epoch=1, geometry=geometry,
        kind=DigestKind.XXH3, key=KEY, root=bytes(DIGEST_BYTES), table_checksum=zlib.crc32(table),
        source_identity="disk", write_mark="",
    )  # fmt: skip
    with OsFolder(folder) as state:
        create_journal(state, header.manifest_id, 1, 1).close()
    with (folder / MANIFEST_FILE).open("wb") as file:
        file.write(header.encode() + table)
        file.truncate(at + count * len(payload))


def open_once(folder: Path) -> dict[str, float]:
    """Seconds of opening, with counts and root, and of a view; the process's memory before and at most, bytes."""
    before = _memory("VmRSS")
    began = time.perf_counter()
    with OsFolder(folder) as state:
        store = SlotStore.open(state)
        store.map.counts()
        store.map.root()
        opened = time.perf_counter()
        store.map.view(store.geometry.block_count // 2, 1)
        viewed = time.perf_counter()
        store.close()
    return {"open": opened - began, "view": viewed - opened, "before": before, "peak": _memory("VmHWM")}


def _memory(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) << 10
    return 0


def measure(folder: Path, *, quick: bool, tebibytes: int = 64) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=folder, prefix="blocksync-opening-") as made:
        place = Path(made) / "slot"
        simulate(place, Geometry(tebibytes * TIB))
        command = [sys.executable, "-m", "benchmarks.opening", "--open", str(place)]
        runs = [
            json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            for _ in range(1 if quick else ROUNDS)
        ]
        found: dict[str, Any] = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
        found.update({name: int(found[name]) for name in ("before", "peak")})
        found.update(tebibytes=tebibytes, manifest=(place / MANIFEST_FILE).stat().st_size)
        return found


def table(found: dict[str, Any]) -> list[str]:
    size = found["manifest"] / (1 << 30)
    return [
        f"The manifest of a disk of {found['tebibytes']} TiB, {size:.0f} GiB with every segment stored, is opened in",
        f"{found['open']:.2f} s (goal 1), its claims counted and its root folded; reading a segment takes",
        f"{found['view'] * 1000:.1f} ms. The process grows from {found['before'] >> 20} to {found['peak'] >> 20} MiB.",
    ]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.opening", description=__doc__)
    parser.add_argument("--tebibytes", type=int, default=64)
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp"))
    parser.add_argument("--open", type=Path, help=argparse.SUPPRESS)
    wanted = parser.parse_args()
    if wanted.open is not None:
        print(json.dumps(open_once(wanted.open)))
        return 0
    print("\n".join(table(measure(wanted.folder, quick=False, tebibytes=wanted.tebibytes))))
    return 0


if __name__ == "__main__":
    sys.exit(main())

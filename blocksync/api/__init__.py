"""The public face: what an agent imports and what the command calls.

Blocking functions for threads, ``a``-functions for asyncio. Each takes a frozen options dataclass, reports through
its ``progress`` callback, and can be told to stop by a :class:`Cancel` (or by cancelling the task); stopping leaves
everything resumable. Errors are :class:`blocksync.errors.BlocksyncError`.
"""

from __future__ import annotations

from blocksync.api.asynchronous import abench, aestimate, areceive, asend, atransfer, averify
from blocksync.api.flattening import boot_test, check_flattened, flatten, plan_flatten, repair_flattened
from blocksync.api.moving import copy, receive, send, send_disks, transfer, transfer_flattened, verify
from blocksync.api.planning import bench, check, estimate, inspect
from blocksync.api.state import (
    ManifestInfo,
    PeerInfo,
    clean_snapshots,
    delete_transfer,
    kept_snapshots,
    limit_transfer,
    manifests,
    peers,
    rebuild,
    revoke,
    stop_transfer,
    transfers,
    verify_receipt,
)
from blocksync.engine.cancel import Cancel
from blocksync.engine.statedir import default_state_dir
from blocksync.estimate.results import BenchOptions, BenchResult, EstimateOptions, EstimateResult
from blocksync.limits import Limits, RateWindow, Schedule
from blocksync.options import (
    BootOptions,
    CopyOptions,
    Digest,
    DiskSpec,
    FlattenOptions,
    ReceiveOptions,
    SendOptions,
    TargetSpec,
    TransferOptions,
    VerifyOptions,
)
from blocksync.preflight.findings import Finding
from blocksync.preflight.results import CheckOptions, CheckResult
from blocksync.results import (
    DiskOutcome,
    FlattenResult,
    GroupResult,
    Listening,
    Progress,
    ReceiveResult,
    Removal,
    SendResult,
    TransferEvent,
    VerifyResult,
)
from blocksync.sources.base import Source
from blocksync.transfers.figures import TransferResult, TransferStatus
from blocksync.transfers.receipt import ReceiptInfo

__all__ = [
    "BenchOptions",
    "BenchResult",
    "BootOptions",
    "Cancel",
    "CheckOptions",
    "CheckResult",
    "CopyOptions",
    "Digest",
    "DiskOutcome",
    "DiskSpec",
    "EstimateOptions",
    "EstimateResult",
    "Finding",
    "FlattenOptions",
    "FlattenResult",
    "GroupResult",
    "Limits",
    "Listening",
    "ManifestInfo",
    "PeerInfo",
    "Progress",
    "RateWindow",
    "ReceiptInfo",
    "ReceiveOptions",
    "ReceiveResult",
    "Removal",
    "Schedule",
    "SendOptions",
    "SendResult",
    "Source",
    "TargetSpec",
    "TransferEvent",
    "TransferOptions",
    "TransferResult",
    "TransferStatus",
    "VerifyOptions",
    "VerifyResult",
    "abench",
    "aestimate",
    "areceive",
    "asend",
    "atransfer",
    "averify",
    "bench",
    "boot_test",
    "check",
    "check_flattened",
    "clean_snapshots",
    "copy",
    "default_state_dir",
    "delete_transfer",
    "estimate",
    "flatten",
    "inspect",
    "kept_snapshots",
    "limit_transfer",
    "manifests",
    "peers",
    "plan_flatten",
    "rebuild",
    "receive",
    "repair_flattened",
    "revoke",
    "send",
    "send_disks",
    "stop_transfer",
    "transfer",
    "transfer_flattened",
    "transfers",
    "verify",
    "verify_receipt",
]

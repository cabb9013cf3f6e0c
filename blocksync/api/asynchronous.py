"""The same for asyncio: the work runs in a thread, and cancelling the task stops it, resumably."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from blocksync.api.moving import receive, send, transfer, verify
from blocksync.api.planning import bench, estimate
from blocksync.engine.cancel import Cancel
from blocksync.estimate.results import BenchOptions, BenchResult, EstimateOptions, EstimateResult
from blocksync.options import DiskSpec, ReceiveOptions, SendOptions, TransferOptions, VerifyOptions
from blocksync.results import ReceiveResult, SendResult, VerifyResult
from blocksync.sources.base import Source
from blocksync.transfers.figures import TransferResult

T = TypeVar("T")


async def asend(source: str | Source, options: SendOptions) -> SendResult:
    """:func:`send` for asyncio; cancelling the task stops the pass and leaves it resumable."""
    return await _in_thread(lambda cancel: send(source, options, cancel=cancel))


async def areceive(options: ReceiveOptions) -> ReceiveResult:
    """:func:`receive` for asyncio; cancelling the task closes the ports."""
    return await _in_thread(lambda cancel: receive(options, cancel=cancel))


async def atransfer(disks: Sequence[DiskSpec], options: TransferOptions) -> TransferResult:
    """:func:`transfer` for asyncio; cancelling the task stops it and leaves it resumable."""
    return await _in_thread(lambda cancel: transfer(disks, options, cancel=cancel))


async def averify(source: str | Source, options: VerifyOptions) -> VerifyResult:
    """:func:`verify` for asyncio."""
    return await _in_thread(lambda cancel: verify(source, options, cancel=cancel))


async def aestimate(source: str | Source, options: EstimateOptions | None = None) -> EstimateResult:
    """:func:`estimate` for asyncio."""
    return await _in_thread(lambda cancel: estimate(source, options, cancel=cancel))


async def abench(source: str | Source | None = None, options: BenchOptions | None = None) -> BenchResult:
    """:func:`bench` for asyncio."""
    return await _in_thread(lambda cancel: bench(source, options, cancel=cancel))


async def _in_thread(work: Callable[[Cancel], T]) -> T:
    import asyncio

    cancel = Cancel()
    task = asyncio.ensure_future(asyncio.to_thread(work, cancel))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        cancel.set()
        # The thread closes its connections and files before the caller goes on.
        await asyncio.wait([task])
        task.exception()
        raise

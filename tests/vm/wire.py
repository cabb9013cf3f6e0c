"""Sending over TLS on loopback, between two state folders, by the library's own functions."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from blocksync import api
from blocksync.limits import Limits
from blocksync.options import FlattenOptions, ReceiveOptions, SendOptions, TargetSpec, TransferOptions
from blocksync.results import FlattenResult, Listening


@contextmanager
def receiving(
    target: Path,
    folder: Path,
    *,
    create: int | None = None,
    boot_test: bool = False,
    beside: Sequence[TargetSpec] = (),
) -> Iterator[Listening]:
    """A receiver with one target in slot ``vm``, and with those beside it, until the block ends."""
    ready: list[Listening] = []
    up = threading.Event()
    cancel = api.Cancel()
    failures: list[BaseException] = []

    def listening(where: Listening) -> None:
        ready.append(where)
        up.set()

    def serve() -> None:
        spec = TargetSpec(path=str(target), slot="vm", create_size=create)
        options = ReceiveOptions(
            targets=(spec, *beside),
            listen="127.0.0.1",
            control_port=0,
            data_port=0,
            state_dir=folder / "receiver",
            boot_test=boot_test,
            on_listening=listening,
        )
        try:
            api.receive(options, cancel=cancel)
        except BaseException as error:  # noqa: BLE001 - told to the test
            failures.append(error)
        finally:
            up.set()

    thread = threading.Thread(target=serve, name="receiver")
    thread.start()
    up.wait()
    if failures:
        thread.join()
        raise failures[0]
    try:
        yield ready[0]
    finally:
        cancel.set()
        thread.join()


def flattened(
    disks: Sequence[Path],
    where: Listening,
    folder: Path,
    flatten: FlattenOptions | None = None,
    *,
    verify: bool = False,
    replace: bool = False,
    cancel: api.Cancel | None = None,
    limits: Limits | None = None,
    remove_excluded: bool | None = None,
    **more: Any,
) -> FlattenResult:
    """One pass of ``send --flatten`` to a receiver on loopback; ``more`` are fields of the options of the send."""
    options = SendOptions(
        to=f"127.0.0.1:{where.control_port}",
        code=where.code,  # looked at only where it is needed: each receiver here has another port
        state_dir=folder / "sender",
        replace=replace,
        retry_seconds=20,
        **more,
    )
    wanted = TransferOptions(
        send=options, verify=verify, limits=limits or Limits(), remove_excluded=remove_excluded
    )
    names = [str(disk) for disk in disks]
    return api.transfer_flattened(names, wanted, flatten or FlattenOptions(), cancel=cancel)[1]


def sent(disks: Sequence[Path], target: Path, folder: Path) -> FlattenResult:
    """A whole transfer to a new target, verified before the repair."""
    size = api.plan_flatten([str(disk) for disk in disks]).size
    with receiving(target, folder, create=size) as where:
        return flattened(disks, where, folder, verify=True)


def sent_apart(
    disks: Sequence[Path], targets: Sequence[Path], folder: Path, flatten: FlattenOptions
) -> FlattenResult:
    """As :func:`sent`, to several targets: the slots ``vm`` and those of ``flatten.onto``."""
    plan = api.plan_flatten([str(disk) for disk in disks], flatten)
    beside = [
        TargetSpec(path=str(path), slot=slot, create_size=alone.size)
        for path, slot, alone in zip(targets[1:], flatten.onto, plan.beside, strict=True)
    ]
    with receiving(targets[0], folder, create=plan.size, beside=beside) as where:
        return flattened(disks, where, folder, flatten, verify=True, slot="vm")

"""``copy``: both ends in one process. The same sender, receiver, manifest and refusals; only the links differ."""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
import threading
from collections.abc import Iterator
from pathlib import Path

from blocksync.control.service import Peer
from blocksync.engine.cancel import Cancel
from blocksync.engine.division import Division
from blocksync.engine.inbound import read_frame
from blocksync.engine.port import PeerPort
from blocksync.engine.receiver import Receiver
from blocksync.engine.removal import remove_names
from blocksync.engine.sender import Sender
from blocksync.engine.sending import Route
from blocksync.engine.slot import Slot
from blocksync.engine.statedir import local_folder
from blocksync.errors import BlocksyncError, StateDamagedError
from blocksync.manifest.cache import ManifestCopy
from blocksync.manifest.folder import OsFolder
from blocksync.options import CopyOptions, SendOptions
from blocksync.protocol.messages import OpenAnswer
from blocksync.protocol.receiver import DataReceiver
from blocksync.results import Progress, SendResult
from blocksync.sources.base import Source
from blocksync.targets import open_target
from blocksync.targets.fitness import refuse_itself
from blocksync.transports.link import Link
from blocksync.transports.memory import memory_pair

_SELF = Peer(fingerprint=bytes(32), name="this machine")
_SLOT = "target"


def copy_disk(
    source: Source,
    target_path: str,
    state: Path,
    options: CopyOptions,
    cancel: Cancel,
    division: Division | None = None,
) -> SendResult:
    """One pass from ``source`` to a local target.

    Args:
        division: removes names of excluded files, where that is wanted.

    Raises:
        TargetRefusedError: see rule 9.
        BlocksyncError: as for a pass over the network.
    """
    refuse_itself(target_path, [source.name])
    folder_path = local_folder(state, target_path)
    folder = OsFolder(folder_path / "slot")
    try:
        # A target that we wrote before needs no second consent: the slot's identity check guards it.
        known = Slot.holds_state(folder)
        target = open_target(
            target_path,
            create_size=source.size if options.create else None,
            overwrite=options.overwrite or known,
            state_dir=state,
            watching=cancel.watching,
        )
        try:
            slot = Slot(_SLOT, target, folder)
        except StateDamagedError as error:
            target.close()
            again = f"--overwrite {shlex.quote(target_path)}"
            error.remedy = f"rm -r {shlex.quote(str(folder_path))}, then copy again with {again}: all is sent"
            raise
        except BaseException:
            target.close()
            raise
    except BaseException:
        folder.close()
        raise
    receiver = local_receiver({_SLOT: slot}, division)
    with contextlib.closing(receiver), local_route(receiver, folder_path / "copy") as route:
        wanted = SendOptions(
            to="",
            slot=_SLOT,
            digest=options.digest,
            block_bytes=options.block_bytes,
            level=0,
            retry_seconds=0,
            replace=options.replace,
            all_blocks=options.all_blocks,
            exclude=options.exclude,
            progress=options.progress,
        )
        result = Sender(source, route, wanted, cancel).run()
        if options.remove_excluded and result.excluded_names:
            result = dataclasses.replace(result, removal=remove_names(route.control, result))
        return result


def local_receiver(slots: dict[str, Slot], division: Division | None = None) -> Receiver:
    """A receiver for this process alone: everything is allowed to the one peer there is."""
    return Receiver(slots, lambda _peer, _slot: True, _quiet, division=division)


@contextlib.contextmanager
def local_route(receiver: Receiver, copy_folder: Path) -> Iterator[Route]:
    """The way of a sender in this process.

    Args:
        copy_folder: of its copy of the manifest.
    """
    with OsFolder(copy_folder) as folder:
        yield Route(
            control=PeerPort(receiver, _SELF),
            connect=lambda answer: _connect(receiver, answer),
            copy=ManifestCopy(folder),
        )


def _connect(receiver: Receiver, _answer: OpenAnswer) -> Link:
    ours, theirs = memory_pair()
    threading.Thread(target=_attend, args=(receiver, theirs), name="copy-inbound", daemon=True).start()
    return ours


def _attend(receiver: Receiver, link: Link) -> None:
    core = DataReceiver()
    try:
        frame, payload = read_frame(link, core)
        handler = receiver.authorise(core.greeting(frame, payload), None)
    except BlocksyncError:
        link.close()
        return
    handler(link, core)


def _quiet(_progress: Progress) -> None:
    pass

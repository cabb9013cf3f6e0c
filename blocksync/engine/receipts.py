"""Getting a receipt signed: what the receiver answers for, and how the sender asks it to."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blocksync import __version__
from blocksync.control.service import Peer
from blocksync.errors import PeerError, ProtocolError, ReceiptError, StateError, from_os_error
from blocksync.transfers.receipt import (
    RECEIPT_BYTES,
    ReceiptInfo,
    check_parts,
    digest_of,
    encode,
    receiver_message,
    sender_message,
    verify,
)
from blocksync.transfers.record import canonical
from blocksync.trust.grants import Grants
from blocksync.trust.identity import Identity, fingerprint_of
from blocksync.trust.pins import Pins

if TYPE_CHECKING:
    # The receiver's part of the engine: a sender need not load it.
    from blocksync.engine.slot import Slot

MAX_SLOTS = 256


def attest(
    said: dict[str, Any], peer: Peer, slot_for: Callable[[Peer, str], Slot], identity: Identity
) -> dict[str, Any]:
    """The receiver's part of a receipt, signed.

    Args:
        said: ``{"slots": [...], "sender_sha256": hex}``.
        slot_for: finds a slot that the peer is granted.
        identity: the receiver's.

    Raises:
        ProtocolError: the request is none.
        PeerError: a slot holds no committed pass.
    """
    slots, digest = said.get("slots"), said.get("sender_sha256")
    if not isinstance(slots, list) or not 0 < len(slots) <= MAX_SLOTS or not all(isinstance(s, str) for s in slots):
        raise ProtocolError("a receipt is asked for without its slots")
    if not isinstance(digest, str) or len(digest) != 64:
        raise ProtocolError("a receipt is asked for without the digest of the sender's part")
    part = {
        "fingerprint": identity.fingerprint.hex(),
        "sender": peer.fingerprint.hex(),
        "sender_sha256": digest,
        "slots": [_held(slot_for(peer, name)) for name in slots],
        "signed": time.time(),
        "version": __version__,
    }
    return {
        "receiver": part,
        "certificate": identity.certificate.hex(),
        "signature": identity.sign(receiver_message(part)).hex(),
    }


def _held(slot: Slot) -> dict[str, Any]:
    with slot.lock:
        store = slot.store
        if store is None or not store.generation or not store.complete:
            raise PeerError(
                f"slot {slot.name} holds no committed pass, or one is under way", remedy="ask when it is committed"
            )
        return {
            "slot": slot.name,
            "target": slot.target.identity,
            "target_size": slot.target.size,
            "source_identity": store.source_identity,
            "size": store.geometry.size,
            "block_bytes": store.geometry.block_bytes,
            "digest": store.kind.name.lower(),
            "generation": store.generation,
            "root": store.map.root().hex(),
        }


def obtain(
    sender: dict[str, Any], ask: Callable[[dict[str, Any]], object], identity: Identity, pin: bytes
) -> bytes:
    """Have the sender's part attested, check that, and countersign.

    Args:
        ask: puts the request to the receiver.
        identity: the sender's.
        pin: fingerprint that the receiver's certificate must have.

    Returns:
        the receipt's file.

    Raises:
        ReceiptError: what the receiver signed is not what was sent.
    """
    answer = ask({"slots": [disk["slot"] for disk in sender["disks"]], "sender_sha256": digest_of(sender)})
    try:
        assert isinstance(answer, dict)
        part = answer["receiver"]
        certificate, signature = bytes.fromhex(answer["certificate"]), bytes.fromhex(answer["signature"])
        if fingerprint_of(certificate) != pin:
            raise ReceiptError("the receipt is signed by another key than the receiver's")
        check_parts(sender, part, sender_certificate=identity.certificate, certificate=certificate)
        canonical(part)
    except (AssertionError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise ProtocolError("the receiver's answer is no receipt") from error
    own = identity.sign(sender_message(sender, part, signature))
    raw = encode(sender, part, certificates=(identity.certificate, certificate), signatures=(own, signature))
    verify(raw)
    return raw


def write_receipt(path: Path, raw: bytes) -> None:
    """Write a receipt where somebody wants it; what was there is replaced whole.

    Raises:
        StateError: it cannot be written.
    """
    fresh = path.with_name(path.name + ".new")
    try:
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        with open(descriptor, "wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except OSError as error:
        raise from_os_error(error, StateError, f"cannot write the receipt to {path}") from error


def read_receipt(path: Path) -> bytes:
    """A receipt's file, within bounds.

    Raises:
        ReceiptError: it cannot be read, or is too long to be one.
    """
    try:
        with open(path, "rb") as file:
            raw = file.read(RECEIPT_BYTES + 1)
    except OSError as error:
        raise from_os_error(error, ReceiptError, f"cannot read the receipt {path}") from error
    if len(raw) > RECEIPT_BYTES:
        raise ReceiptError(f"{path} is too long to be a receipt")
    return raw


def inspect_receipt(path: Path, *, sender: str | None, receiver: str | None, state: Path) -> ReceiptInfo:
    """See :func:`blocksync.api.verify_receipt`."""
    receipt = verify(read_receipt(path))
    for whose, wanted, found in (
        ("sender", sender, receipt.sender_fingerprint),
        ("receiver", receiver, receipt.receiver_fingerprint),
    ):
        if wanted is not None and not (len(wanted) >= 16 and found.startswith(wanted.lower())):
            raise ReceiptError(
                f"the receipt is signed by another {whose}: {found}",
                remedy="compare the fingerprint with the one that the machine itself shows",
            )
    own = Identity.load_or_create(state).fingerprint.hex()
    known = {own: "this machine"}
    known.update({pin.fingerprint.hex(): pin.name for pin in Pins(state).all()})
    known.update({grant.fingerprint.hex(): grant.name for grant in Grants(state).peers()})
    return ReceiptInfo(
        sender=receipt.sender,
        receiver=receipt.receiver,
        sender_fingerprint=receipt.sender_fingerprint,
        receiver_fingerprint=receipt.receiver_fingerprint,
        sender_known=known.get(receipt.sender_fingerprint, ""),
        receiver_known=known.get(receipt.receiver_fingerprint, ""),
    )

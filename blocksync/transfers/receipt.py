"""The receipt of a transfer: what an auditor gets. Pure, but for checking signatures.

A receipt has two parts. The sender's says what it sent: disks, passes, what could not be read, what a verify found.
The receiver's says what it durably holds in each slot, and binds the sender's part by its SHA-256. The receiver signs
its part; the sender signs both parts and the receiver's signature. So each end answers for what it can know, and for
having seen the other's words.

The file is one line of canonical JSON (keys sorted, no blanks, ASCII) and nothing else is a receipt: any byte changed
is found. docs/RECEIPT.md describes each field.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from blocksync.errors import ReceiptError, TrustError
from blocksync.transfers.record import TransferRecord, canonical
from blocksync.trust.identity import fingerprint_of

FORMAT = "blocksync receipt 1"
RECEIPT_BYTES = 4 << 20
_MEMBERS = {"format", "sender", "receiver", "certificates", "signatures"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """A receipt whose signatures hold.

    Args:
        sender, receiver: their parts.
        sender_fingerprint, receiver_fingerprint: hex, of the certificates that signed.
    """

    sender: dict[str, Any]
    receiver: dict[str, Any]
    sender_fingerprint: str
    receiver_fingerprint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiptInfo:
    """A receipt that was checked, and who is known here of those that signed it.

    Args:
        sender, receiver: what each end says; docs/RECEIPT.md lists the fields.
        sender_fingerprint, receiver_fingerprint: hex, of the keys that signed.
        sender_known, receiver_known: what they are called in this machine's state; empty where they are not known.
    """

    sender: dict[str, Any]
    receiver: dict[str, Any]
    sender_fingerprint: str
    receiver_fingerprint: str
    sender_known: str
    receiver_known: str


def sender_part(
    record: TransferRecord,
    *,
    fingerprint: bytes,
    version: str,
    issued: float,
    unreadable: Mapping[str, Sequence[tuple[int, int]]],
    unused: Mapping[str, int],
    excluded: Mapping[str, tuple[int, int]],
    removed: Mapping[str, int],
) -> dict[str, Any]:
    """What the sender says.

    Args:
        fingerprint: of its certificate.
        issued: seconds since 1970.
        unreadable: by slot, ``(offset, length)`` of what a rescue gave up.
        unused: by slot, bytes that were left out since no file uses them, or since they were excluded.
        excluded: by slot, files whose content was excluded, and bytes of it.
        removed: by slot, how many of their names were removed on the target.
    """
    from dataclasses import asdict

    last = {each.slot: each for each in record.passes}
    return {
        "transfer": record.id,
        "to": record.to,
        "fingerprint": fingerprint.hex(),
        "version": version,
        "begun": record.created,
        "issued": issued,
        "state": record.state.value,
        "pass_count": record.pass_count,
        "passes": [asdict(each) for each in record.passes],
        "disks": [
            {
                **asdict(disk),
                "generation": last[disk.slot].generation if disk.slot in last else 0,
                "root": last[disk.slot].root if disk.slot in last else "",
                "consistency": last[disk.slot].consistency if disk.slot in last else "live",
                "unreadable": [list(each) for each in unreadable.get(disk.slot, ())],
                "unused_bytes": unused.get(disk.slot, 0),
                "excluded_files": excluded.get(disk.slot, (0, 0))[0],
                "excluded_bytes": excluded.get(disk.slot, (0, 0))[1],
                "removed_names": removed.get(disk.slot, 0),
            }
            for disk in record.disks
        ],
        "verified": [asdict(each) for each in record.verified],
        "pause": record.pause,
        "forecasts": [asdict(each) for each in record.forecasts],
    }


def digest_of(part: Mapping[str, Any]) -> str:
    """Hex SHA-256 of a part in its canonical form."""
    return hashlib.sha256(canonical(part)).hexdigest()


def receiver_message(part: Mapping[str, Any]) -> bytes:
    """What the receiver signs."""
    return b"blocksync receipt, receiver\n" + canonical(part)


def sender_message(sender: Mapping[str, Any], receiver: Mapping[str, Any], signature: bytes) -> bytes:
    """What the sender countersigns."""
    return b"blocksync receipt, sender\n" + canonical(
        {"sender": sender, "receiver": receiver, "signature": signature.hex()}
    )


def encode(
    sender: Mapping[str, Any],
    receiver: Mapping[str, Any],
    *,
    certificates: tuple[bytes, bytes],
    signatures: tuple[bytes, bytes],
) -> bytes:
    """The file. Certificates (DER) and signatures: the sender's, the receiver's."""
    return (
        canonical(
            {
                "format": FORMAT,
                "sender": sender,
                "receiver": receiver,
                "certificates": {"sender": certificates[0].hex(), "receiver": certificates[1].hex()},
                "signatures": {"sender": signatures[0].hex(), "receiver": signatures[1].hex()},
            }
        )
        + b"\n"
    )


def verify(raw: bytes) -> Receipt:
    """Check a file's form, both signatures, and that both parts speak of the same slots.

    Whose keys these are is for the caller to say: compare the fingerprints with what is known of both machines.

    Raises:
        ReceiptError: it is not what both ends signed.
    """
    try:
        try:
            said = json.loads(raw)
        except ValueError as error:
            raise ReceiptError("this is no receipt: it is not JSON") from error
        if not isinstance(said, dict) or set(said) != _MEMBERS or said["format"] != FORMAT:
            raise ReceiptError("this is no receipt of this version")
        if canonical(said) + b"\n" != raw:
            raise ReceiptError("the receipt is not in its canonical form: it was edited")
        sender, receiver = said["sender"], said["receiver"]
        certificates = {end: _bytes(said["certificates"][end]) for end in ("sender", "receiver")}
        signatures = {end: _bytes(said["signatures"][end]) for end in ("sender", "receiver")}
        check_parts(
            sender, receiver, sender_certificate=certificates["sender"], certificate=certificates["receiver"]
        )
        _check(certificates["receiver"], signatures["receiver"], receiver_message(receiver), "receiver")
        message = sender_message(sender, receiver, signatures["receiver"])
        _check(certificates["sender"], signatures["sender"], message, "sender")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ReceiptError(f"the receipt cannot be read: {type(error).__name__}") from error
    return Receipt(
        sender=sender,
        receiver=receiver,
        sender_fingerprint=sender["fingerprint"],
        receiver_fingerprint=receiver["fingerprint"],
    )


def check_parts(
    sender: Mapping[str, Any], receiver: Mapping[str, Any], *, sender_certificate: bytes, certificate: bytes
) -> None:
    """Raise where the two parts do not belong together.

    Raises:
        ReceiptError: the receiver speaks of other words of the sender, other keys, slots, generations or roots.
    """
    if receiver["sender_sha256"] != digest_of(sender):
        raise ReceiptError("the receiver's part belongs to another sender's part")
    if (
        receiver["sender"] != sender["fingerprint"]
        or fingerprint_of(sender_certificate).hex() != receiver["sender"]
    ):
        raise ReceiptError("the sender's certificate is not the one that the receipt names")
    if fingerprint_of(certificate).hex() != receiver["fingerprint"]:
        raise ReceiptError("the receiver's certificate is not the one that the receipt names")
    ours = {disk["slot"]: (disk["generation"], disk["root"]) for disk in sender["disks"]}
    theirs = {slot["slot"]: (slot["generation"], slot["root"]) for slot in receiver["slots"]}
    if ours != theirs:
        raise ReceiptError(
            "the receiver holds something else than what the sender sent: another pass was committed meanwhile",
            remedy="send once more, and take the receipt of that",
        )


def _bytes(text: str) -> bytes:
    """Hex in its one form: small letters, no blanks."""
    raw = bytes.fromhex(text)
    if raw.hex() != text:
        raise ValueError("odd hex")
    return raw


def _check(certificate: bytes, signature: bytes, message: bytes, whose: str) -> None:
    from blocksync.trust.certificates import check_signature

    try:
        check_signature(certificate, signature, message)
    except TrustError as error:
        raise ReceiptError(f"the {whose}'s signature does not hold: {error.message}") from error

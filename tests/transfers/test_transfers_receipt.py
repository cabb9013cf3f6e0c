"""Receipts: what both ends signed and nothing else."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from blocksync import api
from blocksync.api import Cancel, DiskSpec, SendOptions, TransferOptions
from blocksync.cli.receipts import words
from blocksync.engine.operation import Operation, already_open
from blocksync.engine.receipts import obtain
from blocksync.engine.statedir import prepare
from blocksync.errors import BlocksyncError, PeerError, ProtocolError, ReceiptError, TrustError
from blocksync.sources.memory import MemorySource
from blocksync.transfers.receipt import digest_of, encode, receiver_message, sender_message, verify
from blocksync.transfers.record import DiskRecord, Forecast, PassRecord, VerifyRecord, canonical
from blocksync.trust.identity import Identity
from tests.serving import MIB, Receiver, receiver

PAGE = Path(__file__).parents[2] / "docs" / "RECEIPT.md"


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    folder = tmp_path_factory.mktemp("receipts")
    folder.chmod(0o700)
    with receiver(folder) as made:
        yield made


@pytest.fixture(scope="module")
def genuine(there: Receiver) -> bytes:
    """Of a final pass that was verified."""
    source = MemorySource(MIB, "disk")
    source.write(0, b"1" * MIB)
    wanted = there.folder / "wanted.json"
    send = SendOptions(to=there.to, state_dir=there.folder / "sender", retry_seconds=0)
    with contextlib.closing(there.reach(code=there.listening.code)) as reach:
        result = Operation(
            state=prepare(send.state_dir),
            reach=reach,
            opening=lambda: already_open([source]),
            disks=[DiskSpec(source="disk", slot="a")],
            options=TransferOptions(send=send, final=True, verify=True, receipt=wanted),
            cancel=Cancel(),
        ).run()
    assert result.receipt == str(wanted)
    kept = there.folder / "sender" / "transfers" / result.transfer / "receipt.json"
    assert kept.read_bytes() == wanted.read_bytes()
    return wanted.read_bytes()


def test_a_final_pass_ends_with_a_receipt_that_holds(there: Receiver, genuine: bytes, tmp_path: Path) -> None:
    receipt = verify(genuine)
    assert receipt.receiver_fingerprint == there.listening.fingerprint
    assert receipt.sender["state"] == "finished"
    (disk,) = receipt.sender["disks"]
    assert (disk["slot"], disk["size"], disk["generation"], disk["unreadable"]) == ("a", MIB, 1, [])
    (slot,) = receipt.receiver["slots"]
    assert (slot["generation"], slot["root"]) == (1, disk["root"])
    assert receipt.sender["verified"][0]["identical"] is True
    path = tmp_path / "receipt"
    path.write_bytes(genuine)
    info = api.verify_receipt(path, state_dir=there.folder / "sender", receiver=there.listening.fingerprint)
    assert info.sender_known == "this machine"
    assert info.receiver_known
    for wrong in ({"sender": there.listening.fingerprint}, {"receiver": there.listening.fingerprint[:8]}):
        with pytest.raises(ReceiptError, match="signed by another"):
            api.verify_receipt(path, state_dir=there.folder / "sender", **wrong)


def test_any_byte_changed_is_found(genuine: bytes) -> None:
    chance = random.Random(7)
    for at in range(len(genuine)):
        bit = 1 << chance.randrange(8)
        with pytest.raises(ReceiptError):
            verify(genuine[:at] + bytes([genuine[at] ^ bit]) + genuine[at + 1 :])
    for length in range(0, len(genuine), 7):
        with pytest.raises(ReceiptError):
            verify(genuine[:length])


@pytest.mark.parametrize("change", [b" ", b"\n", b"{}", b"\n\n"])
def test_other_forms_of_the_same_content_are_refused(genuine: bytes, change: bytes) -> None:
    for raw in (genuine + change, change + genuine, json.dumps(json.loads(genuine)).encode() + b"\n"):
        with pytest.raises(ReceiptError):
            verify(raw)


def edited(genuine: bytes, change: dict[str, Any]) -> bytes:
    said = json.loads(genuine)
    for path, value in change.items():
        at = said
        *way, last = path.split(".")
        for step in way:
            at = at[int(step)] if step.isdigit() else at[step]
        at[last] = value
    return canonical(said) + b"\n"


@pytest.mark.parametrize(
    "change",
    [
        {"format": "blocksync receipt 2"},
        {"more": 1},
        {"sender.state": "waiting"},
        {"sender.verified": []},
        {"receiver.slots.0.generation": 2},
        {"sender.disks.0.generation": 2, "receiver.slots.0.generation": 2},
        {"signatures.sender": "00"},
        {"signatures.receiver": 5},
        {"certificates": []},
    ],
)
def test_edited_content_is_refused(genuine: bytes, change: dict[str, Any]) -> None:
    with pytest.raises(ReceiptError):
        verify(edited(genuine, change))


def test_neither_end_alone_can_make_one(genuine: bytes, tmp_path: Path) -> None:
    """A forger with one end's key signs what the other did not."""
    tmp_path.chmod(0o700)
    said, forger = json.loads(genuine), Identity.load_or_create(tmp_path)
    sender, part = said["sender"], said["receiver"]
    theirs = bytes.fromhex(said["certificates"]["receiver"])
    signature = bytes.fromhex(said["signatures"]["receiver"])
    # Another sender, with the receiver's genuine part.
    own = forger.sign(sender_message(sender, part, signature))
    with pytest.raises(ReceiptError, match="sender's certificate"):
        verify(encode(sender, part, certificates=(forger.certificate, theirs), signatures=(own, signature)))
    # Another receiver, with the sender's genuine part and signature.
    forged = forger.sign(receiver_message(part))
    ours = bytes.fromhex(said["certificates"]["sender"])
    kept = bytes.fromhex(said["signatures"]["sender"])
    with pytest.raises(ReceiptError, match="receiver's certificate"):
        verify(encode(sender, part, certificates=(ours, forger.certificate), signatures=(kept, forged)))


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all that is in a part."""
    if path:
        yield path
    for key, inner in (
        value.items() if isinstance(value, dict) else enumerate(value if isinstance(value, list) else ())
    ):
        yield from _places(inner, (*path, key))


def test_a_receipt_that_its_makers_signed_without_saying_what_one_says_is_told_when_it_is_shown(
    genuine: bytes, tmp_path: Path
) -> None:
    """Anybody can make two keys and sign anything with both; what is shown is words, or an error that is ours."""
    keys = []
    for name in ("sender", "receiver"):
        folder = tmp_path / name
        folder.mkdir(mode=0o700)
        keys.append(Identity.load_or_create(folder))
    said = json.loads(genuine)
    refused = 0
    for end in ("sender", "receiver"):
        for place in _places(said[end]):
            for odd in (None, "x", 1e300, [[]]):
                parts = json.loads(genuine)
                sender, part = parts["sender"], parts["receiver"]
                sender["fingerprint"] = part["sender"] = keys[0].fingerprint.hex()
                part["fingerprint"] = keys[1].fingerprint.hex()
                spot: Any = parts[end]
                for key in place[:-1]:
                    spot = spot[key]
                spot[place[-1]] = odd
                part["sender_sha256"] = digest_of(sender) if place != ("sender_sha256",) else odd
                signature = keys[1].sign(receiver_message(part))
                own = keys[0].sign(sender_message(sender, part, signature))
                raw = encode(
                    sender,
                    part,
                    certificates=(keys[0].certificate, keys[1].certificate),
                    signatures=(own, signature),
                )
                (tmp_path / "receipt.json").write_bytes(raw)
                try:
                    info = api.verify_receipt(tmp_path / "receipt.json", state_dir=tmp_path / "sender")
                    assert all(isinstance(line, str) for line in words(info))
                except ReceiptError:
                    refused += 1
    assert refused > 100


def test_the_receiver_signs_only_what_it_holds_for_whom_it_granted(there: Receiver, genuine: bytes) -> None:
    sender = json.loads(genuine)["sender"]
    with contextlib.closing(there.reach()) as reach:

        def ask(**change: object) -> object:
            return reach.control.receipt({"slots": ["a"], "sender_sha256": "0" * 64, **change})

        assert isinstance(ask(), dict)
        with pytest.raises(PeerError, match="no committed pass"):
            ask(slots=["b"])
        with pytest.raises(TrustError):
            ask(slots=["c"])
        for wrong in (
            {"slots": []},
            {"slots": "a"},
            {"slots": [1]},
            {"slots": ["a"] * 300},
            {"sender_sha256": "x"},
        ):
            with pytest.raises(ProtocolError):
                ask(**wrong)
        old = {**sender, "disks": [{**sender["disks"][0], "generation": 7}]}
        with pytest.raises(ReceiptError, match="another pass was committed"):
            obtain(old, reach.control.receipt, reach.identity, reach.fingerprint)
        with pytest.raises(ReceiptError, match="another key"):
            obtain(sender, reach.control.receipt, reach.identity, bytes(32))
        for answer in (None, {}, {"receiver": {}, "certificate": "zz", "signature": ""}):
            with pytest.raises(BlocksyncError):
                obtain(sender, lambda _request, answer=answer: answer, reach.identity, reach.fingerprint)


def test_the_page_names_every_member(genuine: bytes) -> None:
    said = json.loads(genuine)
    text = PAGE.read_text()
    tables = [
        {name for row in re.findall(r"^\| ([^|]+) \|", table, re.MULTILINE)[2:] for name in re.findall(r"`(\w+)`", row)}
        for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    ]  # fmt: skip
    assert tables == [set(said), set(said["sender"]), set(said["receiver"])]
    listed = set(re.findall(r"`(\w+)`", text))
    for kind in (PassRecord, DiskRecord, VerifyRecord, Forecast):
        assert {field.name for field in dataclasses.fields(kind)} <= listed
    assert set(said["sender"]["disks"][0]) | set(said["receiver"]["slots"][0]) <= listed

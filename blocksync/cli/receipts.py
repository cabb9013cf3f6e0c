"""``blocksync receipt``: what a transfer ended with, signed by both ends."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from blocksync.cli.forecasts import beside_the_truth
from blocksync.cli.parameters import PATH, common
from blocksync.cli.quantities import show_seconds, show_size
from blocksync.cli.session import Session
from blocksync.errors import ReceiptError

if TYPE_CHECKING:
    from blocksync.transfers.receipt import ReceiptInfo

PASSES_SHOWN = 20

F = TypeVar("F", bound=Callable[..., Any])


@click.group()
def receipt() -> None:
    """Look at a transfer's receipt, and prove that it is what both ends signed."""


def _keys(function: F) -> F:
    for end in ("receiver", "sender"):
        option = click.option(
            f"--{end}", metavar="FINGERPRINT", help=f"The key that the {end} must have signed with."
        )
        function = option(function)
    return function


@receipt.command("verify")
@click.argument("file", type=PATH)
@_keys
@common()
def verify(session: Session, file: Path, sender: str | None, receiver: str | None, state_dir: Path | None) -> int:
    """Check the form and both signatures of FILE; exit 9 where it is not what was signed.

    Whose the keys are is told where this machine knows them; an auditor gives --sender and --receiver.
    """
    from blocksync import api

    info = api.verify_receipt(file, sender=sender, receiver=receiver, state_dir=state_dir)
    session.output.result(
        {"command": "receipt verify", **dataclasses.asdict(info)}, f"genuine: {file}", *_signers(info)
    )
    return 0


@receipt.command("show")
@click.argument("file", type=PATH)
@common()
def show(session: Session, file: Path, state_dir: Path | None) -> int:
    """Show FILE in words; only a genuine receipt is shown."""
    from blocksync import api

    info = api.verify_receipt(file, state_dir=state_dir)
    session.output.result({"command": "receipt show", **dataclasses.asdict(info)}, *words(info))
    return 0


def _signers(info: ReceiptInfo) -> list[str]:
    return [
        f"  {end} {fingerprint} ({known or 'not known on this machine'})"
        for end, fingerprint, known in (
            ("sender  ", info.sender_fingerprint, info.sender_known),
            ("receiver", info.receiver_fingerprint, info.receiver_known),
        )
    ]


def words(info: ReceiptInfo) -> list[str]:
    """What a receipt says, in lines.

    Raises:
        ReceiptError: it does not say what a receipt says, whoever signed it: anybody can sign anything.
    """
    try:
        return _lines(info)
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError, OSError) as error:
        raise ReceiptError(
            "the receipt is signed, but is not made of what a receipt says",
            remedy="compare the fingerprints of both keys: this was not written by blocksync",
        ) from error


def _lines(info: ReceiptInfo) -> list[str]:
    sent, held = info.sender, info.receiver
    lines = [
        (
            f"transfer  {sent['transfer']}, {sent['state']}, begun {_moment(sent['begun'])}, "
            f"receipt of {_moment(held['signed'])}"
        ),
        *_signers(info),
        f"versions  sender {sent['version']}, receiver {held['version']}",
    ]
    slots = {slot["slot"]: slot for slot in held["slots"]}
    for disk in sent["disks"]:
        slot = slots[disk["slot"]]
        lines += [
            f"disk      {disk['source']} ({disk['identity']}), {show_size(disk['size'])}",
            f"  slot    {disk['slot']} on {slot['target']}, generation {slot['generation']}",
            f"  root    {slot['root']} ({slot['digest']}), {_consistency(disk['consistency'])}",
        ]
        if disk["unused_bytes"]:
            lines.append(f"  left out  {show_size(disk['unused_bytes'])} that no file uses")
        if disk.get("excluded_files"):
            lines.append(
                f"  excluded  {disk['excluded_files']} files, {show_size(disk['excluded_bytes'])}; "
                f"{disk['removed_names']} names removed on the target"
            )
        if disk["unreadable"]:
            lost = sum(length for _, length in disk["unreadable"])
            lines.append(
                f"  UNREADABLE  {show_size(lost)} in {len(disk['unreadable'])} ranges: zeros on the target"
            )
    lines.append(f"passes    {sent['pass_count']}")
    for each in sent["passes"][-PASSES_SHOWN:]:
        lines.append(
            f"  {each['number']:4} {each['slot']} {each['kind']:11} {_moment(each['began'])} "
            f"{show_seconds(each['seconds'])}, {show_size(each['changed'])} changed, {show_size(each['wire'])} sent"
        )
    for found in sent["verified"]:
        verdict = "identical" if found["identical"] else f"DIFFERENT in {show_size(found['differing_bytes'])}"
        lines.append(f"verify    {found['slot']}: {verdict}, {_moment(found['at'])}")
    if not sent["verified"]:
        lines.append("verify    not made")
    # Receipts of before these were told hold as well.
    if sent.get("pause"):
        lines.append(f"pause     the source stood still for {show_seconds(sent['pause'])}")
    if sent.get("forecasts"):
        lines += ["predictions", *(f"  {line}" for line in beside_the_truth(sent["forecasts"]))]
    return lines


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))


def _consistency(word: str) -> str:
    return "read live" if word == "live" else f"{word} consistent"

"""Every JSON message of the control port, both directions, and pairing's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from blocksync.protocol.messages import (
    CommitAnswer,
    CommitRequest,
    Heartbeat,
    OpenAnswer,
    OpenRequest,
    VerifyAnswer,
    VerifyRequest,
)
from blocksync.trust.pairing import PairingReply, PairingRequest
from fuzz.surfaces import Surface

KINDS: tuple[Any, ...] = (
    OpenRequest, OpenAnswer, Heartbeat, CommitRequest, CommitAnswer, VerifyRequest, VerifyAnswer, PairingRequest,
    PairingReply,
)  # fmt: skip


def run(data: bytes) -> None:
    if not data:
        return
    kind = KINDS[data[0] % len(KINDS)]
    try:
        said = json.loads(data[1:])
    except (ValueError, RecursionError):
        return  # the ports answer these as no JSON
    message = kind.from_json(said)
    assert kind.from_json(json.loads(json.dumps(message.to_json()))) == message


def seeds() -> Iterator[bytes]:
    values: dict[str, Any] = {
        "version": 1, "run": "00" * 16, "slot": "a", "source_identity": "file:/x", "source_name": "x", "size": 1 << 20,
        "sector_bytes": 512, "block_bytes": 65536, "digest": 1, "connections": 4, "replace": False,
        "session": "11" * 16, "token": "22" * 32, "epoch": 3, "data_port": 8703, "manifest_id": "33" * 16,
        "generation": 1, "pass_open": True,
        "key": "44" * 32, "root": "55" * 16, "frame_bytes": 1 << 20, "known_bytes": 65536, "notice": "", "durable": 7,
        "offset": 0, "length": 65536, "piece_bytes": 65536, "certificate": "AAAA", "nonce": "A" * 43 + "=", "name": "n",
        "mac": "A" * 43 + "=", "signature": "AAAA", "slots": ["a", "b"],
    }  # fmt: skip
    for index in range(len(KINDS)):
        yield bytes([index]) + json.dumps(values).encode()
        yield bytes([index]) + b"[" * 200
        yield bytes([index]) + b'{"version": 2}'


SURFACE = Surface(run=run, seeds=seeds, modules=("blocksync.protocol.messages", "blocksync.trust"), most_bytes=3000)

"""The small files of trust, as somebody who may write to the state folder leaves them: grants, pins, the identity."""

from __future__ import annotations

import contextlib
import functools
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from blocksync.trust.grants import Grant, Grants
from blocksync.trust.identity import Identity
from blocksync.trust.pins import Pins
from fuzz.surfaces import Surface

FILES = ("grants.json", "receivers.json", "identity.pem")


@functools.lru_cache(maxsize=1)
def _folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="blocksync-fuzz-"))


def run(data: bytes) -> None:
    if not data:
        return
    folder = _folder()
    name = FILES[data[0] % len(FILES)]
    path = folder / name
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with contextlib.closing(os.fdopen(descriptor, "wb")) as file:
        file.write(data[1:])
    try:
        if name == "grants.json":
            for grant in Grants(folder).peers():
                assert len(grant.fingerprint) == 32
        elif name == "receivers.json":
            Pins(folder).find("127.0.0.1", 8080)
        else:
            Identity.load_or_create(folder)
    finally:
        path.unlink(missing_ok=True)


def seeds() -> Iterator[bytes]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o700)
        identity = Identity.load_or_create(folder)
        Grants(folder).add(Grant.make(identity.certificate, "peer", ["a", "b"], 5))
        Pins(folder).add("127.0.0.1", 8080, fingerprint=bytes(32), name="x", since=5)
        for index, each in enumerate(FILES):
            yield bytes([index]) + (folder / each).read_bytes()
    yield b"\0" + b"[" * 3000


SURFACE = Surface(run=run, seeds=seeds, modules=("blocksync.trust",), most_bytes=3001)

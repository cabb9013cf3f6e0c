"""What the sender remembers: which receiver's key answers at which address.

``receivers.json`` in the sender's state folder. A pin is only ever made by pairing; a receiver that answers with
another key is refused, never learned.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from blocksync.errors import UsageError
from blocksync.trust.fields import Fields
from blocksync.trust.grants import SINCE_SECONDS_MAX
from blocksync.trust.names import PEER_NAME_CHARACTERS, printable
from blocksync.trust.store import JsonStore

PINS_FILE = "receivers.json"
ADDRESS_CHARACTERS = 300
"""Longest address: a host name's 253 characters and a port, or an IPv6 address with its zone."""


def address_of(host: str, port: int) -> str:
    """Write a host and its control port in one form, so that the same receiver is found again.

    Names are lower-cased and lose their final dot, IPv6 addresses get brackets; nothing is looked up.

    Raises:
        UsageError: there is no such host or port.
    """
    name = host.strip().removeprefix("[").removesuffix("]").removesuffix(".").lower()
    if not name or len(name) > 255 or not name.isprintable() or any(c in " /@" for c in name):
        raise UsageError(f"'{printable(host, 80)}' is no host", remedy="name the receiver as HOST or HOST:PORT")
    if not 1 <= port <= 65535:
        raise UsageError(f"{port} is no port", remedy="name a port from 1 to 65535")
    return f"[{name}]:{port}" if ":" in name else f"{name}:{port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pin:
    """One receiver that this machine paired with.

    Args:
        address: as :func:`address_of` writes it.
        fingerprint: SHA-256 of the receiver's certificate, 32 bytes.
        name: what the receiver calls itself, made harmless.
        since: when it was paired, in seconds since 1970 by this machine's clock.
    """

    address: str
    fingerprint: bytes
    name: str
    since: int


class Pins:
    """The receivers that this machine knows; threads and processes may use it at once.

    Args:
        folder: the state folder.
    """

    def __init__(self, folder: Path) -> None:
        self._store = JsonStore(folder / PINS_FILE, version=1, key="receivers", parse=_parse, dump=_dump)

    def all(self) -> tuple[Pin, ...]:
        """All pins.

        Raises:
            StateError: the file is damaged, unreadable or open to others; so does every method below.
        """
        return self._store.load()

    def find(self, host: str, port: int) -> Pin | None:
        """The receiver at an address, or None before pairing.

        Raises:
            UsageError: there is no such host or port.
        """
        address = address_of(host, port)
        return next((pin for pin in self.all() if pin.address == address), None)

    def add(self, host: str, port: int, *, fingerprint: bytes, name: str, since: int) -> Pin:
        """Pin a receiver after pairing, in place of an older one at its address; durable on return.

        Args:
            host: as the user names it.
            port: of the control plane.
            fingerprint: the whole one, 32 bytes.
            name: what the receiver calls itself; neutralised here.
            since: seconds since 1970.

        Raises:
            UsageError: there is no such host or port.
        """
        if len(fingerprint) != 32:
            raise ValueError("a receiver is pinned by its whole fingerprint")
        pin = Pin(
            address=address_of(host, port),
            fingerprint=fingerprint,
            name=printable(name.strip(), PEER_NAME_CHARACTERS) or "unnamed",
            since=max(0, min(since, SINCE_SECONDS_MAX)),
        )
        with self._store.changing():
            others = [other for other in self._store.load() if other.address != pin.address]
            self._store.save([*others, pin])
        return pin

    def forget(self, host: str, port: int) -> bool:
        """Remove a pin; durable on return. Tells whether there was one.

        Raises:
            UsageError: there is no such host or port.
        """
        address = address_of(host, port)
        with self._store.changing():
            pins = self._store.load()
            kept = [pin for pin in pins if pin.address != address]
            if len(kept) == len(pins):
                return False
            self._store.save(kept)
        return True


def _parse(value: object) -> Pin:
    fields = Fields(value, "address", "fingerprint", "name", "since")
    return Pin(
        address=fields.text("address", ADDRESS_CHARACTERS),
        fingerprint=fields.digest("fingerprint"),
        name=printable(fields.text("name", PEER_NAME_CHARACTERS), PEER_NAME_CHARACTERS),
        since=fields.number("since", SINCE_SECONDS_MAX),
    )


def _dump(pin: Pin) -> dict[str, object]:
    return {"address": pin.address, "fingerprint": pin.fingerprint.hex(), "name": pin.name, "since": pin.since}

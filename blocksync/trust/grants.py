"""What the receiver granted: which peer's key may send to which slots.

``grants.json`` in the state folder is the only truth. ``blocksync revoke`` is another process than the ``recv``
that serves, so every question reads the file again; a file that is gone grants nothing, a damaged one answers
with an error.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from blocksync.errors import TrustError
from blocksync.trust.fields import Fields, as_text
from blocksync.trust.identity import fingerprint_of
from blocksync.trust.names import PEER_NAME_CHARACTERS, SLOT_NAME_CHARACTERS, check_slot_name, printable
from blocksync.trust.store import JsonStore

GRANTS_FILE = "grants.json"
PEERS_MAX = 1000
"""Most peers of one receiver; each is a trust anchor loaded when grants change."""
SLOTS_MAX = 256
"""Most slots granted to one peer."""
CERTIFICATE_BYTES_MAX = 4096
SINCE_SECONDS_MAX = 253402300799
"""The last second of the year 9999."""

_PREFIX_DIGITS = 4  # shortest fingerprint prefix that revoke takes: fewer is a slip of the finger


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """One peer and the slots it may send to.

    Args:
        fingerprint: SHA-256 of its certificate, 32 bytes.
        certificate: DER.
        name: what the peer calls itself, made harmless; not unique, and no proof of anything.
        slots: sorted names.
        since: when it paired first, in seconds since 1970 by the receiver's clock.
    """

    fingerprint: bytes
    certificate: bytes
    name: str
    slots: tuple[str, ...]
    since: int

    @classmethod
    def make(cls, certificate: bytes, name: str, slots: Iterable[str], since: int) -> Grant:
        """Make a grant from what a peer says; its name is neutralised here.

        Raises:
            UsageError: a slot's name is none.
        """
        return cls(
            fingerprint=fingerprint_of(certificate),
            certificate=certificate,
            name=printable(name.strip(), PEER_NAME_CHARACTERS) or "unnamed",
            slots=tuple(sorted({check_slot_name(slot) for slot in slots})),
            since=max(0, min(since, SINCE_SECONDS_MAX)),
        )


class Grants:
    """The grants of one receiver.

    Threads and processes: any number may ask and change at once; each change holds the file's lock and starts
    from what the file holds then.

    Args:
        folder: the state folder.
    """

    def __init__(self, folder: Path) -> None:
        self._store = JsonStore(folder / GRANTS_FILE, version=1, key="peers", parse=_parse, dump=_dump)

    def peers(self) -> tuple[Grant, ...]:
        """All grants, in the order of pairing.

        Raises:
            StateError: the file is damaged, unreadable or open to others; so does every method below.
        """
        return self._store.load()

    def certificates(self) -> tuple[bytes, ...]:
        """The peers' certificates (DER), for :class:`blocksync.trust.tls.LiveServerContext`."""
        return tuple(grant.certificate for grant in self.peers())

    def find(self, fingerprint: bytes) -> Grant | None:
        """The grant of a peer's fingerprint (32 bytes)."""
        return next((grant for grant in self.peers() if grant.fingerprint == fingerprint), None)

    def allowed(self, fingerprint: bytes | None, slot: str) -> bool:
        """Whether this peer may send to this slot now; None, a peer that showed no key, never may."""
        grant = None if fingerprint is None else self.find(fingerprint)
        return grant is not None and slot in grant.slots

    def require(self, fingerprint: bytes | None, slot: str) -> Grant:
        """Return the peer's grant if it covers the slot; to be asked at each open, resume and data connection.

        Raises:
            TrustError: it does not; the message says what to do, and no more than the peer knows.
        """
        grant = None if fingerprint is None else self.find(fingerprint)
        if grant is None:
            raise TrustError("this receiver does not know the sender's key")
        if slot not in grant.slots:
            raise TrustError(
                f"the sender's key has no grant for slot '{printable(slot, SLOT_NAME_CHARACTERS)}'",
                remedy="name a paired slot with --slot, or pair again with a fresh code from blocksync recv",
            )
        return grant

    def add(self, grant: Grant) -> None:
        """Add a peer, or more slots to a known one (whose name may change); durable on return.

        Raises:
            TrustError: there are too many peers or slots.
        """
        with self._store.changing():
            grants = list(self._store.load())
            for at, old in enumerate(grants):
                if old.fingerprint == grant.fingerprint:
                    slots = tuple(sorted({*old.slots, *grant.slots}))
                    grants[at] = replace(grant, slots=slots, since=old.since)
                    break
            else:
                grants.append(grant)
            too_many = len(grants) > PEERS_MAX or any(len(each.slots) > SLOTS_MAX for each in grants)
            if too_many:
                raise TrustError(
                    f"a receiver keeps at most {PEERS_MAX} peers with {SLOTS_MAX} slots each",
                    remedy="withdraw what is no longer needed with blocksync revoke",
                )
            self._store.save(grants)

    def allow(self, fingerprint: bytes, slot: str) -> None:
        """Grant one more slot to a known peer; durable on return.

        Raises:
            TrustError: the peer is unknown, or has too many slots.
            UsageError: the slot's name is none.
        """
        grant = self.find(fingerprint)
        if grant is None:
            raise TrustError("that peer is not paired")
        self.add(Grant.make(grant.certificate, grant.name, [slot], grant.since))

    def revoke(self, who: str, slot: str | None = None) -> Grant:
        """Withdraw a peer's grant, or one slot of it; durable on return.

        Args:
            who: its name, or at least 4 digits of its fingerprint's beginning.
            slot: only this slot; the peer is forgotten with its last one.

        Returns:
            what was withdrawn.

        Raises:
            TrustError: no peer or several are meant (a peer chooses its name, so a name that looks like
                another's fingerprint counts as both), or it has no such slot.
        """
        with self._store.changing():
            grants = list(self._store.load())
            grant = _meant(grants, who)
            if slot is not None and slot not in grant.slots:
                raise TrustError(
                    f"{grant.name} has no grant for slot '{printable(slot, SLOT_NAME_CHARACTERS)}'",
                    remedy=_SEE_PEERS,
                )
            kept = () if slot is None else tuple(each for each in grant.slots if each != slot)
            at = grants.index(grant)
            grants[at : at + 1] = [replace(grant, slots=kept)] if kept else []
            self._store.save(grants)
        return grant if slot is None else replace(grant, slots=(slot,))


_SEE_PEERS = "blocksync peers lists names, fingerprints and slots"


def _meant(grants: list[Grant], who: str) -> Grant:
    prefix = who.lower().replace(":", "")
    found = [
        grant
        for grant in grants
        if grant.name == who or (len(prefix) >= _PREFIX_DIGITS and grant.fingerprint.hex().startswith(prefix))
    ]
    if not found:
        raise TrustError(f"no peer is called '{printable(who)}'", remedy=_SEE_PEERS)
    if len(found) > 1:
        meant = ", ".join(grant.fingerprint.hex()[:16] for grant in found[:8])
        raise TrustError(
            f"'{printable(who)}' means {len(found)} peers: {meant}", remedy="name one by more of its fingerprint"
        )
    return found[0]


def _parse(value: object) -> Grant:
    fields = Fields(value, "fingerprint", "certificate", "name", "slots", "since")
    grant = Grant.make(
        fields.octets("certificate", CERTIFICATE_BYTES_MAX),
        fields.text("name", PEER_NAME_CHARACTERS),
        fields.texts("slots", SLOT_NAME_CHARACTERS, SLOTS_MAX),
        fields.number("since", SINCE_SECONDS_MAX),
    )
    if grant.fingerprint != fields.digest("fingerprint"):
        raise ValueError("a fingerprint is not its certificate's")
    return grant


def _dump(grant: Grant) -> dict[str, object]:
    return {
        "fingerprint": grant.fingerprint.hex(),
        "certificate": as_text(grant.certificate),
        "name": grant.name,
        "slots": list(grant.slots),
        "since": grant.since,
    }

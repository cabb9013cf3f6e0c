"""What the control server needs of the receiver behind it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from blocksync.protocol.messages import ControlPort


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A sender that proved its key.

    Args:
        fingerprint: SHA-256 of its certificate, 32 bytes.
        name: what it calls itself, made harmless.
    """

    fingerprint: bytes
    name: str


class ReceiverService(Protocol):
    """Blocking; called from several threads."""

    @property
    def data_port(self) -> int:
        """Where the data connections go; whoever may connect sees that it is open."""

    def pair(self, request: dict[str, object]) -> dict[str, object]:
        """Judge a pairing request; its reply."""

    def grants_fingerprint_ok(self, fingerprint: bytes) -> Peer | None:
        """The peer of a certificate, if it has any grant now."""

    def recognises(self, marks: str) -> bool:
        """Whether marks of a source's storage are of a target here: both ends on one machine, and the same disk."""

    def port_for(self, peer: Peer) -> ControlPort:
        """What this peer may do."""

    def receipt(self, peer: Peer, request: dict[str, Any]) -> dict[str, Any]:
        """The receiver's signed part of a receipt."""

    def view(self, peer: Peer | None) -> dict[str, Any]:
        """What can be watched: of a peer's slots, or of all where None."""

    def status(self, peer: Peer) -> dict[str, Any]:
        """Slots and sessions, as far as this peer may see them."""

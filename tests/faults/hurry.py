"""Deadlines of both ends, made short in this process: what waits for a minute for a way that holds is soon through.

The code that waits is the shipped one; how long a figure says is all that changes. A deadline that passes too early,
on a machine that is busy, costs a try that is made again, and nothing is judged by it.
"""

from __future__ import annotations

from blocksync.control import client, connection, contact, diagnosis, door, server
from blocksync.engine import landing, outbound, reach, sender, sending, slot, standing
from blocksync.preflight import network
from blocksync.transports import listener

# Of what waits for an answer that comes at once here; and of what must outlast that.
SHORT_SECONDS = 1.0
LONG_SECONDS = 2.0
_SHORT = (
    (client, "CONNECT_SECONDS"), (client, "ANSWER_SECONDS"), (client, "OPEN_SECONDS"), (client, "COMMIT_SECONDS"),
    (client, "VERIFY_SILENCE_SECONDS"), (contact, "CONNECT_SECONDS"), (contact, "ANSWER_SECONDS"),
    (reach, "CONNECT_SECONDS"), (reach, "DATA_CONNECT_SECONDS"), (diagnosis, "PROBE_SECONDS"),
    (network, "PROBE_SECONDS"), (door, "STRANGER_SECONDS"), (listener, "PROVEN_WITHIN_SECONDS"),
    (connection, "IDLE_SECONDS"), (standing, "HELD_SECONDS"), (outbound, "REASON_SECONDS"),
)  # fmt: skip
_LONG = (
    (sending, "DEAD_AFTER_SECONDS"), (server, "IDLE_SECONDS"), (slot, "SILENCE_SECONDS"),
)  # fmt: skip
_AT_ONCE = (
    # Sooner than the sender gives its request up, as it is.
    (server, "BODY_SECONDS", 0.6),
    (sender, "FIRST_BACKOFF_SECONDS", 0.02), (sender, "LONGEST_BACKOFF_SECONDS", 0.2),
    (reach, "FIRST_BACKOFF_SECONDS", 0.02), (reach, "LONGEST_BACKOFF_SECONDS", 0.2),
    (slot, "ABANDONED_SECONDS", 0.02), (slot, "CHECKPOINT_SECONDS", 0.2), (sending, "HEARTBEAT_SECONDS", 0.2),
)  # fmt: skip


def hurry(window_bytes: int) -> None:
    """For the rest of this process.

    Args:
        window_bytes: of a receiver's window, so that a small disk goes through several.
    """
    for seconds, names in ((SHORT_SECONDS, _SHORT), (LONG_SECONDS, _LONG)):
        for module, name in names:
            _set(module, name, seconds)
    for module, name, each in _AT_ONCE:
        _set(module, name, each)
    for name in ("WINDOW_BYTES", "HELD_BYTES"):
        _set(landing, name, window_bytes)


def _set(module: object, name: str, value: float) -> None:
    if not hasattr(module, name):
        raise AttributeError(f"{module} has no {name} any more")
    setattr(module, name, value)

"""Where state lies, and what lies in it.

::

    STATE/identity.pem            this machine's certificate and key      (trust)
    STATE/grants.json             receiver: who may write to which slot   (trust)
    STATE/receivers.json          sender: pinned receivers                (trust)
    STATE/slots/SLOT/             receiver: manifest and journal          (manifest)
    STATE/divided/SLOT/           receiver: what a flattened target was divided for
    STATE/copies/RECEIVER/SLOT/   sender: copy of the manifest            (manifest)
    STATE/rehearsal/              both: state of an estimate's trial, gone at its end
    STATE/estimates/              sender: predictions                     (estimate)
    STATE/local/TARGET/           copy: manifest, journal and copy of a local target
"""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

from blocksync.errors import StateError, from_os_error

VARIABLE = "BLOCKSYNC_STATE_DIR"
STATE_NAMES = frozenset(
    (
        "identity.pem",
        "grants.json",
        "receivers.json",
        "slots",
        "copies",
        "rehearsal",
        "estimates",
        "local",
        "divided",
    )
)
"""What stands at the top of a state folder; some with a lock or a new version beside them."""


def default_state_dir() -> Path:
    """The system's state folder for root, else the user's."""
    if sys.platform == "win32":
        return Path(os.environ.get("PROGRAMDATA", r"C:\ProgramData")) / "blocksync"
    if os.geteuid() == 0:
        return Path("/var/lib/blocksync")
    base = os.environ.get("XDG_STATE_HOME", "")
    try:
        return (Path(base) if base else Path.home() / ".local" / "state") / "blocksync"
    except RuntimeError as error:  # a user that the system does not know, without HOME
        raise StateError(
            "this user has no home folder for blocksync's state",
            remedy=f"name one: --state-dir DIR, or {VARIABLE}=DIR",
        ) from error


def prepare(state_dir: Path | None) -> Path:
    """The state folder as an absolute path, made with mode 0700 where it is missing.

    Raises:
        StateError: it cannot be made, or nobody knows where.
    """
    path = (state_dir if state_dir is not None else default_state_dir()).absolute()
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        told = from_os_error(error, StateError, f"cannot make the state folder {path}")
        told.remedy = f"name another one: --state-dir DIR, or {VARIABLE}=DIR"
        raise told from error
    return path


def slot_folder(state: Path, slot: str) -> Path:
    return state / "slots" / slot


def division_folder(state: Path, slot: str) -> Path:
    """Where a receiver keeps what a slot's target was divided for (flatten)."""
    return state / "divided" / slot


def copy_folder(state: Path, receiver_fingerprint: bytes, slot: str) -> Path:
    return state / "copies" / receiver_fingerprint.hex()[:32] / (slot or "default")


def rehearsal_folder(state: Path) -> Path:
    return state / "rehearsal"


def estimates_folder(state: Path) -> Path:
    return state / "estimates"


def local_folder(state: Path, target_path: str) -> Path:
    """One folder a local target, named by its path, so that a second copy to it is incremental."""
    real = target_path if "://" in target_path else os.path.realpath(target_path)
    name = "".join(c if c.isalnum() else "-" for c in os.path.basename(real))[:40]
    return state / "local" / f"{name}-{hashlib.sha256(os.fsencode(real)).hexdigest()[:16]}"


def slot_name_for(path: str) -> str:
    """A slot's name made from a target's path: its last part, in the characters that slots have."""
    address, _, words = path.partition("?")
    if "://" in address:
        path = address if not address.endswith("///") else words  # a default export has its socket's name only
    base = os.path.basename(os.path.realpath(path))
    name = "".join(c if (c.isalnum() and c.isascii()) or c in "._-" else "-" for c in base).lstrip("-.")
    return name[:64] or "disk"

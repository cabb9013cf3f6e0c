"""The hot loops, and the one switch between their native and their Python implementation.

``BLOCKSYNC_KERNELS`` chooses: ``auto`` (or unset) takes the native extension where it was built and the Python twin
elsewhere, ``native`` and ``python`` insist. Both give the same results to the bit; the same tests run on both. The
choice is made once, when this package is first imported, which raises :class:`~blocksync.errors.UsageError` for a
value that is none of these and :class:`~blocksync.errors.KernelsError` where ``native`` cannot be had. What the
functions mean stands in :class:`blocksync.kernels.digest.Kernels`.
"""

from __future__ import annotations

import importlib
import os
from typing import cast

from blocksync.errors import KernelsError, UsageError
from blocksync.kernels.digest import INTERFACE, KEY_BYTES, SAME_FLAG, ZERO_FLAG, DigestKind, Kernels

__all__ = [
    "IMPLEMENTATION",
    "KEY_BYTES",
    "SAME_FLAG",
    "ZERO_FLAG",
    "DigestKind",
    "Kernels",
    "describe",
    "fold",
    "is_zero",
    "load",
    "page_runs",
    "scan",
    "sweep",
]

CHOICE_VARIABLE = "BLOCKSYNC_KERNELS"


def _load_native() -> Kernels:
    try:
        native = cast("Kernels", importlib.import_module("blocksync._native"))
    except ImportError as error:
        raise KernelsError(f"the native kernels cannot be loaded: {error}") from error
    found = getattr(native, "INTERFACE", None)
    if found != INTERFACE:
        raise KernelsError(f"the native kernels were built for interface {found}, not {INTERFACE}")
    return native


def load(choice: str) -> tuple[str, Kernels, str]:
    """Load the kernels that ``choice`` names.

    Args:
        choice: ``"auto"``, ``"native"`` or ``"python"``.

    Returns:
        the implementation's name (``"native"`` or ``"python"``), the implementation, and why it is not the native
        one where that was tried (else empty).

    Raises:
        KernelsError: ``"native"`` was insisted on and cannot be had.
        UsageError: the choice is none of the three.
    """
    if choice not in ("auto", "native", "python"):
        raise UsageError(
            f"{CHOICE_VARIABLE} is {choice!r}",
            remedy=f"set {CHOICE_VARIABLE} to auto, native or python, or unset it",
        )
    why_not_native = ""
    if choice != "python":
        try:
            return "native", _load_native(), ""
        except KernelsError as error:
            if choice == "native":
                raise
            why_not_native = error.message
    # Imported only where it is used: a start with the native kernels need not load the digest packages.
    from blocksync.kernels import python

    return "python", python, why_not_native


IMPLEMENTATION, _kernels, _why_not_native = load(os.environ.get(CHOICE_VARIABLE) or "auto")

scan = _kernels.scan
fold = _kernels.fold
is_zero = _kernels.is_zero
page_runs = _kernels.page_runs
sweep = _kernels.sweep


def describe() -> str:
    """Say in a line which kernels are in use, for ``blocksync --version``."""
    return f"{_kernels.describe()}; {_why_not_native}" if _why_not_native else _kernels.describe()

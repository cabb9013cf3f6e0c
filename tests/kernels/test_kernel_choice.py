"""The switch: which implementation is taken, and what is said where it cannot be had."""

from __future__ import annotations

import os
import subprocess
import sys
import types

import pytest

from blocksync import kernels as room
from blocksync.errors import KernelsError, UsageError
from blocksync.kernels import Kernels, load, python
from blocksync.kernels.digest import INTERFACE


def imported_with(choice: str | None, *, hide_native: bool = False) -> subprocess.CompletedProcess[str]:
    """Import the kernels in a fresh interpreter and print what was chosen, or the error's class and remedy."""
    program = f"""
import sys
if {hide_native}:
    sys.modules["blocksync._native"] = None
from blocksync.errors import BlocksyncError
try:
    from blocksync import kernels
except BlocksyncError as error:
    print(type(error).__name__, error.exit_code, error, error.remedy, sep="; ")
else:
    print(kernels.IMPLEMENTATION, kernels.describe(), sep="; ")
"""
    environment = {name: value for name, value in os.environ.items() if name != room.CHOICE_VARIABLE}
    if choice is not None:
        environment[room.CHOICE_VARIABLE] = choice
    return subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )


@pytest.mark.parametrize("choice", [None, "", "auto"])
def test_auto_takes_the_native_kernels(native: Kernels, choice: str | None) -> None:
    assert imported_with(choice).stdout.startswith("native; native (xxh3 ")


@pytest.mark.parametrize("choice", [None, "auto"])
def test_auto_falls_back_and_says_why(choice: str | None) -> None:
    words = imported_with(choice, hide_native=True).stdout
    assert words.startswith("python; python (xxhash ")
    assert "the native kernels cannot be loaded" in words


def test_python_is_taken_where_it_is_asked_for() -> None:
    words = imported_with("python").stdout
    assert words.startswith("python; python (xxhash ")
    assert "native" not in words


def test_native_fails_loudly_where_it_is_missing() -> None:
    words = imported_with("native", hide_native=True).stdout
    assert words.startswith("KernelsError; 2; the native kernels cannot be loaded")
    assert "BLOCKSYNC_BUILD_NATIVE=yes" in words


def test_anything_else_is_a_usage_error() -> None:
    words = imported_with("fast").stdout
    assert words.startswith("UsageError; 2; BLOCKSYNC_KERNELS is 'fast'; set BLOCKSYNC_KERNELS to auto, native or")


def test_kernels_of_another_interface_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module left over from an older build would give digests of another definition."""
    stale = types.ModuleType("blocksync._native")
    monkeypatch.setattr(stale, "INTERFACE", INTERFACE + 1, raising=False)
    monkeypatch.setitem(sys.modules, "blocksync._native", stale)
    with pytest.raises(KernelsError, match=f"built for interface {INTERFACE + 1}, not {INTERFACE}"):
        load("native")
    name, kernels, why = load("auto")
    assert (name, kernels) == ("python", python)
    assert "interface" in why


def test_a_module_that_is_none_of_ours_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "blocksync._native", types.ModuleType("blocksync._native"))
    with pytest.raises(KernelsError, match="interface None"):
        load("native")


def test_the_error_is_a_usage_error_with_a_remedy() -> None:
    assert issubclass(KernelsError, UsageError)
    assert "BLOCKSYNC_KERNELS" in KernelsError("…").remedy

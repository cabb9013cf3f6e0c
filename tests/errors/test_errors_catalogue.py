"""docs/ERRORS.md and the class tree say the same, and every class is fit to be shown."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from blocksync import errors
from blocksync.errors import (
    BlocksyncError,
    OutOfSpaceError,
    SourceError,
    StateError,
    TargetError,
    UnreadableError,
    from_os_error,
)

PAGE = Path(__file__).parents[2] / "docs" / "ERRORS.md"
EXIT_CODES = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 130}


def classes(base: type[BlocksyncError] = BlocksyncError) -> Iterator[type[BlocksyncError]]:
    if base.__module__ == "blocksync.errors":
        yield base
    for derived in base.__subclasses__():
        yield from classes(derived)


def documented() -> dict[str, tuple[str, int, bool]]:
    rows = re.findall(r"^\| (BS\d{4}) \| (\w+) \| (\d+) \| (yes|no) \| .+ \|$", PAGE.read_text(), re.MULTILINE)
    return {code: (name, int(exit_code), retried == "yes") for code, name, exit_code, retried in rows}


def test_page_lists_every_class_and_no_other() -> None:
    built = {cls.code: (cls.__name__, cls.exit_code, cls.retryable) for cls in classes()}
    assert documented() == built


def test_codes_are_of_one_class_each() -> None:
    codes = [cls.code for cls in classes()]
    assert len(codes) == len(set(codes))


@pytest.mark.parametrize("cls", list(classes()), ids=lambda cls: cls.__name__)
def test_every_class_has_a_remedy_and_an_exit_code_of_the_design(cls: type[BlocksyncError]) -> None:
    error = cls("something happened")
    assert str(error) == "something happened"
    assert error.exit_code in EXIT_CODES
    assert error.exit_code != 0
    assert error.remedy


def test_a_class_tells_its_parents_exit_code() -> None:
    for cls in classes():
        parent = cls.__mro__[1]
        if issubclass(parent, BlocksyncError) and parent is not BlocksyncError:
            assert cls.exit_code == parent.exit_code


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EACCES, errno.EROFS, errno.EISDIR])
def test_os_errors_say_what_was_being_done_and_why_it_failed(number: int) -> None:
    error = from_os_error(OSError(number, "whatever"), SourceError, "cannot open disk.img")
    assert type(error) is SourceError
    assert error.message == f"cannot open disk.img: {os.strerror(number)}"
    assert error.remedy != SourceError.default_remedy


def test_a_failing_medium_of_a_source_is_told_apart() -> None:
    failing = from_os_error(OSError(errno.EIO, ""), SourceError, "cannot read")
    assert type(failing) is UnreadableError
    assert "--rescue" in failing.remedy
    assert type(from_os_error(OSError(errno.EIO, ""), TargetError, "cannot read")) is TargetError


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_target_is_told_apart(number: int) -> None:
    full = from_os_error(OSError(number, ""), TargetError, "cannot write")
    assert type(full) is OutOfSpaceError
    assert type(from_os_error(OSError(number, ""), StateError, "cannot write")) is StateError


def test_an_os_error_without_a_number_still_says_something() -> None:
    assert (
        from_os_error(TimeoutError("timed out"), errors.NetworkError, "no answer").message == "no answer: timed out"
    )

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
from blocksync.preflight import findings
from blocksync.preflight.findings import KINDS, Kind, Severity, as_error, found

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


def documented_findings() -> dict[str, tuple[str, int, str]]:
    rows = re.findall(r"^\| (BS\d{4}) \| (error|warning|note) \| (\d+) \| (.+) \|$", PAGE.read_text(), re.MULTILINE)
    return {code: (severity, int(exit_code), when) for code, severity, exit_code, when in rows}


def test_page_lists_every_finding_and_no_other() -> None:
    built = {
        kind.code: (
            kind.severity.value,
            kind.error.exit_code if kind.severity is Severity.ERROR else 0,
            kind.when,
        )
        for kind in KINDS
    }
    assert documented_findings() == built


def test_findings_and_errors_share_the_numbers() -> None:
    codes = [kind.code for kind in KINDS] + [cls.code for cls in classes()]
    assert len(codes) == len(set(codes))
    assert all("BS2000" <= kind.code < "BS3000" for kind in KINDS)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.code)
def test_every_finding_that_asks_for_something_says_what(kind: Kind) -> None:
    assert kind.when
    assert kind.remedy or kind.severity is Severity.NOTE
    if kind.severity is Severity.ERROR:
        error = as_error(found(kind, "it is so"))
        assert error.exit_code == kind.error.exit_code > 1
        assert kind.code in error.message
        assert error.remedy == kind.remedy


def test_every_code_of_the_source_is_in_the_catalogue() -> None:
    """No finding is made up beside the catalogue: all go through the kinds, and each kind is used."""
    package = Path(errors.__file__).parent
    text = "".join(
        path.read_text() for path in sorted(package.rglob("*.py")) if path.name not in ("findings.py", "errors.py")
    )
    names = {name for name, value in vars(findings).items() if isinstance(value, Kind)}
    unused = {name for name in names if f"findings.{name}" not in text}
    assert unused == set()
    assert re.findall(r"BS2\d{3}", text) == []

"""Strict, bounded reading of JSON objects: for the stores on disk and for the messages of pairing."""

from __future__ import annotations

import base64
import binascii


class Fields:
    """One JSON object with exactly the expected members.

    All methods raise ValueError, naming the member, for anything of another type or size: the caller knows whether
    that means a damaged file or a peer that speaks nonsense.

    Args:
        value: what the JSON parser returned.
        names: the members it must have; no other is allowed.
    """

    __slots__ = ("_members",)

    def __init__(self, value: object, *names: str) -> None:
        if not isinstance(value, dict):
            raise ValueError("no object")  # noqa: TRY004 - bad data, not a bad call
        if set(value) != set(names):
            raise ValueError("unexpected or missing members")
        self._members: dict[str, object] = value

    def text(self, name: str, limit: int) -> str:
        """Return a string of at most ``limit`` characters."""
        value = self._members[name]
        if not isinstance(value, str) or len(value) > limit:
            raise ValueError(f"{name} is no text of up to {limit} characters")
        return value

    def texts(self, name: str, limit: int, count: int) -> tuple[str, ...]:
        """Return a list of at most ``count`` strings of at most ``limit`` characters each."""
        value = self._members[name]
        if not isinstance(value, list) or len(value) > count:
            raise ValueError(f"{name} is no list of up to {count} texts")
        if not all(isinstance(item, str) and len(item) <= limit for item in value):
            raise ValueError(f"{name} holds something else than texts of up to {limit} characters")
        return tuple(value)

    def number(self, name: str, limit: int) -> int:
        """Return an integer from 0 to ``limit``."""
        value = self._members[name]
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= limit:
            raise ValueError(f"{name} is no number from 0 to {limit}")
        return value

    def octets(self, name: str, limit: int) -> bytes:
        """Return the bytes, at most ``limit``, of a base64 string in its one canonical form."""
        value = self.text(name, (limit + 2) // 3 * 4)
        try:
            data = base64.b64decode(value.encode("ascii"), validate=True)
        except (UnicodeEncodeError, binascii.Error) as error:
            raise ValueError(f"{name} is no base64") from error
        if len(data) > limit or as_text(data) != value:
            raise ValueError(f"{name} is no canonical base64 of up to {limit} bytes")
        return data

    def digest(self, name: str) -> bytes:
        """Return the 32 bytes of a lower-case hexadecimal string."""
        value = self.text(name, 64)
        try:
            data = bytes.fromhex(value)
        except ValueError as error:
            raise ValueError(f"{name} is not hexadecimal") from error
        if len(data) != 32 or data.hex() != value:
            raise ValueError(f"{name} is no fingerprint")
        return data


def as_text(data: bytes) -> str:
    """Encode bytes as base64, the form that :meth:`Fields.octets` reads."""
    return base64.b64encode(data).decode("ascii")

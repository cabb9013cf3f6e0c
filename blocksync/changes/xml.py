"""The little XML that thin_delta and era_invalidate print: flat elements with whole numbers, read a line at a time.

era_invalidate puts spaces in ``end = "6"``. A parser of general XML is not needed and would bring its hazards; what
does not look as expected is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from blocksync.errors import ChangesUnknownError

_ELEMENT = re.compile(r"\s*<(/?)([a-z_]+)((?:\s+[a-z_]+\s*=\s*\"[^\"<>&]*\")*)\s*(/?)>\s*")
# A number of 64 bits has no more; one of thousands of digits is refused before Python refuses it in its own way.
_MOST_DIGITS = 20
_ATTRIBUTE = re.compile(r"([a-z_]+)\s*=\s*\"([^\"]*)\"")


def elements(text: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield name and attributes of each opening element, in order.

    Raises:
        ChangesUnknownError: something else stands there.
    """
    for line in text.splitlines():
        at, end = 0, len(line.rstrip())
        while at < end:
            match = _ELEMENT.match(line, at)
            if match is None:
                raise ChangesUnknownError(f"unexpected words in the list of changes: {line[:80]!r}")
            at = match.end()
            if not match[1]:
                yield match[2], dict(_ATTRIBUTE.findall(match[3]))


def number(attributes: dict[str, str], name: str) -> int:
    """A whole number.

    Raises:
        ChangesUnknownError: it is none.
    """
    text = attributes.get(name, "")
    if not (text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS):
        raise ChangesUnknownError(f"the list of changes has {text[:80]!r} for {name}")
    return int(text)

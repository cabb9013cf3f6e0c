"""The text in which LVM2 keeps its metadata: nested sections of ``key = value``, strings, integers, lists of both.

The grammar is that of ``libdm/libdm-config.c``: ``#`` starts a comment, strings are in double quotes with ``\\`` before
a quote or a backslash, lists in brackets may span lines. Depth and size are bounded, so hostile text costs no more than
honest text of the same length.
"""

from __future__ import annotations

import re
from typing import TypeAlias

from blocksync.errors import LayoutDamagedError

Value: TypeAlias = "str | int | float | list[str | int | float]"
_MOST_DEPTH = 16
_TOKEN = re.compile(
    r"""[ \t\r\n]+ | \#[^\n]*
    | (?P<string>"(?:[^"\\]|\\.)*")
    | (?P<number>[-+]?[0-9]+(?:\.[0-9]+)?(?![A-Za-z0-9_.+/-]))
    | (?P<name>[A-Za-z0-9_.+/@-]+)
    | (?P<mark>[={}\[\],])""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)


class Section:
    """One section: its values and its sections by name, in the order of the text."""

    __slots__ = ("name", "sections", "values")

    def __init__(self, name: str) -> None:
        self.name = name
        self.values: dict[str, Value] = {}
        self.sections: dict[str, Section] = {}

    def section(self, name: str) -> Section:
        """A section that must be there, empty where LVM leaves it out."""
        return self.sections.get(name) or Section(name)

    def number(self, key: str, default: int | None = None) -> int:
        """A non-negative integer.

        Raises:
            LayoutDamagedError: it is missing and has no default, or is no such integer.
        """
        value = self.values.get(key, default)
        if not isinstance(value, int) or value < 0:
            raise LayoutDamagedError(f"LVM metadata: {self.name}/{key} is {_shown(value)}, not a number")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        """A string; raises as :meth:`number` does."""
        value = self.values.get(key, default)
        if not isinstance(value, str):
            raise LayoutDamagedError(f"LVM metadata: {self.name}/{key} is {_shown(value)}, not a string")
        return value

    def items(self, key: str) -> list[str | int | float]:
        """A list, empty where it is left out; a single value counts as a list of one."""
        value = self.values.get(key, [])
        return value if isinstance(value, list) else [value]

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of strings."""
        found = self.items(key)
        if not all(isinstance(item, str) for item in found):
            raise LayoutDamagedError(f"LVM metadata: {self.name}/{key} is not a list of strings")
        return tuple(str(item) for item in found)

    def pairs(self, key: str) -> tuple[tuple[str, int], ...]:
        """A list of names, each with a number: ``["pv0", 0, "pv1", 12]``."""
        found = self.items(key)
        names, numbers = found[::2], found[1::2]
        if len(names) != len(numbers):
            raise LayoutDamagedError(f"LVM metadata: {self.name}/{key} is not a list of pairs")
        pairs: list[tuple[str, int]] = []
        for name, number in zip(names, numbers, strict=True):
            if not isinstance(name, str) or not isinstance(number, int) or number < 0:
                raise LayoutDamagedError(f"LVM metadata: {self.name}/{key} is not a list of pairs")
            pairs.append((name, number))
        return tuple(pairs)


def _shown(value: object) -> str:
    return "missing" if value is None else repr(value)[:40]


class _Tokens:
    """The tokens of a text, one ahead."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self.kind = ""
        self.text = ""
        self.advance()

    def advance(self) -> None:
        while self._at < len(self._text):
            found = _TOKEN.match(self._text, self._at)
            if found is None:
                raise self.fault()
            self._at = found.end()
            if found.lastgroup is not None:
                self.kind, self.text = found.lastgroup, found.group()
                return
        self.kind, self.text = "", ""

    def fault(self) -> LayoutDamagedError:
        line = self._text.count("\n", 0, self._at) + 1
        return LayoutDamagedError(f"LVM metadata: line {line} cannot be understood")

    def take(self, mark: str) -> None:
        if self.kind != "mark" or self.text != mark:
            raise self.fault()
        self.advance()

    def at(self, mark: str) -> bool:
        return self.kind == "mark" and self.text == mark


def parse(text: str) -> Section:
    """Parse a whole text.

    Raises:
        LayoutDamagedError: it is no such text, or it is nested more deeply than LVM does.
    """
    tokens = _Tokens(text)
    root = Section("")
    _fill(tokens, root, 0)
    if tokens.kind:
        raise tokens.fault()
    return root


def _fill(tokens: _Tokens, section: Section, depth: int) -> None:
    if depth > _MOST_DEPTH:
        raise LayoutDamagedError("LVM metadata: sections are nested too deeply")
    while tokens.kind in ("name", "number", "string"):
        name = _unquoted(tokens.text) if tokens.kind == "string" else tokens.text
        if name in section.values or name in section.sections:
            raise LayoutDamagedError(f"LVM metadata: {name[:80]} occurs twice")
        tokens.advance()
        if tokens.at("{"):
            tokens.advance()
            inner = Section(name)
            _fill(tokens, inner, depth + 1)
            tokens.take("}")
            section.sections[name] = inner
        else:
            tokens.take("=")
            section.values[name] = _list(tokens) if tokens.at("[") else _scalar(tokens)


def _list(tokens: _Tokens) -> list[str | int | float]:
    tokens.take("[")
    items: list[str | int | float] = []
    while not tokens.at("]"):
        items.append(_scalar(tokens))
        if not tokens.at("]"):
            tokens.take(",")
    tokens.take("]")
    return items


def _scalar(tokens: _Tokens) -> str | int | float:
    kind, text = tokens.kind, tokens.text
    if kind not in ("string", "number", "name") or len(text) > 1 << 16:
        raise tokens.fault()
    tokens.advance()
    if kind == "string":
        return _unquoted(text)
    if kind == "number":
        if len(text) > 20:
            raise tokens.fault()
        return float(text) if "." in text else int(text)
    return text


def _unquoted(text: str) -> str:
    return _ESCAPE.sub(r"\1", text[1:-1])

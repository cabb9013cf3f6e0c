"""Patterns of files to leave out, in rsync's syntax ("PATTERN MATCHING RULES" of rsync(1)).

Each rule is ``PATTERN`` or ``- PATTERN`` (leave out), ``+ PATTERN`` (keep), or ``!`` (forget the rules before). The
first rule that matches a name decides; a folder that is left out is left out with all that is below it.

* A leading ``/`` anchors the pattern at the root of the filesystem; a trailing ``/`` matches folders only.
* ``*`` is anything but a slash, ``**`` anything, ``?`` one character but a slash, ``[a-z]`` one of a set, ``\\`` takes
  the next character as it is.
* A pattern with a slash in it (not the last one) or with ``**`` is matched against the whole path, else against the
  last name.
* A trailing ``/***`` matches the folder and all that is below it.

A rule may begin with the volume that it is for: ``#2:/tmp/``, ``#vg0/root:*.iso``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from blocksync.errors import UsageError

_PLACE = re.compile(r"#([0-9]{1,4}|[^/:#]+/[^/:#]+):(.+)", re.DOTALL)
_MOST_RULES = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule.

    Args:
        text: as it was written.
        keep: it keeps what it matches.
        place: the volume it is for; empty for all.
        folders: it matches folders only.
        whole: it is matched against the whole path.
        anchor: of a rule anchored at the root, the literal folders that everything it matches lies in.
    """

    text: str
    keep: bool
    place: str
    folders: bool
    whole: bool
    anchor: tuple[str, ...] | None
    expression: re.Pattern[str]

    def matches(self, path: str, *, folder: bool) -> bool:
        """Whether it matches a path, which begins with a slash."""
        if self.folders and not folder:
            return False
        return self.expression.fullmatch(path if self.whole else path.rsplit("/", 1)[1]) is not None


class Rules:
    """Rules in their order.

    Args:
        lines: one rule each; empty ones and those that begin with ``#`` and a blank or ``;`` are none.
        ignore_case: for filesystems whose names have none.

    Raises:
        UsageError: a rule cannot be understood.
    """

    def __init__(self, lines: Iterable[str], *, ignore_case: bool = False) -> None:
        self._ignore_case = ignore_case
        self.rules: list[Rule] = []
        for line in lines:
            text = line.rstrip("\r\n")
            if text.strip() == "!":
                self.rules.clear()
            elif text.strip() and not text.startswith(("# ", ";")) and text != "#":
                self.rules.append(_rule(text, ignore_case))
        if len(self.rules) > _MOST_RULES:
            raise UsageError(f"there are more than {_MOST_RULES} patterns", remedy="name folders instead of files")

    def of(self, place: str, *, ignore_case: bool = False) -> Rules:
        """The rules that hold for a volume: ``2``, ``vg0/root``, or empty for a disk that is one."""
        found = Rules((), ignore_case=ignore_case)
        mine = [rule for rule in self.rules if rule.place in ("", place)]
        found.rules = [_rule(rule.text, ignore_case) for rule in mine] if ignore_case else mine
        return found

    def leaves_out(self, path: str, *, folder: bool) -> bool:
        """Whether the first rule that matches leaves the path out."""
        for rule in self.rules:
            if rule.matches(path, folder=folder):
                return not rule.keep
        return False

    def may_match_below(self, path: str) -> bool:
        """Whether anything below a folder can be left out: spares walking what cannot."""
        parts = tuple(path.strip("/").split("/")) if path.strip("/") else ()
        if self._ignore_case:
            parts = tuple(part.casefold() for part in parts)
        return any(
            rule.anchor is None or rule.anchor[: len(parts)] == parts[: len(rule.anchor)]
            for rule in self.rules
            if not rule.keep
        )


def in_volume(place: str, path: str) -> str:
    """A path as rules and results write it: ``#2:/tmp`` in a volume, ``/tmp`` on a disk that is one."""
    return f"#{place}:{path}" if place else path


def out_of_volume(name: str) -> tuple[str, str]:
    """The volume and the path that :func:`in_volume` put together."""
    found = _PLACE.fullmatch(name)
    return (found[1], found[2]) if found else ("", name)


def _rule(text: str, ignore_case: bool) -> Rule:
    place, line = out_of_volume(text)
    keep = line.startswith("+ ")
    if keep or line.startswith("- "):
        line = line[2:]
    pattern = line
    below = pattern.endswith("/***")
    if below:
        pattern = pattern[:-4]
    folders = pattern.endswith("/") and not below
    pattern = pattern.rstrip("/") if pattern.strip("/") else ""
    if not pattern or "\0" in pattern:
        raise UsageError(f"{text[:200]!r} is no pattern", remedy="write for example /var/log/*.gz or /tmp/")
    whole = "/" in pattern or "**" in pattern or below
    anchored = pattern.startswith("/")
    body = _expression(pattern.lstrip("/"), text)
    if whole:
        body = ("/" if anchored else "(?:.*/|/)") + body + ("(?:/.*)?" if below else "")
    anchor = _anchor(pattern, ignore_case) if anchored else None
    flags = re.DOTALL | (re.IGNORECASE if ignore_case else 0)
    return Rule(
        text=text,
        keep=keep,
        place=place,
        folders=folders,
        whole=whole,
        anchor=anchor,
        expression=re.compile(body, flags),
    )


def _anchor(pattern: str, ignore_case: bool) -> tuple[str, ...]:
    parts: list[str] = []
    for part in pattern.strip("/").split("/"):
        if set(part) & set("*?[\\"):
            break
        parts.append(part.casefold() if ignore_case else part)
    return tuple(parts)


def _expression(pattern: str, text: str) -> str:
    made: list[str] = []
    at = 0
    while at < len(pattern):
        sign = pattern[at]
        if sign == "*":
            count = len(pattern[at:]) - len(pattern[at:].lstrip("*"))
            made.append("[^/]*" if count == 1 else ".*")
            at += count
        elif sign == "[":
            part, at = _set(pattern, at, text)
            made.append(part)
        else:
            if sign == "\\" and at + 1 < len(pattern):
                at += 1
                sign = pattern[at]
                made.append(re.escape(sign))
            else:
                made.append("[^/]" if sign == "?" else re.escape(sign))
            at += 1
    # Adjacent wildcards cost a matcher time without saying more.
    return re.sub(r"(?:\.\*){2,}", ".*", "".join(made))


def _set(pattern: str, at: int, text: str) -> tuple[str, int]:
    end = at + 1
    if pattern[end : end + 1] in ("!", "^"):
        end += 1
    if pattern[end : end + 1] == "]":
        end += 1
    end = pattern.find("]", end)
    inside = pattern[at + 1 : end]
    if end < 0 or "/" in inside or "[:" in inside:
        raise UsageError(f"the set in {text[:200]!r} cannot be understood", remedy="write it as [a-z0-9]")
    negated = inside[:1] in ("!", "^")
    body = inside[1:] if negated else inside
    body = body.replace("\\", "\\\\").replace("[", "\\[").replace("]", "\\]").replace("^", "\\^")
    body = re.sub(r"([&~|])\1", r"\\\1\\\1", body)
    try:
        made = f"[^/{body}]" if negated else f"[{body}]"
        re.compile(made)
    except re.error as error:
        raise UsageError(f"the set in {text[:200]!r} cannot be understood: {error}") from error
    return made, end + 1

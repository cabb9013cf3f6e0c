"""What a console shows, and what it means: signs that end a trial boot, and what spoils one that comes up."""

from __future__ import annotations

import re
from dataclasses import dataclass

from blocksync.trust.names import printable

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[()][0-9A-B]|\r")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sign:
    """Something that a console shows.

    Args:
        verdict: what it means: ``login``, ``emergency``, ``grub-rescue``, ``initramfs``, ``panic``, ``dracut``,
            ``no-loader``, ``secure-boot``.
        pattern: of the text.
        last: nothing else will come.
        remedy: what to do.
    """

    verdict: str
    pattern: re.Pattern[str]
    last: bool
    remedy: str


def _wrapped(words: str) -> str:
    """A pattern of words between whose characters a line may end."""
    return r"\n?".join(r"\s" if character == " " else re.escape(character) for character in words)


_AROUND, _MOST_SHOWN = 80, 160  # characters before a hit, and from its beginning on
_REPAIR = "blocksync flatten --check TARGET names what is left; blocksync flatten --repair TARGET mends it"
SIGNS = (
    Sign(verdict="login", pattern=re.compile(r"^[\w.-]{1,64} login: ?", re.MULTILINE), last=True, remedy=""),
    Sign(
        verdict="emergency",
        pattern=re.compile(r"You are in (?:emergency|rescue) mode|Give root password for maintenance"),
        last=True,
        remedy=f"a filesystem of fstab did not come: look for 'Timed out waiting for device' above; {_REPAIR}",
    ),
    Sign(
        verdict="grub-rescue",
        # GRUB breaks its lines at 80 columns on a serial console, in the middle of a word too.
        pattern=re.compile(
            rf"grub rescue>|error: disk [\s\S]{{1,200}}?{_wrapped('not found')}|error: no such device"
        ),
        last=True,
        remedy=f"GRUB looks for its files on the old volume: {_REPAIR}",
    ),
    Sign(
        verdict="grub-prompt",
        pattern=re.compile(r"^\s*grub> ?", re.MULTILINE),
        last=True,
        remedy=f"GRUB found no configuration: {_REPAIR}",
    ),
    Sign(
        verdict="initramfs",
        pattern=re.compile(r"\(initramfs\) ?|ALERT!\s+\S+ does not exist|Dropping to a shell"),
        last=True,
        remedy=f"the kernel's root= names something that is not there: {_REPAIR}",
    ),
    Sign(
        verdict="dracut",
        pattern=re.compile(r"Warning: dracut-initqueue.{0,40}timeout|Entering emergency mode|dracut:/#"),
        last=True,
        remedy=f"the initramfs waits for the old volumes: the command line needs rd.lvm=0; {_REPAIR}",
    ),
    Sign(
        verdict="panic",
        pattern=re.compile(r"Kernel panic - not syncing"),
        last=True,
        remedy="look at the console above: a missing driver for the disk, or a root that cannot be mounted",
    ),
    Sign(
        verdict="secure-boot",
        # A shim's words, and those of OVMF where the first loader is not signed.
        pattern=re.compile(r"Security Violation|failed to load Boot[^\n]{1,200}Access Denied"),
        last=True,
        remedy="Secure Boot refuses an unsigned loader: install the system's signed GRUB and shim, or switch it off; "
        "blocksync flatten --check TARGET names the loader",
    ),
    Sign(
        verdict="no-loader",
        pattern=re.compile(r"No bootable device|Boot failed: not a bootable disk|BdsDxe: No bootable option"),
        last=True,
        remedy=f"there is no boot loader for this firmware on the target: {_REPAIR}",
    ),
)
NOTICES = (
    (re.compile(r"Timed out waiting for device ([^\n]{0,200})"), "a device did not come"),
    (re.compile(r"Gave up waiting for (suspend/resume device)"), "the initramfs waited for the old swap"),
    (re.compile(r"Dependency failed for ([^\n]{0,200})"), "something did not come up"),
    (re.compile(r"Failed to start ([^\n]{0,200})"), "a unit failed"),
)


def judge(text: str) -> tuple[Sign, str] | None:
    """The first of the signs in the order of their appearance, and the line that told it, neutralised."""
    best: tuple[Sign, re.Match[str]] | None = None
    for sign in SIGNS:
        hit = sign.pattern.search(text)
        if hit is not None and (best is None or hit.start() < best[1].start()):
            best = sign, hit
    return (best[0], printable(_line_of(text, best[1]))) if best is not None else None


def _line_of(text: str, hit: re.Match[str]) -> str:
    """What stands around a hit in its line; a program that places its words on the screen writes one long line."""
    begin = max(text.rfind("\n", 0, hit.start()) + 1, hit.start() - _AROUND)
    line = text[begin:].partition("\n")[0][: hit.start() - begin + _MOST_SHOWN]
    return " ".join(line.replace("\ufffd", " ").split())


def notices(text: str) -> list[str]:
    """What a console shows beside its end; the guest's words are neutralised."""
    return [f"{what}: {printable(hit[1].strip())}" for pattern, what in NOTICES for hit in pattern.finditer(text)][
        :50
    ]


def plain(raw: bytes) -> str:
    """A console's bytes as text, without the terminal's escapes."""
    return _ESCAPES.sub("", raw.decode("utf-8", "replace"))

"""One flip: a seed says in which place and which bit; the session around it is the shipped code's."""

from __future__ import annotations

import contextlib
import functools
import random
import ssl
import tempfile
from dataclasses import dataclass
from pathlib import Path

from blocksync.errors import BlocksyncError, NetworkError
from blocksync.manifest.folder import DurableFile
from blocksync.manifest.format import RECORD
from blocksync.manifest.journal import JournalReader
from blocksync.protocol.wire import HEADER_BYTES
from blocksync.trust.identity import Identity
from blocksync.trust.tls import client_context, server_context
from fuzz.memory import MemoryFile, MemoryFolder
from tests.claims import false_claims
from tests.flips.world import SIZE, World, contents

BASES = 4
# Wire above TLS: data connection to the receiver, back from it, the control port's messages; below it: records.
# State of the receiver: at rest, and as a cut session leaves it; the sender's copy; the disk.
PLACES = (
    "frames",
    "answers",
    "control",
    "records",
    "manifest",
    "journal",
    "middle",
    "copy",
    "target",
    "target before",
)
# A connection's number in its HELLO: the receiver has no use for it.
ORDINAL = range(HEADER_BYTES + 48, HEADER_BYTES + 50)
PAGE_BYTES = 4096
WEIGHTS = (30, 5, 15, 10, 10, 5, 10, 5, 5, 5)


class Broken(AssertionError):
    """A flip that went through, or a promise that a flip broke."""


@dataclass(frozen=True, slots=True)
class Base:
    """Two contents, and where a transfer stands between them."""

    old: bytes
    new: bytes
    state: dict[str, bytes]
    copy: dict[str, bytes]
    lengths: dict[str, int]
    """Bytes that go over the wire in the second pass and its verify, at least."""
    cut_state: dict[str, bytes]
    cut_target: bytes
    cut_last: int
    """Where the last record of the cut session's journal begins: no later one calls it durable."""


@functools.cache
def base(number: int) -> Base:
    """Made by undisturbed transfers, and one that was cut."""
    old, new = contents(random.Random(number))
    first = World(bytes(SIZE), {}, {})
    first.send(old)
    first.close()
    state, copy = files(first.state), files(first.copy)
    lengths = {"frames": 0, "answers": 0, "control": 0}

    def count(where: str, raw: bytes) -> bytes:
        lengths[where] += len(raw)
        return raw

    whole = World(old, state, copy)
    whole.send(new, count)
    if not whole.says_identical(new, count):
        raise Broken("an undisturbed transfer is not identical")
    whole.close()
    # As a receiver that was killed when the commit came leaves it: everything landed, in the journal alone.
    cut = World(old, state, copy)
    left: list[tuple[dict[str, bytes], bytes]] = []
    arrived = [0]

    def cutting(where: str, raw: bytes) -> bytes:
        arrived[0] += len(raw) * (where == "frames")
        if arrived[0] and where == "control" and b'"root"' in raw:
            left.append((files(cut.state), cut.content()))
            raise NetworkError("cut")
        return raw

    with contextlib.suppress(BlocksyncError):
        cut.send(new, cutting)
    cut.close()
    cut_state, cut_target = left[0]
    return Base(old, new, state, copy, lengths, cut_state, cut_target, last_record(cut_state["journal"]))


def files(folder: MemoryFolder) -> dict[str, bytes]:
    return {name: bytes(raw) for name, raw in folder.files.items()}


def last_record(journal: bytes) -> int:
    payload = b""
    for record in JournalReader(MemoryFile(bytearray(journal))).records():
        payload = record.payload
    return len(journal) - len(payload) - RECORD.size


def flipped(raw: bytes, bit: int) -> bytes:
    changed = bytearray(raw)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@dataclass(slots=True)
class OnWire:
    """Flips a bit of one stream when it comes by."""

    where: str
    bit: int
    seen: int = 0
    met: bool = False

    def __call__(self, where: str, raw: bytes) -> bytes:
        if where != self.where:
            return raw
        at, self.seen = self.bit - self.seen * 8, self.seen + len(raw)
        if not 0 <= at < len(raw) * 8:
            return raw
        self.met = True
        return flipped(raw, at)


class _WatchedFile(MemoryFile):
    def __init__(self, content: bytearray, folder: _WatchedFolder) -> None:
        super().__init__(content)
        self._folder = folder

    def pread(self, offset: int, length: int) -> bytes:
        self._folder.met |= offset <= self._folder.at < offset + length
        return super().pread(offset, length)


class _WatchedFolder(MemoryFolder):
    """Notes whether a byte of a file is read."""

    def __init__(self, given: dict[str, bytes], name: str, at: int) -> None:
        super().__init__(given)
        self.at, self.met = at, False
        self._name, self._first = name, self.files[name]

    def open(self, name: str, *, create: bool = False) -> DurableFile:
        file = super().open(name, create=create)
        if self.files.get(name) is self._first:
            return _WatchedFile(self._first, self)
        return file


def play(seed: int) -> tuple[str, str] | None:
    """One flip; its place and how it was caught, None where the bit was not looked at.

    Raises:
        Broken: it was not caught, or a promise is broken.
    """
    chance = random.Random(seed)
    place = chance.choices(PLACES, WEIGHTS)[0]
    made = base(chance.randrange(BASES))
    try:
        if place in ("frames", "answers", "control"):
            how = _wire(made, place, chance)
        elif place == "records":
            how = _records(made, chance)
        elif place in ("target", "target before"):
            how = _target(made, chance, before=place == "target before")
        else:
            how = _state(made, place, chance)
    except Broken as broken:
        raise Broken(f"seed {seed}, {place}: {broken}") from broken
    return None if how is None else (place, how)


def _wire(made: Base, where: str, chance: random.Random) -> str | None:
    touch = OnWire(where, chance.randrange(made.lengths[where] * 8))
    if where == "frames" and touch.bit // 8 in ORDINAL:
        return None
    world = World(made.old, made.state, made.copy)
    how = _session(world, made.new, touch)
    if not touch.met:
        return None
    if where == "frames" and how == "of no effect" and touch.seen > made.lengths[where]:
        # A patch that does not give the digest: the receiver asked for the whole block.
        how = "sent again"
    if where != "control" and how not in ("refused", "sent again"):
        raise Broken(f"bit {touch.bit} was {how}")
    if pages := _strange_pages(made, world.content()):
        raise Broken(f"bit {touch.bit} was {how}, and {pages} pages were written that no source had")
    _again(made, world)
    return how


def _strange_pages(made: Base, content: bytes) -> int:
    """Pages that are neither what was there nor what was sent: frames are refused before they are written."""
    places = (slice(at, at + PAGE_BYTES) for at in range(0, len(content), PAGE_BYTES))
    return sum(content[at] not in (made.old[at], made.new[at]) for at in places)


def _session(world: World, source: bytes, touch: OnWire) -> str:
    """Send and verify; what became of it."""
    try:
        try:
            world.send(source, touch)
            said = world.says_identical(source, touch)
        finally:
            world.close()
    except BlocksyncError as error:
        if type(error) is BlocksyncError:
            raise Broken("an error without a class") from error
        return "refused"
    if said and world.content() != source:
        raise Broken("it says identical, and it is not")
    return "of no effect" if said else "told as a difference"


def _again(made: Base, world: World) -> None:
    """No claim is false; the same once more, undisturbed, ends well."""
    try:
        wrong = false_claims(world.state.files, world.content())
    except BlocksyncError as error:
        raise Broken(f"the state cannot be read any more: {error}") from error
    if wrong:
        raise Broken(f"{wrong} false claims")
    again = World(world.content(), files(world.state), files(world.copy))
    try:
        again.send(made.new)
        if again.content() != made.new or not again.says_identical(made.new):
            raise Broken("the next pass does not mend it")
    except BlocksyncError as error:
        raise Broken(f"the next pass fails: {error}") from error
    finally:
        again.close()


def _state(made: Base, place: str, chance: random.Random) -> str | None:
    """A bit of a file that is read when the next session begins."""
    name = "journal" if place in ("journal", "middle") else "manifest"
    state, content = (made.cut_state, made.cut_target) if place == "middle" else (made.state, made.old)
    given = dict(made.copy if place == "copy" else state)
    bit = chance.randrange(len(given[name]) * 8)
    torn = place == "middle" and chance.random() < 0.5
    if torn:
        bit = made.cut_last * 8 + chance.randrange(RECORD.size * 8)
    given[name] = flipped(given[name], bit)
    watched = _WatchedFolder(given, name, bit // 8)
    try:
        if place == "copy":
            world = World(content, state, {})
            world.copy = watched
        else:
            if false_claims(given, content):
                raise Broken(f"bit {bit} of the {name} makes a false claim")
            world = World(content, {}, made.copy, folder=watched)
    except BlocksyncError as error:
        if torn:
            raise Broken(f"bit {bit} of the last record passes for a damaged middle") from error
        return "refused"
    how = _session(world, made.new, OnWire("", 0))
    if not watched.met:
        return None
    if how == "told as a difference":
        raise Broken("a committed pass differs")
    if place != "copy" or how != "refused":
        _again(made, world)
    return "a shorter truth" if how == "of no effect" else how


def _target(made: Base, chance: random.Random, *, before: bool) -> str:
    bit = chance.randrange(SIZE * 8)
    world = World(flipped(made.old, bit) if before else made.old, made.state, made.copy)
    try:
        try:
            world.send(made.new)
        except BlocksyncError:
            return "refused"
        if not before:
            content = flipped(made.new, bit)
            world.target.write(0, memoryview(content))
        said, same = world.says_identical(made.new), world.content() == made.new
    finally:
        world.close()
    if said and not same:
        raise Broken(f"bit {bit} of the target is flipped and it says identical")
    if not said and same:
        raise Broken("it says different, and it is identical")
    return "written again" if same else "told as a difference"


# -- below TLS ------------------------------------------------------------------------------------------------


@functools.cache
def _contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    with tempfile.TemporaryDirectory() as name:
        ends = []
        for each in ("receiver", "sender"):
            folder = Path(name) / each
            folder.mkdir(mode=0o700)
            ends.append(Identity.load_or_create(folder))
        receiver, sender = ends
        return server_context(receiver, [sender.certificate]), client_context(sender, pin=receiver.fingerprint)


def _records(made: Base, chance: random.Random) -> str:
    """A bit of what goes over the wire after the handshake: nothing from it on may be read."""
    theirs, ours = _contexts()
    to, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = ours.wrap_bio(back, to)
    server = theirs.wrap_bio(to, back, server_side=True)
    for end in (client, server, client, server, client):
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            continue
    sending, receiving, wire = (client, server, to) if chance.random() < 0.5 else (server, client, back)
    text = made.new[: chance.choice((20, 300, 5000))]
    # Whatever the handshake left there is read first: tickets come after it.
    _drain(receiving)
    sending.write(text)
    sending.write(text)
    raw = wire.read()
    bit = chance.randrange(len(raw) * 8)
    wire.write(flipped(raw, bit))
    got, error = _drain(receiving)
    first_length = len(raw) // 2
    whole = text if bit // 8 >= first_length else b""
    if not whole.startswith(got) and got != whole:
        raise Broken(f"bit {bit} of {len(raw)} bytes: {len(got)} bytes were read")
    return "refused" if error else "nothing read"


def _drain(end: ssl.SSLObject) -> tuple[bytes, bool]:
    got = b""
    try:
        while piece := end.read(65536):
            got += piece
    except ssl.SSLWantReadError:
        return got, False
    except ssl.SSLError:
        return got, True
    return got, False

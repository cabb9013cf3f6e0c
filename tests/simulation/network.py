"""A simulated network: data links as byte pipes with latency, control requests that can be lost, late or doubled.

Bytes of one direction of a link arrive in order, whole, or not at all, as TCP promises; different links overtake each
other. A link is cut after any byte, or goes on without delivering anything (half-open) until one end gives it up.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from blocksync.control.service import Peer
from blocksync.engine.port import PeerPort
from blocksync.engine.receiver import Receiver
from blocksync.errors import BlocksyncError, IncompleteError, NetworkError
from blocksync.protocol.messages import (
    CommitAnswer,
    CommitRequest,
    ControlPort,
    Heartbeat,
    Message,
    OpenAnswer,
    OpenRequest,
    VerifyAnswer,
    VerifyRequest,
)
from blocksync.protocol.sender import error_by_code
from blocksync.transports.link import Link
from tests.simulation.clockwork import Clockwork, Process, Task

# What the kernel does (platforms/linux.py, tune_socket), and what the control client waits for (control/client.py).
DEAD_LINK_SECONDS = 20.0
CONNECT_SECONDS = 10.0
ANSWER_SECONDS = 15.0
OPEN_SECONDS = 120.0
COMMIT_SECONDS = 3600.0
# Of one direction: what a sender may have on its way before it waits.
IN_FLIGHT_BYTES = 48 << 10


class Pipe:
    """One direction of a link."""

    def __init__(self) -> None:
        self.parts: deque[tuple[float, memoryview]] = deque()
        self.in_flight = 0
        self.last = 0.0
        self.ended = False
        """No more comes: the reader gets what is there, then the end."""
        self.swallows = False
        self.reader: Task | None = None
        self.writer: Task | None = None


class SimLink(Link):
    """One end of a link."""

    def __init__(self, net: Network, out: Pipe, into: Pipe, latency: float) -> None:
        net.made += 1
        self._number = net.made
        self._net = net
        self._out = out
        self._into = into
        self._latency = latency
        self.broken = ""
        self.refused = False
        self.bytes_sent = 0
        self.other: SimLink

    def __hash__(self) -> int:
        # The same in every process, so that sets of links are walked in the same order.
        return self._number

    def __eq__(self, other: object) -> bool:
        return self is other

    def send(self, *buffers: bytes | memoryview) -> None:
        data = b"".join(buffers)
        clockwork = self._net.clockwork
        fault = self._net.on_send(self, data)
        clockwork.give_way()
        pipe = self._out
        while not self.broken and not self.refused and pipe.in_flight > IN_FLIGHT_BYTES:
            pipe.writer = clockwork.current
            clockwork.wait()
            pipe.writer = None
        if self.broken or self.refused:
            raise NetworkError(f"cannot send: {self.broken or 'broken pipe'}")
        if fault >= 0:
            data = data[:fault]
        self.bytes_sent += len(data)
        pipe.in_flight += len(data)
        if not pipe.swallows and data:
            pipe.last = max(pipe.last, clockwork.now + self._latency * clockwork.chance.random())
            pipe.parts.append((pipe.last, memoryview(data)))
            self._net.wake_at(pipe)
        if fault >= 0:
            self._net.cut(self)
            raise NetworkError("cannot send: connection reset")

    def recv_into(self, view: memoryview) -> int:
        clockwork = self._net.clockwork
        pipe = self._into
        while True:
            if self.broken:
                raise NetworkError(f"cannot receive: {self.broken}")
            if pipe.parts:
                if pipe.parts[0][0] <= clockwork.now:
                    break
            elif pipe.ended:
                raise NetworkError("the connection was closed without an END")
            pipe.reader = clockwork.current
            clockwork.wait(pipe.parts[0][0] - clockwork.now if pipe.parts else None)
            pipe.reader = None
        at, data = pipe.parts.popleft()
        count = min(len(data), len(view))
        if self._net.dribbles(self):
            count = 1 + int(clockwork.chance.random() * (count - 1))
        view[:count] = data[:count]
        if count < len(data):
            pipe.parts.appendleft((at, data[count:]))
        pipe.in_flight -= count
        if pipe.writer is not None:
            clockwork.wake(pipe.writer)
        return count

    def abort(self) -> None:
        self.close()

    def close(self) -> None:
        if self.broken:
            return
        unread = bool(self._into.parts)
        self._break("the connection was closed")
        self._end(self._out)
        if not self._out.swallows:
            # What arrives at a closed socket is answered by a reset, which may take what was not read yet with it.
            self.other.refused = True
            if self.other._out.writer is not None:
                self._net.clockwork.wake(self.other._out.writer)
            if unread and self._net.clockwork.chance.random() < 0.5:
                self.other._break("connection reset")

    def _break(self, reason: str) -> None:
        if not self.broken:
            self.broken = reason
            self._net.links.pop(self, None)
        for task in (self._out.writer, self._into.reader):
            if task is not None:
                self._net.clockwork.wake(task)

    def _end(self, pipe: Pipe) -> None:
        if not pipe.swallows:
            pipe.ended = True
            self._net.wake_at(pipe)

    def reset(self) -> None:
        """Both ends learn that the link is gone; what arrived can still be read by the other one."""
        self._break("connection reset")
        self._end(self._out)

    def time_out(self) -> None:
        self._break("connection timed out")


class Request:
    """A control request on its way."""

    def __init__(self, port: SimControl) -> None:
        self.port = port
        self.task: Task | None = None
        self.answer: tuple[str, Any] | None = None

    def answered(self, kind: str, value: Any) -> None:
        if self.answer is None:
            self.answer = (kind, value)
            if self.task is not None:
                self.task.clockwork.wake(self.task)


class Network:
    """Everything between two machines.

    Args:
        clockwork: of the run.
        latency: most seconds a part takes on a link.
    """

    def __init__(self, clockwork: Clockwork, latency: float) -> None:
        self.clockwork = clockwork
        self.latency = latency
        self.links: dict[SimLink, None] = {}
        self.made = 0
        self.receiver: tuple[Process, Receiver] | None = None
        self.down_until = 0.0
        self.on_send: Callable[[SimLink, bytes], int] = lambda _link, _data: -1
        """Asked before bytes go out: -1, or how many of them do before the link is cut."""
        self.on_request: Callable[[str], str] = lambda _what: ""
        """Asked for each control request: "", "lost", "unanswered", "doubled" or "late"."""
        self.on_answer: Callable[[str, Any], None] = lambda _what, _answer: None
        self.dribbles: Callable[[SimLink], bool] = lambda _link: False
        self.owner: dict[SimLink, Process] = {}

    # -- links ----------------------------------------------------------------------------------------------------

    def connect(self, process: Process, attend: Callable[[Link, Receiver], None]) -> Link:
        """A link from a sender's process to the receiver's data port.

        Raises:
            NetworkError: nobody answers.
        """
        self.clockwork.wait(self.latency * self.clockwork.chance.random())
        if self.down:
            self.clockwork.wait(CONNECT_SECONDS)
            raise NetworkError("cannot connect to the data port: timed out")
        if self.receiver is None:
            raise NetworkError("cannot connect to the data port: connection refused")
        server, receiver = self.receiver
        there, back = Pipe(), Pipe()
        ours, theirs = (SimLink(self, *pipes, self.latency) for pipes in ((there, back), (back, there)))
        ours.other, theirs.other = theirs, ours
        for link, owner in ((ours, process), (theirs, server)):
            self.links[link] = None
            self.owner[link] = owner
        self.clockwork.spawn(server, lambda: attend(theirs, receiver), "inbound")
        return ours

    @property
    def down(self) -> bool:
        return self.clockwork.now < self.down_until

    def wake_at(self, pipe: Pipe) -> None:
        if pipe.reader is not None:
            self.clockwork.wake(pipe.reader)

    def cut(self, link: SimLink) -> None:
        link.reset()
        link.other.reset()

    def half_open(self, link: SimLink, *, both: bool) -> None:
        """From now on nothing that this end sends arrives, nor, perhaps, what the other one does."""
        for each in (link, link.other) if both else (link,):
            each._out.swallows = True
        for each in (link, link.other):
            self.clockwork.after(DEAD_LINK_SECONDS, each.time_out)

    def part(self, seconds: float) -> None:
        """Everything is lost for a while."""
        self.down_until = self.clockwork.now + seconds
        for link in tuple(self.links):
            self.half_open(link, both=True)

    def process_died(self, process: Process, machine_too: bool) -> None:
        """The kernel closes a process's sockets; a machine without power closes nothing."""
        for link in [link for link in self.links if self.owner[link] is process]:
            if machine_too:
                link._out.swallows = True
                link._break("dead")
                self.clockwork.after(DEAD_LINK_SECONDS, link.other.time_out)
            else:
                link.reset()
        if self.receiver is not None and self.receiver[0] is process:
            self.receiver = None


class SimControl(ControlPort):
    """A sender's view of the control port, over the network; messages go through their JSON form.

    Args:
        net: the network.
        peer: who the sender is, as its certificate says.
    """

    def __init__(self, net: Network, peer: Peer) -> None:
        self._net = net
        self._peer = peer
        self._waiting: dict[Request, None] = {}

    def open(self, request: OpenRequest) -> OpenAnswer:
        return OpenAnswer.from_json(self._call("open", OPEN_SECONDS, request.to_json()))

    def segment_digests(self, session: bytes) -> bytes:
        return bytes(self._call("segment_digests", OPEN_SECONDS, session))

    def segment(self, session: bytes, index: int) -> tuple[int, bytes]:
        state, payload = self._call("segment", ANSWER_SECONDS, session, index)
        return int(state), bytes(payload)

    def heartbeat(self, session: bytes) -> Heartbeat:
        return Heartbeat.from_json(self._call("heartbeat", ANSWER_SECONDS, session))

    def commit(self, session: bytes, request: CommitRequest) -> CommitAnswer:
        return CommitAnswer.from_json(self._call("commit", COMMIT_SECONDS, session, request.to_json()))

    def end(self, session: bytes) -> None:
        self._call("end", ANSWER_SECONDS, session)

    def verify(self, request: VerifyRequest) -> tuple[VerifyAnswer, Iterator[bytes]]:
        said, parts = self._call("verify", COMMIT_SECONDS, request.to_json())
        return VerifyAnswer.from_json(said), iter(parts)

    def abort(self) -> None:
        for request in tuple(self._waiting):
            request.answered("given up", None)

    # -- inside ---------------------------------------------------------------------------------------------------

    def _call(self, what: str, seconds: float, *words: Any) -> Any:
        net, clockwork = self._net, self._net.clockwork
        request = Request(self)
        request.task = clockwork.current
        how = net.on_request(what)
        if how != "lost" and not net.down:
            for _ in range(2 if how == "doubled" else 1):
                delay = net.latency * clockwork.chance.random() + (
                    clockwork.chance.random() * 60 if how == "late" else 0.0
                )
                clockwork.after(delay, lambda: self._arrives(request, what, words, how == "unanswered"))
        else:
            # Whoever lost it sends a reset in the end, to the next probe of the connection.
            clockwork.after(clockwork.chance.random() * 60, lambda: request.answered("broken", "timed out"))
        self._waiting[request] = None
        try:
            if request.answer is None and clockwork.wait(seconds):
                raise NetworkError("the control port did not answer in time")
        finally:
            self._waiting.pop(request)
            request.task = None
        assert request.answer is not None
        kind, value = request.answer
        if kind == "given up":
            raise IncompleteError("the request was given up")
        if kind == "broken":
            raise NetworkError(f"the control port cannot be reached: {value}")
        if kind == "error":
            raise error_by_code(*value)
        net.on_answer(what, value)
        return value

    def _arrives(self, request: Request, what: str, words: tuple[Any, ...], unanswered: bool) -> None:
        net = self._net
        if net.down:
            return
        if net.receiver is None:
            request.answered("broken", "connection refused")
            return
        process, receiver = net.receiver

        def lost(machine_too: bool) -> None:
            if not machine_too:
                request.answered("broken", "connection reset")

        def work() -> None:
            kind, value = _answer(PeerPort(receiver, self._peer), what, words)
            process.on_death.remove(lost)
            if unanswered or net.down:
                net.clockwork.after(60.0, lambda: request.answered("broken", "timed out"))
            else:
                net.clockwork.after(
                    net.latency * net.clockwork.chance.random(), lambda: request.answered(kind, value)
                )

        process.on_death.append(lost)
        net.clockwork.spawn(process, work, f"control {what}")


def _answer(port: PeerPort, what: str, words: tuple[Any, ...]) -> tuple[str, Any]:
    """What the control server does with a request (control/server.py)."""
    try:
        if what == "open":
            return "value", port.open(OpenRequest.from_json(words[0])).to_json()
        if what == "commit":
            return "value", port.commit(words[0], CommitRequest.from_json(words[1])).to_json()
        if what == "verify":
            answer, parts = port.verify(VerifyRequest.from_json(words[0]))
            return "value", (answer.to_json(), list(parts))
        value = getattr(port, what)(*words)
        return "value", value.to_json() if isinstance(value, Message) else value
    except BlocksyncError as error:
        return "error", (error.code, error.message, error.remedy)

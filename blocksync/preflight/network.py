"""The way to a receiver, step by step, so that each kind of trouble has its own name."""

from __future__ import annotations

import contextlib
import email.utils
import errno
import http.client
import json
import socket
import ssl
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from blocksync import __version__
from blocksync.control.connection import Connection
from blocksync.control.diagnosis import key_is_refused
from blocksync.engine.cancel import Cancel
from blocksync.errors import BlocksyncError, NetworkError, TrustError
from blocksync.options import DEFAULT_DATA_PORT
from blocksync.platforms import path_mtu
from blocksync.platforms.dialing import Dialing, unwatched
from blocksync.platforms.likeness import marks_of
from blocksync.preflight import findings
from blocksync.preflight.findings import Finding, Kind, found
from blocksync.protocol.messages import CONTROL_VERSION, MAX_MESSAGE_BYTES
from blocksync.transports.dial import Dial
from blocksync.transports.tls import connect
from blocksync.trust.identity import Identity
from blocksync.trust.pins import Pin
from blocksync.trust.tls import client_context

PROBE_SECONDS = 5.0
# More than one segment whatever the MTU: jumbo frames have 9000.
LARGE_BYTES = 32 << 10
# The Date header has whole seconds.
CLOCK_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What the control port said to a question: its status, its JSON and the second of its clock."""

    status: int
    said: dict[str, object]
    clock_skew: float | None
    fingerprint: bytes | None
    mtu: int | None


class Way:
    """From this machine to one receiver.

    Args:
        host, port: of the control port.
        identity: this machine's.
        pin: the receiver's; None before pairing.
        sources: names of what is to be sent.
        cancel: ends any step at once; then what was found last may be untrue.
    """

    def __init__(
        self,
        host: str,
        port: int,
        identity: Identity,
        pin: Pin | None,
        sources: Sequence[str] = (),
        cancel: Cancel | None = None,
    ) -> None:
        self._host = host
        self._port = port
        self._identity = identity
        self._pin = pin
        self._sources = sources
        self._cancel = cancel or Cancel()
        self.slots: dict[str, object] = {}
        """What the receiver says of the slots this machine may use, once it was asked."""

    def findings(self) -> Iterator[Finding]:
        """Look, from the name to large packets; ends where nothing further can be looked at."""
        at = f"{self._host}:{self._port}"
        trouble = self._port_trouble(self._port, "control", findings.CONTROL_REFUSED, findings.CONTROL_SILENT)
        if trouble is not None:
            yield trouble
            return
        try:
            hello = greet(self._host, self._port, self._sources, self._cancel)
        except (OSError, http.client.HTTPException, ValueError) as error:
            yield found(findings.CONTROL_FOREIGN, f"what answers at {at} is not blocksync: {_short(error)}")
            return
        yield from hello_findings(hello, at)
        if self._pin is None:
            yield found(findings.NOT_PAIRED, f"this machine is not paired with {at}")
            port = hello.said.get("data_port")
            yield from self._data(port if isinstance(port, int) else DEFAULT_DATA_PORT, hello.mtu)
        elif hello.fingerprint != self._pin.fingerprint:
            yield found(findings.OTHER_KEY, f"{at} shows another key than the one that was pinned")
        else:
            yield from self._paired(self._pin, hello)

    def _paired(self, pin: Pin, hello: Answer) -> Iterator[Finding]:
        at = f"{self._host}:{self._port}"
        try:
            status = self._ask("GET", "/v1/status")
        except (OSError, http.client.HTTPException, ValueError) as error:
            watching = self._cancel.watching
            if key_is_refused(self._host, self._port, self._identity, pin.fingerprint, watching):
                yield found(findings.KEY_REFUSED, f"{at} does not accept this machine's key")
            else:
                yield found(findings.CONTROL_SILENT, f"{at} does not answer a paired sender: {_short(error)}")
            return
        if status.status != http.HTTPStatus.OK:
            yield found(
                findings.KEY_REFUSED, f"{at} does not accept this machine: {status.said.get('message', '')}"
            )
            return
        slots = status.said.get("slots")
        self.slots = slots if isinstance(slots, dict) else {}
        if not self._large_arrive():
            yield found(findings.LARGE_LOST, f"small packets reach {at}, large ones vanish on the way")
            return
        port = status.said.get("data_port")
        yield from self._data(port if isinstance(port, int) else DEFAULT_DATA_PORT, hello.mtu)

    def _large_arrive(self) -> bool:
        """Whether a request of many segments is answered; what it says does not matter."""
        body = json.dumps({"padding": "x" * LARGE_BYTES}).encode()
        try:
            self._ask("POST", "/v1/sessions", body)
        except TimeoutError:
            return False
        except (OSError, http.client.HTTPException, ValueError):
            return True  # refused or reset: that is an answer
        return True

    def _data(self, port: int, mtu: int | None) -> Iterator[Finding]:
        at = f"{self._host}:{port}"
        trouble = self._port_trouble(port, "data", findings.DATA_REFUSED, findings.DATA_SILENT)
        if trouble is not None:
            yield trouble
            return
        if self._pin is not None:
            context = client_context(self._identity, pin=self._pin.fingerprint)
            dial = Dial(self._host, port, context)
            try:
                with self._cancel.watching(dial.abort):
                    connect(dial, self._pin.fingerprint, timeout=PROBE_SECONDS).close()
            except (NetworkError, TrustError, BlocksyncError) as error:
                yield found(findings.DATA_FOREIGN, f"what answers at {at} is not the receiver: {error.message}")
                return
        yield found(findings.REACHED, f"{self._host} was reached on port {self._port} (control) and {port} (data)")
        if mtu is not None:
            yield found(findings.PATH_MTU, f"the path's MTU is {mtu} bytes")

    def _ask(self, method: str, path: str, body: bytes | None = None) -> Answer:
        return ask(self._host, self._port, self._identity, method, path, body, cancel=self._cancel)

    def _port_trouble(self, port: int, what: str, refused: Kind, silent: Kind) -> Finding | None:
        """Why no TCP connection comes about; None where one does."""
        at = f"the {what} port {self._host}:{port}"
        dialing = Dialing(self._host, port)
        try:
            with contextlib.closing(dialing), self._cancel.watching(dialing.abort):
                dialing.reach(PROBE_SECONDS)
        except socket.gaierror as error:
            return found(findings.NAME_UNKNOWN, f"{self._host} is not known: {error.strerror or error}")
        except ConnectionRefusedError:
            return found(refused, f"nobody listens on {at}")
        except TimeoutError:
            return found(
                silent, f"{at} does not answer within {PROBE_SECONDS:.0f} s: packets are dropped on the way"
            )
        except OSError as error:
            if error.errno in (errno.ECONNRESET, errno.ECONNABORTED):
                return found(refused, f"{at} resets connections: {error.strerror}")
            return found(findings.NO_ROUTE, f"there is no way to {at}: {error.strerror or error}")
        return None


def hello_findings(hello: Answer, at: str) -> Iterator[Finding]:
    """What a receiver's greeting tells: versions and clock, and whether it would write to what is sent."""
    control, version = hello.said.get("control"), hello.said.get("version")
    if hello.status != http.HTTPStatus.OK or not isinstance(version, str):
        yield found(findings.CONTROL_FOREIGN, f"what answers at {at} is not blocksync")
    elif control != CONTROL_VERSION:
        yield found(
            findings.PROTOCOL_SKEW,
            f"the receiver ({version}) speaks control protocol {control}, this machine {CONTROL_VERSION}",
        )
    elif version != __version__:
        yield found(findings.VERSION_SKEW, f"the receiver runs blocksync {version}, this machine {__version__}")
    if hello.said.get("itself") is True:
        yield found(
            findings.TARGET_ITSELF,
            f"the receiver at {at} runs on this machine, and its target is the source itself",
        )
    skew = hello.clock_skew
    if skew is not None and abs(skew) > CLOCK_SECONDS:
        word = "ahead of" if skew > 0 else "behind"
        yield found(findings.CLOCK_SKEW, f"the receiver's clock is {abs(skew):.0f} s {word} this one")


def greet(host: str, port: int, sources: Sequence[str] = (), cancel: Cancel | None = None) -> Answer:
    """What a receiver says to anybody; of these sources, whether they are its targets too.

    Raises:
        OSError, HTTPException, ValueError: as :func:`ask`.
    """
    marks = marks_of(sources)
    path = f"/v1/hello?marks={marks}" if marks else "/v1/hello"
    return ask(host, port, None, "GET", path, cancel=cancel)


def ask(
    host: str,
    port: int,
    identity: Identity | None,
    method: str,
    path: str,
    body: bytes | None = None,
    *,
    cancel: Cancel | None = None,
) -> Answer:
    """One question on a connection of its own. Nothing secret is in it: the caller compares the fingerprint.

    Args:
        cancel: ends it at any moment.

    Raises:
        OSError: no connection, no TLS, no answer in time, or it was ended.
        HTTPException, ValueError: what answers speaks no HTTP.
    """
    connection = Connection(host, port, client_context(identity))
    watching = cancel.watching if cancel else unwatched
    with contextlib.closing(connection), watching(connection.abort):
        connection.open(PROBE_SECONDS)
        answer = connection.ask(method, path, body, PROBE_SECONDS)
        raw = answer.read(MAX_MESSAGE_BYTES)
        skew = clock_skew(answer.headers.get("Date"), time.time())
        try:
            said = json.loads(raw)
        except (ValueError, RecursionError):
            said = None
        return Answer(
            status=answer.status,
            said=said if isinstance(said, dict) else {},
            clock_skew=skew,
            fingerprint=connection.fingerprint(),
            mtu=path_mtu(connection.sock),
        )


def clock_skew(date: str | None, now: float) -> float | None:
    """Seconds that a Date header is ahead of ``now``; None where it is none. Its fraction of a second is unknown."""
    if date is None:
        return None
    with contextlib.suppress(TypeError, ValueError, IndexError, OverflowError):
        return email.utils.parsedate_to_datetime(date).timestamp() + 0.5 - now
    return None


def _short(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return f"no TLS 1.3 ({error.reason or 'handshake failed'})"
    return (str(error) or type(error).__name__)[:160]

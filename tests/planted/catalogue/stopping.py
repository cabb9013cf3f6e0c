"""What is told to stop stops, and does not wait for a peer that says nothing."""

from __future__ import annotations

from tests.planted.bug import Bug

_DIALING = "platforms/dialing.py"
_DIAL = "transports/dial.py"
_NBD_TESTS = "nbd/test_nbd_stopped.py"
_DIAL_TESTS = "transports/test_transports_dial.py"
_API_TESTS = "api/test_api_asyncio.py"

STOPPING = [
    Bug(
        name="a look-up under way cannot be ended",
        file=_DIALING,
        old="        self._answers.put(None)\n",
        new="",
        gate=f"{_DIAL_TESTS}::test_a_name_that_nobody_looks_up",
    ),
    Bug(
        name="a handshake's deadline begins anew with each packet",
        file=_DIAL,
        old="            left = deadline - time.monotonic()\n",
        new="            left = 10.0\n",
        gate=f"{_DIAL_TESTS}::test_a_handshake_that_dribbles_ends_in_time_as_a_whole",
    ),
    Bug(
        name="an NBD server that says nothing is waited for",
        file="nbd/export.py",
        old="        for connection in known:\n            connection.abort()\n",
        new="",
        gate=_NBD_TESTS,
    ),
    Bug(
        name="a wait for an NBD server that was stopped shows as the server's fault",
        file="api/opening.py",
        old="        cancel.check(error)\n        raise\n\n\ndef _open(",
        new="        raise\n\n\ndef _open(",
        gate=_NBD_TESTS,
    ),
    Bug(
        name="an abort that comes before the connect is forgotten",
        file=_DIALING,
        old="            with self._lock:\n                self._check()\n                self._sock = plain",
        new="            with self._lock:\n                self._sock = plain",
        gate=f"{_DIAL_TESTS}::test_one_that_was_given_up_before_it_began",
    ),
    Bug(
        name="a connect under way cannot be ended",
        file=_DIALING,
        old="                self._sock = plain\n",
        new="",
        gate=f"{_DIAL_TESTS}::test_a_connect_that_nobody_answers",
    ),
    Bug(
        name="a handshake under way cannot be ended",
        file=_DIAL,
        old="            self.hold(secure)\n",
        new="",
        gate=f"{_DIAL_TESTS}::test_a_handshake_that_nobody_answers",
    ),
    Bug(
        name="a pairing is not told to stop",
        file="engine/reach.py",
        old="        with self._cancel.watching(contact.abort):",
        new="        with contextlib.nullcontext():",
        gate=f"{_API_TESTS}::test_cancelling_does_not_wait_for_a_peer_that_says_nothing",
    ),
    Bug(
        name="an estimate's pairing has another token",
        file="api/planning.py",
        old="reached(wanted, token)",
        new="reached(wanted, Cancel())",
        gate=f"{_API_TESTS}::test_cancelling_does_not_wait_for_a_peer_that_says_nothing[estimate]",
    ),
    Bug(
        name="a rebuild that was stopped reads on",
        file="engine/inventory.py",
        old="                if cancel.is_set():",
        new="                if False:",
        gate=f"{_API_TESTS}::test_damaged_state_is_told_and_rebuilt_from_the_target",
    ),
]

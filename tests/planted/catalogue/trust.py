"""Section 7: keys, codes, grants."""

from __future__ import annotations

from tests.planted.bug import Bug

_PAIRING = "trust/pairing.py"
_PAIRING_TESTS = "trust/test_trust_pairing.py"

TRUST = [
    Bug(
        name="a receiver's key not compared with the pin",
        file="trust/tls.py",
        old="    if seen is None or not _pin_matches(pin, seen):\n        error =",
        new="    if seen is None:\n        error =",
        gate="trust/test_trust_tls.py::test_the_wrong_receiver_gets_not_one_byte",
    ),
    Bug(
        name="a pin compared by its first bytes",
        file="trust/tls.py",
        old="    return hmac.compare_digest(_checked_pin(pin), seen[: len(pin)])",
        new="    return hmac.compare_digest(_checked_pin(pin)[:1], seen[:1])",
        gate="trust/test_trust_tls.py::test_every_byte_of_a_pin_counts",
    ),
    Bug(
        name="older TLS is spoken",
        file="trust/tls.py",
        old="    context.minimum_version = ssl.TLSVersion.TLSv1_3\n",
        new="    context.minimum_version = ssl.TLSVersion.TLSv1_2\n",
        gate="trust/test_trust_tls.py::test_what_contexts_allow",
    ),
    Bug(
        name="a peer without a key passes on the control port",
        file="control/server.py",
        old="        if peer is None:\n            raise TrustError",
        new='        if peer is None and fingerprint is None:\n            return Peer(fingerprint=bytes(32), name="?")\n'
        "        if peer is None:\n            raise TrustError",
        gate="control/test_control_port.py::test_strangers_get_nothing",
    ),
    Bug(
        name="a code without a bound on wrong tries",
        file=_PAIRING,
        old="                    each.wrong_tries += 1\n",
        new="                    pass\n",
        gate=f"{_PAIRING_TESTS}::test_five_wrong_tries_kill_the_code",
    ),
    Bug(
        name="six wrong tries instead of five",
        file=_PAIRING,
        old="            if offer.wrong_tries >= WRONG_TRIES_MAX:",
        new="            if offer.wrong_tries > WRONG_TRIES_MAX:",
        gate=f"{_PAIRING_TESTS}::test_five_wrong_tries_kill_the_code",
    ),
    Bug(
        name="a code that never expires",
        file=_PAIRING,
        old="            if now >= offer.dies_at:\n                minutes",
        new="            if False:\n                minutes",
        gate=f"{_PAIRING_TESTS}::test_the_code_dies_after_fifteen_minutes",
    ),
    Bug(
        name="a code that works twice",
        file=_PAIRING,
        old="            offer.used_by = request.certificate\n",
        new="",
        gate=f"{_PAIRING_TESTS}::test_the_code_works_once",
    ),
    Bug(
        name="a used code works again for another sender",
        file=_PAIRING,
        old="    if offer.used_by is None or not hmac.compare_digest(offer.used_by, request.certificate):\n        return False\n",
        new="",
        gate=f"{_PAIRING_TESTS}::test_the_code_works_once",
    ),
    Bug(
        name="a pairing request's proof of the code not compared",
        file=_PAIRING,
        old='    if not hmac.compare_digest(_mac(code, b"request", transcript), request.mac):',
        new="    if False:",
        gate=f"{_PAIRING_TESTS}::test_a_wrong_code_grants_nothing_and_the_right_one_still_works",
    ),
    Bug(
        name="possession of the sender's key not checked",
        file=_PAIRING,
        old='    check_signature(request.certificate, request.signature, _joined(b"possession", transcript, request.mac))\n',
        new="",
        gate=f"{_PAIRING_TESTS}::test_every_altered_part_of_the_request_is_refused",
    ),
    Bug(
        name="the receiver's proof not checked before it is pinned",
        file=_PAIRING,
        old="    if not hmac.compare_digest(expected, reply.mac):",
        new="    if False:",
        gate=f"{_PAIRING_TESTS}::test_every_altered_part_of_the_reply_is_refused",
    ),
    Bug(
        name="a sender pairs with whoever answers",
        file=_PAIRING,
        old="    if not code.names(receiver):\n        raise",
        new="    if False:\n        raise",
        gate=f"{_PAIRING_TESTS}::test_the_sender_refuses_a_receiver_that_the_code_does_not_name",
    ),
    Bug(
        name="the receiver is not bound into the proof",
        file=_PAIRING,
        old="    return _joined(receiver, certificate, nonce,",
        new="    return _joined(b'', certificate, nonce,",
        gate=f"{_PAIRING_TESTS}::test_a_request_relayed_to_another_receiver_is_refused",
    ),
    Bug(
        name="a grant is for all slots",
        file="trust/grants.py",
        old="        return grant is not None and slot in grant.slots",
        new="        return grant is not None",
        gate="trust/test_trust_grants.py::test_a_grant_is_for_its_peer_and_its_slots",
    ),
    Bug(
        name="a peer that shows no key is the first one",
        file="trust/grants.py",
        old="        return next((grant for grant in self.peers() if grant.fingerprint == fingerprint), None)",
        new="        return next((grant for grant in self.peers() if grant.fingerprint[:0] == fingerprint[:0]), None)",
        gate="trust/test_trust_grants.py",
    ),
    Bug(
        name="a revoked grant is kept in memory",
        file="trust/store.py",
        old="        if raw != seen:",
        new="        if seen is None:",
        gate="trust/test_trust_grants.py::test_revoking_in_another_process_shows_at_once",
    ),
    Bug(
        name="grants are not durable before they are told",
        file="trust/store.py",
        old="            os.fsync(file.fileno())\n",
        new="",
        gate="trust/test_trust_store.py::test_the_file_is_durable_before_its_name_and_its_name_before_the_answer",
    ),
    Bug(
        name="a file that others may change is trusted",
        file="trust/store.py",
        old="        if PERMISSION_BITS_COUNT and mode & (stat.S_IRWXG | stat.S_IRWXO):",
        new="        if False:",
        gate="trust/test_trust_store.py::test_open_to_others_or_too_large_is_refused",
    ),
    Bug(
        name="a slot may be a path",
        file="trust/names.py",
        old="    if _SLOT_NAME.fullmatch(name) is None:",
        new="    if _SLOT_NAME.match(name) is None:",
        gate="trust/test_trust_names.py::test_no_slot_names",
    ),
    Bug(
        name="a terminal obeys what a peer is called",
        file="trust/names.py",
        old='        elif category[0] == "C" or',
        new='        elif category == "Cn" or',
        gate="trust/test_trust_names.py::test_what_a_terminal_would_obey_is_shown_instead",
    ),
]

from __future__ import annotations

import dataclasses
import itertools
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blocksync.errors import ProtocolError, StateError, TrustError, UsageError
from blocksync.trust.codes import PairingCode
from blocksync.trust.grants import Grant, Grants
from blocksync.trust.identity import Identity
from blocksync.trust.pairing import (
    CODE_LIFE_SECONDS,
    WRONG_TRIES_MAX,
    PairingDesk,
    PairingReply,
    PairingRequest,
    _joined,
    _transcript,
    check_reply,
    make_request,
)

NONCE = bytes(range(32))


@dataclass
class Pair:
    """A receiver's desk with a live code, and a sender."""

    receiver: Identity
    sender: Identity
    stranger: Identity
    now: float = 1000.0
    granted: list[Grant] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.desk = PairingDesk(self.receiver, name="target-1")
        self.code = self.desk.issue(["root", "data"], self.now)

    def request(self, code: PairingCode | None = None, nonce: bytes = NONCE, name: str = "db1") -> PairingRequest:
        return make_request(
            code or self.code, self.sender, receiver=self.receiver.fingerprint, nonce=nonce, name=name
        )

    def wrong(self) -> PairingRequest:
        return self.request(PairingCode.make(self.receiver.fingerprint))

    def accept(self, request: PairingRequest, commit: Callable[[Grant], None] | None = None) -> PairingReply:
        return self.desk.accept(request, now=self.now, since=5, commit=commit or self.granted.append)


@pytest.fixture
def pair(make: Callable[[str], Identity]) -> Pair:
    return Pair(receiver=make("receiver"), sender=make("sender"), stranger=make("stranger"))


def test_the_right_code_grants_its_slots_and_proves_the_receiver(pair: Pair, private: Path) -> None:
    # Over the wire and the keyboard: JSON both ways, the code as typed.
    code = PairingCode.parse(pair.code.text.lower())
    request = pair.request(code)
    arrived = PairingRequest.from_json(json.loads(json.dumps(request.to_json())))
    assert arrived == request
    grants = Grants(private)
    answer = json.loads(json.dumps(pair.accept(arrived, grants.add).to_json()))
    reply = PairingReply.from_json(answer)
    check_reply(code, request, reply, receiver=pair.receiver.fingerprint)
    assert reply.slots == ("data", "root")
    assert reply.name == "target-1"
    assert grants.peers() == (Grant.make(pair.sender.certificate, "db1", ["root", "data"], 5),)
    assert grants.allowed(pair.sender.fingerprint, "root")


def test_the_secret_does_not_travel(pair: Pair) -> None:
    request = pair.request()
    sent = b"".join((request.mac, request.nonce, request.signature, request.certificate))
    assert pair.code.secret not in sent + pair.accept(request).mac


def test_a_wrong_code_grants_nothing_and_the_right_one_still_works(pair: Pair) -> None:
    for _ in range(WRONG_TRIES_MAX - 1):
        with pytest.raises(TrustError, match="is wrong"):
            pair.accept(pair.wrong())
    pair.accept(pair.request())
    assert len(pair.granted) == 1


def test_five_wrong_tries_kill_the_code(pair: Pair) -> None:
    for _ in range(WRONG_TRIES_MAX):
        with pytest.raises(TrustError, match="is wrong"):
            pair.accept(pair.wrong())
    with pytest.raises(TrustError, match="too many wrong tries") as caught:
        pair.accept(pair.request())
    assert "blocksync recv" in caught.value.remedy
    assert not pair.granted


def test_the_code_dies_after_fifteen_minutes(pair: Pair) -> None:
    assert CODE_LIFE_SECONDS == 900
    issued = pair.now
    pair.now = issued + 899.999
    with pytest.raises(TrustError, match="is wrong"):
        pair.accept(pair.wrong())
    pair.now = issued + 900
    with pytest.raises(TrustError, match="expired"):
        pair.accept(pair.request())
    assert not pair.granted


def test_the_code_works_once(pair: Pair) -> None:
    pair.accept(pair.request())
    pair.sender, first = pair.stranger, pair.sender
    other = pair.request()
    pair.sender = first
    for request in (other, pair.wrong()):
        with pytest.raises(TrustError, match="used up"):
            pair.accept(request)
    assert len(pair.granted) == 1


def test_a_sender_killed_before_it_kept_its_pin_pairs_again_with_the_same_code(pair: Pair) -> None:
    pair.accept(pair.request())
    again = pair.request(nonce=bytes(32))
    check_reply(pair.code, again, pair.accept(again), receiver=pair.receiver.fingerprint)
    assert len(pair.granted) == 1
    # Its certificate is public: who shows it must hold its key.
    forged = dataclasses.replace(pair.request(nonce=bytes(31) + b"x"), signature=again.signature)
    with pytest.raises(TrustError, match="used up"):
        pair.accept(forged)


def test_a_lost_answer_is_given_again_without_another_grant(pair: Pair) -> None:
    request = pair.request()
    first = pair.accept(request)
    pair.now += 899
    assert pair.accept(request) == first
    assert len(pair.granted) == 1  # a revoke in between is not undone
    pair.now += 1
    with pytest.raises(TrustError, match="used up"):
        pair.accept(request)


def test_each_refusal_has_its_own_words(pair: Pair) -> None:
    desk = PairingDesk(pair.receiver, name="x")
    with pytest.raises(TrustError, match="offers no pairing"):
        desk.accept(pair.request(), now=0, since=0, commit=pair.granted.append)


def test_a_new_code_replaces_the_old_one_and_its_tries(pair: Pair) -> None:
    for _ in range(WRONG_TRIES_MAX):
        with pytest.raises(TrustError):
            pair.accept(pair.wrong())
    old, pair.code = pair.code, pair.desk.issue(["home"], pair.now)
    with pytest.raises(TrustError, match="is wrong"):
        pair.accept(pair.request(old))
    assert pair.accept(pair.request()).slots == ("home",)


def test_a_grant_that_could_not_be_stored_leaves_the_code_good(pair: Pair) -> None:
    def full(grant: Grant) -> None:
        raise StateError("no space")

    request = pair.request()
    with pytest.raises(StateError):
        pair.accept(request, full)
    pair.accept(request)
    assert len(pair.granted) == 1


def test_of_two_that_bring_the_code_at_once_one_wins(pair: Pair, make: Callable[[str], Identity]) -> None:
    requests = []
    for number in range(8):
        pair.sender = make(f"sender-{number}")
        requests.append(pair.request())
    barrier = threading.Barrier(8)
    outcomes: list[str] = []

    def bring(request: PairingRequest) -> None:
        barrier.wait(30)
        try:
            pair.accept(request)
            outcomes.append("granted")
        except TrustError as error:
            outcomes.append(str(error))

    threads = [threading.Thread(target=bring, args=(request,)) for request in requests]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert outcomes.count("granted") == len(pair.granted) == 1
    assert sum("used up" in outcome for outcome in outcomes) == 7


def test_every_altered_part_of_the_request_is_refused(pair: Pair) -> None:
    request = pair.request()
    altered = [
        replace(request, certificate=pair.stranger.certificate),  # a man in the middle's own key
        replace(request, nonce=bytes(32)),
        replace(request, name="db2"),
        replace(request, mac=bytes(32)),
        replace(request, signature=pair.stranger.sign(b"x")),  # knows the code, does not hold the key
        replace(request, signature=b""),
    ]
    for bad in altered:
        pair.code = pair.desk.issue(["root"], pair.now)
        good = pair.request()
        changed = {name for name in PairingRequest.__slots__ if getattr(bad, name) != getattr(request, name)}
        with pytest.raises(TrustError):
            pair.accept(replace(good, **{name: getattr(bad, name) for name in changed}))
        for _ in range(WRONG_TRIES_MAX - 1):
            with pytest.raises(TrustError, match="is wrong"):
                pair.accept(pair.wrong())
        with pytest.raises(TrustError, match="too many"):  # each alteration counted as a try
            pair.accept(good)
    assert not pair.granted


def test_a_man_in_the_middle_cannot_put_his_own_key_in(pair: Pair) -> None:
    # He signs properly with his own key; without the secret the HMAC still speaks of the sender's certificate.
    request = pair.request()
    transcript = _transcript(pair.receiver.fingerprint, pair.stranger.certificate, request.nonce, request.name)
    signature = pair.stranger.sign(_joined(b"possession", transcript, request.mac))
    with pytest.raises(TrustError, match="is wrong"):
        pair.accept(replace(request, certificate=pair.stranger.certificate, signature=signature))
    assert not pair.granted


def test_a_request_relayed_to_another_receiver_is_refused(pair: Pair, make: Callable[[str], Identity]) -> None:
    # Even one that learnt the code: the request names the receiver whose certificate the sender saw.
    other = PairingDesk(make("other"), name="other")
    other.issue(["root"], pair.now)
    other._offers[0].code = replace(pair.code)
    with pytest.raises(TrustError, match="wrong"):
        other.accept(pair.request(), now=pair.now, since=0, commit=pair.granted.append)


def test_the_certificate_is_not_parsed_for_who_does_not_know_the_code(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        pytest.fail("parsed")

    monkeypatch.setattr("blocksync.trust.certificates.check_signature", never)
    with pytest.raises(TrustError, match="is wrong"):
        pair.accept(replace(pair.wrong(), certificate=b"rubbish"))


def test_a_certificate_that_is_none_is_refused_though_the_code_is_right(pair: Pair) -> None:
    sender = replace(pair.sender, certificate=b"rubbish")
    with pytest.raises(TrustError, match="gone or was replaced"):
        make_request(pair.code, sender, receiver=pair.receiver.fingerprint, nonce=NONCE, name="x")


def test_the_sender_refuses_a_receiver_that_the_code_does_not_name(pair: Pair) -> None:
    with pytest.raises(TrustError, match="not the one that printed") as caught:
        make_request(pair.code, pair.sender, receiver=pair.stranger.fingerprint, nonce=NONCE, name="x")
    assert caught.value.safe is not None


def test_every_altered_part_of_the_reply_is_refused(pair: Pair) -> None:
    request = pair.request()
    reply = pair.accept(request)
    receiver = pair.receiver.fingerprint
    check_reply(pair.code, request, reply, receiver=receiver)
    for bad in (
        replace(reply, mac=bytes(32)),
        replace(reply, mac=request.mac),  # reflected
        replace(reply, name="other"),
        replace(reply, slots=("root",)),
        replace(reply, slots=("dataroot",)),
    ):
        with pytest.raises(TrustError, match="did not prove"):
            check_reply(pair.code, request, bad, receiver=receiver)
    same_pin = receiver[:16] + bytes(16)  # a receiver with 128 equal bits, which does not know the secret
    with pytest.raises(TrustError):
        check_reply(pair.code, request, reply, receiver=same_pin)
    with pytest.raises(TrustError):
        check_reply(pair.code, pair.request(nonce=bytes(32)), reply, receiver=receiver)


def test_hostile_names_are_bound_as_sent_and_stored_harmless(pair: Pair) -> None:
    request = pair.request(name="\ud800\x1b[2J" + "x" * 1000)
    arrived = PairingRequest.from_json(json.loads(json.dumps(request.to_json())))
    pair.accept(arrived)
    assert pair.granted[0].name.startswith("\\ud800\\x1b[2J")
    assert len(pair.granted[0].name) == 64


@pytest.mark.parametrize("slots", [["../x"], ["a/b"], [""]])
def test_a_code_is_for_slots_not_paths(pair: Pair, slots: list[str]) -> None:
    with pytest.raises(UsageError):
        pair.desk.issue(slots, 0)


def test_a_code_is_for_some_slots(pair: Pair) -> None:
    for slots in ([], [f"s{n}" for n in range(257)]):
        with pytest.raises(ValueError, match="1 to 256"):
            pair.desk.issue(slots, 0)
    with pytest.raises(ValueError, match="instead of 32"):
        pair.request(nonce=b"short")


def _variants(message: dict[str, object]) -> list[object]:
    strange: list[object] = [None, 5, True, [], {}, "", "=", "A" * 100_000, "é", ["x" * 1000], [5], ["../x"]]
    variants: list[object] = [None, [], "x", {}, {**message, "more": 1}]
    variants += [{k: v for k, v in message.items() if k != gone} for gone in message]
    variants += [{**message, key: value} for key, value in itertools.product(message, strange)]
    return variants


def _read(kind: type[PairingRequest | PairingReply], value: object) -> PairingRequest | PairingReply | None:
    """The message, or None for a protocol error; anything else is a bug."""
    try:
        return kind.from_json(value)
    except ProtocolError:
        return None


def test_malformed_messages_are_protocol_errors_and_cost_no_try(pair: Pair) -> None:
    request = pair.request()
    read = [_read(PairingRequest, value) for value in _variants(request.to_json())]
    assert read.count(None) > 50
    for arrived in filter(None, read):  # an odd name, or an empty certificate or signature, has a message's form
        assert isinstance(arrived, PairingRequest)
        assert (arrived.nonce, arrived.mac) == (request.nonce, request.mac)
    reply = pair.accept(request)
    assert [_read(PairingReply, value) for value in _variants(reply.to_json())].count(None) > 30


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=50),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=5),
    max_leaves=12,
)


@given(_json, st.sampled_from(["certificate", "nonce", "name", "mac", "signature", "slots", ""]), _json)
def test_any_json_gives_a_message_or_a_protocol_error(value: object, key: str, inner: object) -> None:
    form = {"certificate": "", "nonce": "A" * 43 + "=", "name": "", "mac": "A" * 43 + "=", "signature": ""}
    for candidate in (value, {**form, key: inner} if key else form):
        for kind in (PairingRequest, PairingReply):
            message = _read(kind, candidate)
            assert message is None or kind.from_json(message.to_json()) == message

from __future__ import annotations

import base64
import binascii
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blocksync.errors import TrustError
from blocksync.trust.codes import PairingCode

CODE = PairingCode(pin=bytes(range(16)), secret=bytes(range(200, 211)))
ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def test_a_code_is_eight_groups_and_comes_back() -> None:
    assert [len(group) for group in CODE.text.split("-")] == [6] * 8
    assert CODE.text.startswith("P4")
    assert PairingCode.parse(CODE.text) == CODE


def test_the_text_of_version_1_stays_what_it_is() -> None:
    assert CODE.text == "P40020-G30G2G-C1R814-50P30D-1R7WHJ-EASF6C-VKPFT3-8X4KJ9"
    number = 0
    for character in CODE.text.replace("-", ""):
        number = number * 32 + ALPHABET.index(character)
    data = number.to_bytes(30, "big")
    assert data[:28] == b"\xb1" + CODE.pin + CODE.secret
    assert binascii.crc_hqx(data, 0xFFFF) == 0  # a CRC over itself


@given(st.binary(min_size=16, max_size=16), st.binary(min_size=11, max_size=11))
def test_every_code_comes_back(pin: bytes, secret: bytes) -> None:
    code = PairingCode(pin=pin, secret=secret)
    assert PairingCode.parse(code.text) == code


def test_people_may_write_it_their_way() -> None:
    text = CODE.text
    for written in (
        text.lower(),
        text.replace("-", ""),
        text.replace("-", " "),
        f"\n\t {text}\r\n",
        text.replace("0", "O").replace("1", "I"),
        text.replace("0", "o").replace("1", "l"),
    ):
        assert PairingCode.parse(written) == CODE


def test_every_single_typo_and_every_swap_of_neighbours_is_found() -> None:
    text = CODE.text.replace("-", "")
    wrong = {text[:at] + other + text[at + 1 :] for at in range(48) for other in ALPHABET if other != text[at]}
    wrong |= {text[:at] + text[at + 1] + text[at] + text[at + 2 :] for at in range(47)} - {text}
    assert len(wrong) > 48 * 31
    for typo in wrong:
        with pytest.raises(TrustError, match="mistyped"):
            PairingCode.parse(typo)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has 0 characters"),
        (CODE.text[:-1], "has 47 characters"),
        (CODE.text + "0", "has 49 characters"),
        (CODE.text.replace("P", "U"), "no 'U'"),
        (CODE.text.replace("P", "\x1b"), "no '.x1b'"),
        (CODE.text.replace("4", "\uff14"), "no '\uff14'"),
        ("0" * 257, "too long"),
        ("0" * 10_000_000, "too long"),
    ],
)
def test_what_is_no_code_is_told_apart(text: str, message: str) -> None:
    with pytest.raises(TrustError, match=message):
        PairingCode.parse(text)


def test_another_version_is_told_apart_from_a_typo() -> None:
    body = bytes([0xB2]) + CODE.pin + CODE.secret
    data = body + binascii.crc_hqx(body, 0xFFFF).to_bytes(2, "big")
    table = str.maketrans("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", ALPHABET)
    with pytest.raises(TrustError, match="another version"):
        PairingCode.parse(base64.b32encode(data).decode().translate(table))


@given(st.one_of(st.text(max_size=300), st.text(ALPHABET + "-", min_size=48, max_size=56)))
def test_any_text_gives_a_code_or_a_trust_error(text: str) -> None:
    try:
        code = PairingCode.parse(text)
    except TrustError:
        return
    assert PairingCode.parse(code.text) == code


def test_secrets_are_fresh_and_stay_out_of_repr_and_errors() -> None:
    codes = [PairingCode.make(bytes(32)) for _ in range(50)]
    assert not any(a.secret == b.secret for a, b in itertools.combinations(codes, 2))
    assert repr(CODE.secret) not in repr(CODE)
    assert "secret" not in repr(CODE)
    with pytest.raises(TrustError) as caught:
        PairingCode.parse(CODE.text[:-1] + "Z")
    assert CODE.text[7:13] not in str(caught.value) + caught.value.remedy


def test_a_code_names_the_receiver_whose_fingerprint_it_begins() -> None:
    assert CODE.names(CODE.pin + bytes(16))
    assert not CODE.names(CODE.pin[:-1] + bytes(17))
    assert not CODE.names(CODE.pin)


def test_wrong_sizes_are_a_bug_of_the_caller() -> None:
    with pytest.raises(ValueError, match="pin of 16"):
        PairingCode(pin=b"", secret=CODE.secret)
    with pytest.raises(ValueError, match="secret of 11"):
        PairingCode(pin=CODE.pin, secret=b"")

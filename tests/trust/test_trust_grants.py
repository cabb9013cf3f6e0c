from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from blocksync.errors import StateDamagedError, TrustError, UsageError
from blocksync.trust import grants as module
from blocksync.trust.grants import Grant, Grants
from blocksync.trust.identity import fingerprint_of


def grant(certificate: bytes = b"a", name: str = "db1", *slots: str, since: int = 7) -> Grant:
    return Grant.make(certificate, name, slots or ("root",), since)


@pytest.fixture
def grants(private: Path) -> Grants:
    return Grants(private)


def test_nothing_is_allowed_before_pairing(grants: Grants) -> None:
    assert grants.peers() == ()
    assert not grants.allowed(bytes(32), "root")
    assert not grants.allowed(None, "root")
    with pytest.raises(TrustError, match="does not know"):
        grants.require(bytes(32), "root")
    with pytest.raises(TrustError, match="does not know"):
        grants.require(None, "root")


def test_a_grant_is_for_its_peer_and_its_slots(grants: Grants, private: Path) -> None:
    grants.add(grant(b"a", "db1", "root", "data"))
    first, other = fingerprint_of(b"a"), fingerprint_of(b"b")
    assert grants.allowed(first, "root")
    assert grants.allowed(first, "data")
    assert not grants.allowed(first, "home")
    assert not grants.allowed(other, "root")
    assert not grants.allowed(first[:16], "root")
    assert grants.require(first, "root").name == "db1"
    with pytest.raises(TrustError, match=r"no grant for slot 'ho\\x1bme'"):
        grants.require(first, "ho\x1bme")
    assert grants.certificates() == (b"a",)
    assert Grants(private).peers() == grants.peers() == (grant(b"a", "db1", "data", "root"),)


def test_pairing_again_adds_slots_and_renames(grants: Grants) -> None:
    grants.add(grant(b"a", "old", "root", since=1))
    grants.add(grant(b"b", "other", "root", since=2))
    grants.add(grant(b"a", "new", "data", since=3))
    assert grants.peers()[0] == grant(b"a", "new", "data", "root", since=1)
    assert len(grants.peers()) == 2


def test_one_more_slot_for_a_known_peer(grants: Grants) -> None:
    with pytest.raises(TrustError, match="not paired"):
        grants.allow(fingerprint_of(b"a"), "data")
    grants.add(grant(b"a", "db1", "root"))
    grants.allow(fingerprint_of(b"a"), "data")
    assert grants.peers() == (grant(b"a", "db1", "data", "root"),)
    with pytest.raises(UsageError):
        grants.allow(fingerprint_of(b"a"), "../x")


def test_a_peer_s_name_is_harmless(grants: Grants) -> None:
    grants.add(grant(b"a", "\x1b]0;owned\x07" + "x" * 500))
    name = grants.peers()[0].name
    assert name.isprintable()
    assert len(name) == 64
    assert grant(b"a", " \u00a0 ").name == "unnamed"


def test_revoke_by_name_prefix_or_slot(grants: Grants) -> None:
    grants.add(grant(b"a", "db1", "root", "data"))
    grants.add(grant(b"b", "db2"))
    digits = fingerprint_of(b"b").hex()
    assert grants.revoke("db1", "data").slots == ("data",)
    assert not grants.allowed(fingerprint_of(b"a"), "data")
    assert grants.allowed(fingerprint_of(b"a"), "root")
    with pytest.raises(TrustError, match="no grant for slot"):
        grants.revoke("db1", "data")
    assert grants.revoke("db1", "root").name == "db1"  # the last slot: the peer goes
    assert grants.revoke(digits[:8].upper()).name == "db2"
    assert grants.peers() == ()
    for who in ("db1", digits, "", "\x1b"):
        with pytest.raises(TrustError, match="no peer is called"):
            grants.revoke(who)


def test_too_short_a_prefix_revokes_nothing(grants: Grants) -> None:
    grants.add(grant(b"a", "db1"))
    with pytest.raises(TrustError, match="no peer"):
        grants.revoke(fingerprint_of(b"a").hex()[:3])


def test_an_ambiguous_name_revokes_nothing_and_says_whom_it_could_mean(grants: Grants) -> None:
    digits = fingerprint_of(b"a").hex()
    grants.add(grant(b"a", "db1"))
    grants.add(grant(b"b", "db1"))
    grants.add(grant(b"c", digits[:8]))  # chose a name that looks like another's fingerprint
    for who in ("db1", digits[:8]):
        with pytest.raises(TrustError, match="means 2 peers") as caught:
            grants.revoke(who)
        assert digits[:16] in str(caught.value)
    assert len(grants.peers()) == 3
    assert grants.revoke(digits[:9]).certificate == b"a"


def test_revoking_in_another_process_shows_at_once(grants: Grants, private: Path) -> None:
    grants.add(grant(b"a", "db1"))
    assert grants.allowed(fingerprint_of(b"a"), "root")
    program = (
        "import sys, pathlib; from blocksync.trust.grants import Grants\n"
        "Grants(pathlib.Path(sys.argv[1])).revoke('db1')"
    )
    subprocess.run([sys.executable, "-c", program, private], check=True, timeout=60)
    assert not grants.allowed(fingerprint_of(b"a"), "root")
    assert grants.certificates() == ()


def test_grants_of_many_threads_are_all_kept(private: Path) -> None:
    def add(number: int) -> None:
        Grants(private).add(grant(b"%d" % number, f"n{number}"))

    threads = [threading.Thread(target=add, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(Grants(private).peers()) == 12


def test_bounds(grants: Grants, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PEERS_MAX", 1)
    monkeypatch.setattr(module, "SLOTS_MAX", 2)
    grants.add(grant(b"a", "db1", "x", "y"))
    with pytest.raises(TrustError, match="at most 1 peers"):
        grants.add(grant(b"b"))
    with pytest.raises(TrustError, match="2 slots"):
        grants.allow(fingerprint_of(b"a"), "z")
    assert grant(since=-5).since == 0
    assert grant(since=10**30).since == module.SINCE_SECONDS_MAX


def test_a_thousand_peers_with_large_certificates_can_be_read_again(grants: Grants) -> None:
    # Saved in one go: what is asked here is that the largest allowed store fits its own limit.
    peers = [grant(bytes(1500) + number.to_bytes(4, "big"), "n" * 64) for number in range(module.PEERS_MAX)]
    with grants._store.changing():
        grants._store.save(peers)
    assert len(grants.certificates()) == module.PEERS_MAX


def _content(private: Path) -> dict:
    return json.loads((private / "grants.json").read_text())


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("fingerprint", "00" * 32),
        ("fingerprint", fingerprint_of(b"a").hex().upper()),
        ("fingerprint", fingerprint_of(b"a").hex()[:62] + " 0"),
        ("fingerprint", "zz"),
        ("certificate", "YQ"),
        ("certificate", "YR=="),  # the same byte, not its canonical form
        ("certificate", "ü"),
        ("certificate", 5),
        ("certificate", "A" * 100_000),
        ("name", None),
        ("name", "x" * 65),
        ("slots", "root"),
        ("slots", ["../etc"]),
        ("slots", [5]),
        ("slots", ["x" * 65]),
        ("slots", ["x"] * 257),
        ("since", -1),
        ("since", True),
        ("since", 1.5),
        ("since", 10**20),
        ("more", 1),
    ],
)
def test_a_damaged_entry_is_refused_and_grants_nothing(
    grants: Grants, private: Path, member: str, value: object
) -> None:
    grants.add(grant(b"a"))
    content = _content(private)
    content["peers"][0][member] = value
    (private / "grants.json").write_text(json.dumps(content))
    for ask in (grants.peers, grants.certificates, lambda: grants.allowed(fingerprint_of(b"a"), "root")):
        with pytest.raises(StateDamagedError):
            ask()
    with pytest.raises(StateDamagedError):
        grants.add(grant(b"b"))  # never overwrites what it cannot read
    assert _content(private) == content


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)
_members = {"fingerprint": _json, "certificate": _json, "name": _json, "slots": _json, "since": _json}


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.one_of(
        st.binary(max_size=200),
        st.one_of(
            _json,
            st.fixed_dictionaries({"version": st.just(1), "peers": st.lists(st.fixed_dictionaries(_members))}),
        )
        .map(json.dumps)
        .map(str.encode),
    )
)
def test_any_file_gives_grants_or_a_state_error(private: Path, data: bytes) -> None:
    path = private / "grants.json"
    path.write_bytes(data)
    path.chmod(0o600)
    try:
        peers = Grants(private).peers()
    except StateDamagedError:
        return
    assert all(isinstance(peer, Grant) for peer in peers)

from __future__ import annotations

import json
from pathlib import Path

import pytest

from blocksync.errors import StateDamagedError, UsageError
from blocksync.trust.pins import Pin, Pins, address_of


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("db1", "db1:8080"),
        ("DB1.Example.ORG.", "db1.example.org:8080"),
        ("192.0.2.7", "192.0.2.7:8080"),
        ("2001:DB8::7", "[2001:db8::7]:8080"),
        ("[2001:db8::7]", "[2001:db8::7]:8080"),
        ("fe80::1%eth0", "[fe80::1%eth0]:8080"),
    ],
)
def test_one_receiver_has_one_address(host: str, address: str) -> None:
    assert address_of(host, 8080) == address


@pytest.mark.parametrize(
    ("host", "port"),
    [
        ("", 1),
        (" ", 1),
        ("a b", 1),
        ("a/b", 1),
        ("u@h", 1),
        ("a\n", 0),
        ("a\x1b", 1),
        ("x" * 256, 1),
        ("a", 0),
        ("a", 65536),
    ],
)
def test_no_addresses(host: str, port: int) -> None:
    with pytest.raises(UsageError):
        address_of(host, port)


def test_pinned_found_replaced_forgotten(private: Path) -> None:
    pins = Pins(private)
    assert pins.find("db1", 8080) is None
    made = pins.add("DB1", 8080, fingerprint=bytes(32), name="db\x1b1", since=5)
    assert made == Pin(address="db1:8080", fingerprint=bytes(32), name="db\\x1b1", since=5)
    assert Pins(private).find("db1.", 8080) == made
    assert pins.find("db1", 8081) is None
    pins.add("db2", 8080, fingerprint=bytes(32), name="", since=-1)
    again = pins.add("db1", 8080, fingerprint=b"\x01" * 32, name="db1", since=6)
    assert pins.find("db1", 8080) == again
    assert [pin.address for pin in pins.all()] == ["db2:8080", "db1:8080"]
    assert pins.all()[0].name == "unnamed"
    assert pins.forget("db1", 8080)
    assert not pins.forget("db1", 8080)
    assert pins.find("db1", 8080) is None


def test_half_a_fingerprint_is_never_pinned(private: Path) -> None:
    with pytest.raises(ValueError, match="whole"):
        Pins(private).add("db1", 8080, fingerprint=bytes(16), name="x", since=0)


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("fingerprint", "00"),
        ("fingerprint", 5),
        ("address", "x" * 301),
        ("name", []),
        ("since", -1),
        ("since", "1"),
    ],
)
def test_a_damaged_file_never_means_unpinned(private: Path, member: str, value: object) -> None:
    pins = Pins(private)
    pins.add("db1", 8080, fingerprint=bytes(32), name="x", since=0)
    path = private / "receivers.json"
    content = json.loads(path.read_text())
    content["receivers"][0][member] = value
    path.write_text(json.dumps(content))
    with pytest.raises(StateDamagedError):
        pins.find("db1", 8080)

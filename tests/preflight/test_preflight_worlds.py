"""What the world does to a path and to a clock, done for real: between two network namespaces, and by faketime."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MIB = 1 << 20
ADDRESS = "10.213.79.1"
LIMIT_SECONDS = 25
# More than a year, so that certificates and dates are put to the test.
AHEAD = "+400d"


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@contextlib.contextmanager
def two_machines() -> Iterator[tuple[str, str]]:
    """The receiver's namespace and the sender's, joined by a veth pair ``v0``, ``v1``."""
    there, here = (f"bsw{os.getpid() % 100000}{end}" for end in "rs")
    try:
        for name in (there, here):
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        ip("-n", there, "link", "add", "v0", "type", "veth", "peer", "name", "v1", "netns", here)
        for name, device, address in ((there, "v0", ADDRESS), (here, "v1", "10.213.79.2")):
            ip("-n", name, "addr", "add", f"{address}/24", "dev", device)
            ip("-n", name, "link", "set", device, "up")
        yield there, here
    finally:
        for name in (there, here):
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


@contextlib.contextmanager
def offering(folder: Path, *before: str) -> Iterator[None]:
    """A receiver with one slot of 8 MiB, started by the words ``before``."""
    words = ("recv", "--target", f"d={folder / 'target.img'}", "--create", str(8 * MIB), "--json")
    words += ("--code-file", str(folder / "code"), "--state-dir", str(folder / "r"))
    with subprocess.Popen(
        [*before, sys.executable, "-m", "blocksync", *words], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert json.loads(process.stdout.readline())["type"] == "listening"
            yield
        finally:
            process.terminate()
            process.communicate(timeout=LIMIT_SECONDS)


def said(folder: Path, *words: str) -> tuple[int, dict[str, Any]]:
    """Exit code and result of a sender's command."""
    name, *rest = words[words.index("blocksync") + 1 :]
    done = subprocess.run(
        [*words[: words.index("blocksync")], sys.executable, "-m", "blocksync", name, str(folder / "source.img"), *rest,
         "--to", ADDRESS, "--state-dir", str(folder / "s"), "--json"],
        capture_output=True, text=True, check=False, timeout=LIMIT_SECONDS,
    )  # fmt: skip
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return done.returncode, result


def _faketime() -> Path:
    """Its library: the command of the same name would stand between us and the receiver."""
    return next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))


def codes(result: dict[str, Any]) -> dict[str, str]:
    return {finding["code"]: finding["what"] for finding in result["findings"]}


def test_a_path_that_swallows_large_packets_is_told_from_one_that_is_fine(tmp_path: Path) -> None:
    """A black hole: a link of 1280 bytes of which no ICMP tells, while the receiver's MSS promises 1500."""
    (tmp_path / "source.img").write_bytes(b"block" * MIB + bytes(3 * MIB))
    with two_machines() as (there, here):
        inside = ("ip", "netns", "exec")
        with offering(tmp_path, *inside, there):
            code, _ = said(tmp_path, *inside, here, "blocksync", "send", "--code-file", str(tmp_path / "code"))
            assert code == 0
            code, fine = said(tmp_path, *inside, here, "blocksync", "check")
            assert code == 0
            assert codes(fine)["BS2013"].endswith("1500 bytes")
            # One segment a packet, so that the link sees the sizes that a real one would.
            ip("-n", here, "link", "set", "dev", "v1", "gso_max_segs", "1")
            ip("-n", there, "link", "set", "v0", "mtu", "1280")
            ip("-n", there, "route", "replace", "10.213.79.0/24", "dev", "v0", "advmss", "1460")
            code, hole = said(tmp_path, *inside, here, "blocksync", "check")
    assert code == 8
    assert "BS2012" in codes(hole)
    assert "BS2017" not in codes(hole)


def test_clocks_more_than_a_year_apart_are_said_and_break_nothing(tmp_path: Path) -> None:
    """Pairing, a full pass, an incremental one and verify, with the receiver's clock 400 days ahead of the sender's."""
    source = tmp_path / "source.img"
    source.write_bytes(b"block" * MIB + bytes(3 * MIB))
    with two_machines() as (there, here):
        inside = ("ip", "netns", "exec")
        with offering(
            tmp_path,
            *inside,
            there,
            "env",
            f"LD_PRELOAD={_faketime()}",
            f"FAKETIME={AHEAD}",
            "FAKETIME_DONT_FAKE_MONOTONIC=1",
            "DONT_FAKE_MONOTONIC=1",
        ):
            sender = (*inside, here, "blocksync")
            assert said(tmp_path, *sender, "send", "--code-file", str(tmp_path / "code"))[0] == 0
            with source.open("r+b") as file:
                file.write(b"changed")
            code, second = said(tmp_path, *sender, "send")
            assert (code, second["kind"]) == (0, "incremental")
            assert said(tmp_path, *sender, "verify")[0] == 0
            code, found = said(tmp_path, *sender, "check")
    assert code == 0
    assert "ahead of this one" in codes(found)["BS2014"]
    assert abs(int(codes(found)["BS2014"].split()[4]) - 400 * 86400) < 60
    assert (tmp_path / "target.img").read_bytes() == source.read_bytes()

"""What can be watched of a receiver, by whom, and that a real browser shows it."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import shutil
import struct
import subprocess
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from blocksync.control.watching import SLOT_METRICS, is_healthy, is_local, metrics
from blocksync.engine.serving import Serving
from blocksync.engine.statedir import prepare
from blocksync.engine.view import parse_status_address
from blocksync.errors import UsageError
from blocksync.options import ReceiveOptions, TargetSpec
from blocksync.trust.identity import Identity
from blocksync.trust.tls import client_context
from tests.serving import MIB, Receiver


class Watched(Receiver):
    """As the usual receiver, with a status page on loopback."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        targets = tuple(
            TargetSpec(path=str(folder / f"{name}.img"), slot=name, create_size=4 * MIB) for name in ("a", "b")
        )
        options = ReceiveOptions(
            targets=targets, listen="127.0.0.1", control_port=0, data_port=0, status_listen="127.0.0.1:0"
        )
        self.state = prepare(folder / "receiver")
        self.serving = Serving(options, self.state)
        self.listening = self.serving.listening()
        self.to = f"127.0.0.1:{self.listening.control_port}"


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("watched")
    folder.chmod(0o700)
    there = Watched(folder)
    try:
        with contextlib.closing(there.reach(code=there.listening.code)):
            yield there
    finally:
        there.serving.close()


def get(port: int, path: str, host: str = "127.0.0.1") -> tuple[int, dict[str, str], bytes]:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        connection.request("GET", path, headers={"Host": host})
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()


def view(**slot: object) -> dict[str, Any]:
    fields = {field: 0 for _, _, field in SLOT_METRICS.values()}
    return {"version": "1", "started": 5.0, "memory": 1, "slots": [{"slot": "a", **fields, **slot}]}


def test_prometheus_reads_the_metrics(watched: Watched) -> None:
    status, headers, body = get(watched.listening.status_port, "/metrics")
    assert (status, headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    families = {family.name: family for family in text_string_to_metric_families(body.decode())}
    named = {name.removesuffix("_total") for name in SLOT_METRICS}
    assert set(families) == named | {
        "blocksync_info", "blocksync_start_time_seconds", "process_resident_memory_bytes",
    }  # fmt: skip
    sizes = {sample.labels["slot"]: sample.value for sample in families["blocksync_slot_size_bytes"].samples}
    assert sizes == {"a": 4 * MIB, "b": 4 * MIB}
    assert families["blocksync_slot_passes"].type == "counter"
    assert all(family.documentation for family in families.values())


def test_names_are_escaped_as_the_format_wants() -> None:
    odd = 'a"b\\c\nd'
    families = text_string_to_metric_families(metrics(view(slot=odd, size=7)))
    (sample,) = next(each for each in families if each.name == "blocksync_slot_size_bytes").samples
    assert (sample.labels["slot"], sample.value) == (odd, 7)


def test_health_is_that_of_every_slot(watched: Watched) -> None:
    assert is_healthy(view())
    assert not is_healthy(view(failed=True))
    assert get(watched.listening.status_port, "/healthz")[::2] == (200, b'{"healthy": true}')
    slot = watched.serving._receiver.slots["b"]
    slot._failed = True
    try:
        assert get(watched.listening.status_port, "/healthz")[::2] == (503, b'{"healthy": false}')
    finally:
        slot._failed = False


def test_only_this_machine_may_look_in_the_clear(watched: Watched) -> None:
    port = watched.listening.status_port
    for path in ("/", "/status.json", "/metrics", "/healthz"):
        assert get(port, path, "rebound.example.org")[0] == 403
        for host in ("localhost", f"127.0.0.1:{port}", "[::1]:80"):
            assert get(port, path, host)[0] == 200
    assert not is_local("127.0.0.1.example.org")
    # Nothing else is served there, and nothing can be changed.
    assert get(port, "/v1/hello")[0] == 404
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port)) as connection:
        connection.request("POST", "/status.json", b"{}")
        assert connection.getresponse().status == 405


@pytest.mark.parametrize(
    "text", ["0.0.0.0:80", "10.0.0.1:80", "host:80", "127.0.0.1", "127.0.0.1:x", ":80", "127.0.0.1:70000"]
)
def test_other_addresses_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="no loopback address"):
        parse_status_address(text)


def test_addresses_that_are_taken() -> None:
    assert parse_status_address("") is None
    assert parse_status_address("localhost:9") == ("127.0.0.1", 9)
    assert parse_status_address("[::1]:9") == ("::1", 9)


def test_peers_see_their_own_slots_and_strangers_nothing(watched: Watched) -> None:
    def ask(identity: Identity | None, path: str) -> tuple[int, bytes]:
        context = client_context(identity, pin=bytes.fromhex(watched.listening.fingerprint))
        connection = http.client.HTTPSConnection("127.0.0.1", watched.listening.control_port, context=context)
        with contextlib.closing(connection):
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()

    peer = Identity.load_or_create(watched.folder / "sender")
    grants = watched.serving._grants
    known = grants.find(peer.fingerprint)
    assert known is not None
    status, body = ask(peer, "/status.json")
    said = json.loads(body)
    assert status == 200
    assert [slot["slot"] for slot in said["slots"]] == list(known.slots)
    assert said["memory"] == 0
    for path in ("/", "/status.json", "/metrics", "/healthz"):
        assert ask(peer, path)[0] == 200
        assert ask(None, path)[0] == 403


def test_the_page_needs_nothing_from_outside(watched: Watched) -> None:
    _, headers, body = get(watched.listening.status_port, "/")
    assert not re.search(rb"(?:src|href)\s*=|https?://|@import|url\(", body)
    policy = headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")
    assert "connect-src 'self'" in policy


# -- in a browser ---------------------------------------------------------------------------------------------------


def chromium(folder: Path, *words: str) -> str:
    program = shutil.which("chromium")
    assert program, "scripts/system-packages installs chromium"
    done = subprocess.run(
        [program, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={folder}/p",
         "--virtual-time-budget=3000", "--window-size=900,600", *words],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return done.stdout


def pixels(picture: bytes) -> list[bytes]:
    """RGB of the upper left and of some other pixels of a PNG without interlacing (enough to tell dark from light)."""
    width, height, depth, colour = struct.unpack(">IIBB", picture[16:26])
    assert (depth, colour) in ((8, 2), (8, 6))
    step = 3 if colour == 2 else 4
    data, at = b"", 8
    while at < len(picture):
        (length,) = struct.unpack(">I", picture[at : at + 4])
        if picture[at + 4 : at + 8] == b"IDAT":
            data += picture[at + 8 : at + 8 + length]
        at += 12 + length
    row = zlib.decompress(data)[: 1 + width * step]
    assert height
    # Whatever the row's filter, its first pixel stands as it is.
    return [row[1 : 1 + 3]]


def test_a_browser_shows_the_slots_light_and_dark(watched: Watched, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{watched.listening.status_port}/"
    shown = chromium(tmp_path, "--dump-dom", url)
    assert len(re.findall(r"<article>", shown)) == 2
    assert "4.00 MiB" in shown
    assert "empty" in shown
    assert 'id="gone" role="status"></span>' in shown
    grounds = {}
    for name, dark in (("light", ()), ("dark", ("--blink-settings=preferredColorScheme=0",))):
        picture = tmp_path / f"{name}.png"
        chromium(tmp_path, *dark, f"--screenshot={picture}", url)
        grounds[name] = pixels(picture.read_bytes())[0]
    assert min(grounds["light"]) > 240
    assert max(grounds["dark"]) < 40

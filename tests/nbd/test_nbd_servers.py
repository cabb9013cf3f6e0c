"""Exports of real servers: what they tell, how they fail, TLS, dirty bitmaps, images behind a qemu-nbd of ours."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from blocksync import api
from blocksync.errors import (
    NbdSourceError,
    NbdSourceLostError,
    NbdTargetError,
    NbdTargetLostError,
    OutOfSpaceError,
    SourceError,
    TargetError,
    TargetRefusedError,
    TargetSyncError,
    UnreadableError,
)
from blocksync.options import CopyOptions
from blocksync.sources import open_source
from blocksync.targets import open_target
from tests.devices import image, run
from tests.nbd.servers import free_port, nbdkit, qemu_nbd, serving

MIB = 1 << 20


def read(disk: object, offset: int, length: int) -> bytes:
    buffer = bytearray(length)
    disk.read_into(offset, memoryview(buffer))  # type: ignore[attr-defined]
    return bytes(buffer)


def test_a_read_error_of_the_server_is_told_with_its_place(tmp_path: Path) -> None:
    with nbdkit(tmp_path, "--filter=error", "memory", "size=4M", "error-pread=EIO", "error-pread-rate=100%") as at:
        with open_source(at) as source, pytest.raises(UnreadableError) as told:
            read(source, MIB, 4096)
        assert "offset 1048576" in told.value.message
        assert "input/output error" in told.value.message


def test_what_a_server_cannot_read_is_left_out_when_asked(tmp_path: Path) -> None:
    # One sector of 4 MiB fails: any read that touches it.
    bad = 2 * MIB + 1024
    pread = f'if [ $4 -lt {bad + 512} ] && [ $(($4 + $3)) -gt {bad} ]; then echo "EIO bad sector" >&2; exit 1; fi; '
    pread += "head -c $3 /dev/zero | tr '\\0' x"
    target = tmp_path / "target.img"
    with nbdkit(tmp_path, "eval", "get_size=echo 4194304", f"pread={pread}") as at:
        options = CopyOptions(create=True, rescue=True, state_dir=tmp_path / "state")
        result = api.copy(at, str(target), options)
    assert result.unreadable == ((bad, 512),)
    assert target.read_bytes() == b"x" * bad + bytes(512) + b"x" * (4 * MIB - bad - 512)


def test_after_an_error_the_same_connection_goes_on(tmp_path: Path) -> None:
    trigger = tmp_path / "trigger"
    words = ["--filter=error", "pattern", "size=4M", "error-rate=100%", f"error-file={trigger}"]
    with nbdkit(tmp_path, *words) as at, open_source(at) as source:
        before = read(source, 0, MIB)
        trigger.touch()
        with pytest.raises(UnreadableError):
            read(source, 0, MIB)
        trigger.unlink()
        assert read(source, 0, MIB) == before


def test_several_requests_are_under_way_at_once(tmp_path: Path) -> None:
    # Eight pieces a chunk: one after the other they would wait 4 s for the filter, at once half a second.
    with (
        nbdkit(tmp_path, "--filter=delay", "pattern", "size=4M", "delay-read=500ms") as at,
        open_source(at) as source,
    ):
        began = time.monotonic()
        read(source, 0, MIB)
        assert time.monotonic() - began < 3


def test_readahead_and_delay_do_not_change_what_is_read(tmp_path: Path) -> None:
    content = random.Random(7).randbytes(4 * MIB)
    disk = image(tmp_path / "disk.img", 4 * MIB, content)
    words = ["--filter=readahead", "--filter=delay", "file", disk, "delay-read=1ms"]
    with nbdkit(tmp_path, *words) as at, open_source(at) as source:
        assert b"".join(read(source, offset, MIB) for offset in range(0, 4 * MIB, MIB)) == content


def test_write_and_flush_errors_are_the_targets(tmp_path: Path) -> None:
    words = ["--filter=error", "memory", "size=4M", "error-pwrite=ENOSPC", "error-pwrite-rate=100%"]
    with nbdkit(tmp_path, *words) as at, open_target(at) as target, pytest.raises(OutOfSpaceError):
        target.write(0, memoryview(b"x" * 4096))
    words = ["--filter=error", "memory", "size=4M", "error-pwrite=EIO", "error-pwrite-rate=100%"]
    with nbdkit(tmp_path, *words) as at, open_target(at) as target, pytest.raises(NbdTargetError):
        target.write(0, memoryview(b"x" * 4096))


def test_a_server_that_cannot_zero_is_written_to(tmp_path: Path) -> None:
    words = ["--filter=error", "memory", "size=4M", "error-zero=EINVAL", "error-zero-rate=100%"]
    with nbdkit(tmp_path, *words) as at, open_target(at) as target:
        target.write(0, memoryview(b"x" * MIB))
        target.zero(4096, 8192)
        assert read(target, 0, 16384) == b"x" * 4096 + bytes(8192) + b"x" * 4096


def test_a_server_that_went_away_is_lost_and_found_again(tmp_path: Path) -> None:
    content = random.Random(8).randbytes(MIB)
    disk = image(tmp_path / "disk.img", MIB, content)
    where = tmp_path / "it.sock"
    words: list[str | Path] = ["nbdkit", "--foreground", "--unix", where, "file", disk]
    with serving(words, where, abruptly=True):
        source = open_source(f"nbd+unix:///?socket={where}")
    where.unlink(missing_ok=True)
    with source:
        with pytest.raises(NbdSourceLostError) as told:
            read(source, 0, 4096)
        assert told.value.retryable
        with serving(words, where, abruptly=True):
            assert read(source, 0, MIB) == content


def test_an_export_that_changed_its_size_meanwhile_is_another_one(tmp_path: Path) -> None:
    where = tmp_path / "it.sock"
    with serving(["nbdkit", "--foreground", "--unix", where, "memory", "size=1M"], where, abruptly=True):
        source = open_source(f"nbd+unix:///?socket={where}")
    where.unlink(missing_ok=True)
    with source, serving(["nbdkit", "--foreground", "--unix", where, "memory", "size=2M"], where):
        with pytest.raises(NbdSourceLostError):
            read(source, 0, 4096)
        with pytest.raises(SourceError, match="another one"):
            read(source, 0, 4096)


def test_a_lost_connection_makes_the_next_sync_worth_nothing(tmp_path: Path) -> None:
    where = tmp_path / "it.sock"
    words: list[str | Path] = ["nbdkit", "--foreground", "--unix", where, "memory", "size=4M"]
    with serving(words, where, abruptly=True):
        target = open_target(f"nbd+unix:///?socket={where}")
        target.write(0, memoryview(b"x" * 4096))
    where.unlink(missing_ok=True)
    with target, serving(words, where, abruptly=True):
        with pytest.raises(NbdTargetLostError):
            target.write(4096, memoryview(b"x" * 4096))
        # The server answers again, and its memory has forgotten the first write.
        target.write(4096, memoryview(b"x" * 4096))
        with pytest.raises(TargetSyncError):
            target.sync()
        target.reopen()
        target.sync()


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("nbd://127.0.0.1:1/x", "refused"),
        ("nbd+unix:///x?socket=/nonexistent/it", "No such file"),
    ],
)
def test_where_no_server_is_the_address_is_told(address: str, says: str) -> None:
    with pytest.raises(NbdSourceLostError, match=says) as told:
        open_source(address)
    assert told.value.remedy


def test_an_export_that_is_not_there_and_one_that_is_empty(tmp_path: Path) -> None:
    disk = image(tmp_path / "disk.img", MIB)
    with qemu_nbd(tmp_path, disk, "--export-name", "right") as at:
        with pytest.raises(NbdSourceError, match="no export wrong"):
            open_source(at.replace("///", "///wrong"))
        open_source(at.replace("///", "///right")).close()
    with nbdkit(tmp_path, "memory", "size=0") as at, pytest.raises(SourceError, match="empty"):
        open_source(at)


def test_a_target_that_is_read_only_or_holds_something_is_refused(tmp_path: Path) -> None:
    disk = image(tmp_path / "disk.img", MIB, b"something")
    with qemu_nbd(tmp_path, disk, "--read-only") as at, pytest.raises(TargetRefusedError, match="read-only"):
        open_target(at)
    with nbdkit(tmp_path, "file", disk) as at:
        with pytest.raises(TargetRefusedError, match="not empty"):
            open_target(at)
        open_target(at, overwrite=True).close()
    with nbdkit(tmp_path, "--filter=noextents", "memory", "size=8M") as at:
        open_target(at).close()  # nothing is told of it, and samples of it are zeros


def test_a_copy_from_an_export_to_an_export(tmp_path: Path) -> None:
    disk, other = image(tmp_path / "disk.img", 8 * MIB), image(tmp_path / "other.img", 8 * MIB)
    with disk.open("r+b") as file:
        file.seek(3 * MIB)
        file.write(random.Random(9).randbytes(2 * MIB))
    with nbdkit(tmp_path, "file", disk) as source, qemu_nbd(tmp_path, other, "--shared=8") as target:
        result = api.copy(source, target, CopyOptions(state_dir=tmp_path / "state"))
        assert result.changed == 2 * MIB
        assert result.read < 3 * MIB
        assert other.read_bytes() == disk.read_bytes()
        with disk.open("r+b") as file:
            file.write(b"x" * 5000)
        again = api.copy(source, target, CopyOptions(state_dir=tmp_path / "state"))
        assert again.kind == "incremental"
        assert again.changed < 128 * 1024
        assert other.read_bytes() == disk.read_bytes()


# -- TLS ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority, a server's certificate for localhost, a client's: made by openssl, as an administrator would."""
    folder = tmp_path_factory.mktemp("certificates")
    run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
        "-subj", "/CN=test authority", "-keyout", folder / "ca-key.pem", "-out", folder / "ca-cert.pem")  # fmt: skip
    for name, more in (
        ("server", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
        ("client", "subjectAltName=DNS:me"),
    ):
        (folder / "more").write_text(more)
        run("openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={name}",
            "-keyout", folder / f"{name}-key.pem", "-out", folder / "request")  # fmt: skip
        run("openssl", "x509", "-req", "-days", "2", "-in", folder / "request", "-CA", folder / "ca-cert.pem",
            "-CAkey", folder / "ca-key.pem", "-CAcreateserial", "-extfile", folder / "more",
            "-out", folder / f"{name}-cert.pem")  # fmt: skip
    return folder


@pytest.fixture
def tls_port(certificates: Path) -> Iterator[int]:
    port = free_port()
    words: list[str | Path] = [
        "nbdkit",
        "--foreground",
        "--ipaddr",
        "127.0.0.1",
        "--port",
        str(port),
        "--tls=require",
    ]
    with serving([*words, f"--tls-certificates={certificates}", "--tls-verify-peer", "pattern", "size=4M"], port):
        yield port


def test_tls_with_certificates_of_both_sides(tls_port: int, certificates: Path) -> None:
    with open_source(f"nbds://localhost:{tls_port}/?tls-certificates={certificates}") as source:
        assert read(source, 8 * 1024, 8) == (8 * 1024).to_bytes(8, "big")
        assert len(read(source, 0, 4 * MIB)) == 4 * MIB


def test_tls_of_an_authority_or_name_that_is_not_trusted(tls_port: int, certificates: Path) -> None:
    with pytest.raises(NbdSourceError, match="not trusted"):
        open_source(f"nbds://localhost:{tls_port}/")
    with pytest.raises(NbdSourceError, match="not trusted"):
        open_source(f"nbds://localhost:{tls_port}/?tls-certificates={certificates}&tls-hostname=somebody.else")


def test_a_server_that_insists_on_tls_and_one_that_has_none(tls_port: int, tmp_path: Path) -> None:
    with pytest.raises(NbdSourceError, match="TLS") as told:
        open_source(f"nbd://localhost:{tls_port}/")
    assert "nbds://" in told.value.remedy
    with nbdkit(tmp_path, "memory", "size=1M") as at, pytest.raises(NbdSourceError, match="no TLS"):
        open_source(at.replace("nbd+unix", "nbds+unix"))


# -- images -------------------------------------------------------------------------------------------------------


def test_a_qcow2_image_is_made_written_and_closed_in_order(tmp_path: Path) -> None:
    disk = image(tmp_path / "disk.img", 32 * MIB, random.Random(10).randbytes(MIB))
    target = tmp_path / "copy, of it.qcow2"
    api.copy(str(disk), str(target), CopyOptions(create=True, state_dir=tmp_path / "state"))
    run("qemu-img", "check", "-q", target)
    run("qemu-img", "compare", "-f", "raw", "-F", "qcow2", disk, target)
    assert target.stat().st_blocks * 512 < 4 * MIB
    with disk.open("r+b") as file:
        file.seek(20 * MIB)
        file.write(b"later")
    again = api.copy(str(disk), str(target), CopyOptions(state_dir=tmp_path / "state"))
    assert again.kind == "incremental"
    run("qemu-img", "compare", "-f", "raw", "-F", "qcow2", disk, target)
    # And back again, from the image.
    back = tmp_path / "back.img"
    result = api.copy(str(target), str(back), CopyOptions(create=True, state_dir=tmp_path / "state"))
    assert result.read < 3 * MIB
    assert back.read_bytes() == disk.read_bytes()


def test_what_is_no_image_or_of_another_size_is_refused(tmp_path: Path) -> None:
    fake = image(tmp_path / "fake.qcow2", MIB, b"raw")
    with pytest.raises(SourceError, match="no image of that format"):
        open_source(str(fake))
    with pytest.raises(TargetError, match="no image of that format"):
        open_target(str(fake), overwrite=True)
    real = tmp_path / "real.qcow2"
    open_target(str(real), create_size=4 * MIB).close()
    with pytest.raises(TargetRefusedError, match="not 8388608"):
        open_target(str(real), create_size=8 * MIB)
    with open_target(str(real)) as target:
        target.write(0, memoryview(b"x" * 4096))
        with pytest.raises(TargetError, match="lock"):
            open_target(str(real), overwrite=True)
    with pytest.raises(TargetRefusedError, match="not empty"):
        open_target(str(real))
    damaged = image(tmp_path / "damaged.qcow2", MIB, b"QFI\xfb" + b"\xff" * 200)
    with pytest.raises(SourceError, match="qemu-nbd cannot serve"):
        open_source(str(damaged))


def test_a_killed_process_leaves_no_qemu_nbd(tmp_path: Path) -> None:
    path = tmp_path / "disk.qcow2"
    open_target(str(path), create_size=MIB).close()
    code = (
        "import sys; from blocksync.targets import open_target; t = open_target(sys.argv[1]);"
        "t.write(0, memoryview(b'x' * 4096)); t.sync(); print(t._server._process.pid, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as ours:
        assert ours.stdout is not None
        server = int(ours.stdout.readline())
        os.kill(ours.pid, signal.SIGKILL)
    end = time.monotonic() + 10
    while Path(f"/proc/{server}").exists() and time.monotonic() < end:
        time.sleep(0.05)
    assert not Path(f"/proc/{server}").exists()
    run("qemu-img", "check", "-q", path)
    with open_source(str(path)) as source:
        assert read(source, 0, 4096) == b"x" * 4096


# -- dirty bitmaps --------------------------------------------------------------------------------------------------


def test_a_dirty_bitmap_is_told_as_the_server_has_it(tmp_path: Path) -> None:
    disk = tmp_path / "disk.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", disk, "16M")
    run("qemu-img", "bitmap", "--add", "-g", "64K", disk, "since-monday")
    run("qemu-io", "-f", "qcow2", "-c", "write 1M 64K", "-c", "write 5M 100K", disk)
    with qemu_nbd(tmp_path, disk, "--bitmap=since-monday", "--read-only", image_format="qcow2") as at:
        facts = json.loads(run("nbdinfo", "--json", at))
        assert "qemu:dirty-bitmap:since-monday" in str(facts)
        with open_source(f"{at}&bitmap=since-monday") as source:
            export = source.export  # type: ignore[attr-defined]
            told = export.status("qemu:dirty-bitmap:since-monday", 0, 16 * MIB)
            dirty = [(offset, length) for offset, length, flags in told if flags & 1]
    assert dirty == [(MIB, 64 * 1024), (5 * MIB, 128 * 1024)]

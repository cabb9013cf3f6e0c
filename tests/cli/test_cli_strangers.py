"""How a stranger may call it: closed streams, names of any bytes, pipes for files, state of another version."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from cli_processes import LIMIT_SECONDS, MIB, command, environment, fails, receiver

from blocksync.engine.statedir import prepare
from blocksync.errors import StateError
from blocksync.manifest.format import HEADER_BYTES

# Runs the command with what it opens for writing noted, since nobody hears it where its streams are closed.
NOTED = """
import os, sys
real, note, words = os.open, sys.argv[1], sys.argv[2:]
def noting(path, flags, *more, **others):
    number = real(path, flags, *more, **others)
    if flags & os.O_RDWR and path != os.devnull:
        with open(note, "a") as file:
            print(number, path, file=file)
    return number
os.open = noting
from blocksync.cli import main
code = main(words)
sys.stdout.write("heard by nobody\\n")
sys.stderr.write("heard by nobody\\n")
sys.exit(code)
"""


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_never_lend_their_number_to_a_target(folder: Path, disk: Path, closed: str) -> None:
    words = ["copy", disk, folder / "t.img", "--create", "--state-dir", folder / "s"]
    shell = ["sh", "-c", f'exec "$@" {closed}', "sh"]
    done = subprocess.run(
        [*shell, sys.executable, "-c", NOTED, folder / "note", *words],
        check=False,
        env=environment(),
        timeout=LIMIT_SECONDS,
    )
    assert done.returncode == 0
    assert (folder / "t.img").read_bytes() == disk.read_bytes()
    opened = (folder / "note").read_text().splitlines()
    assert any(line.endswith("t.img") for line in opened)
    assert [line for line in opened if int(line.split()[0]) <= 2] == []


@pytest.mark.parametrize("name", [b"latin-\xe9\xff", b"new\nline", b"-x", "näme".encode()])
def test_names_of_any_bytes(folder: Path, name: bytes) -> None:
    source, target = folder / os.fsdecode(b"s" + name), folder / os.fsdecode(b"t" + name)
    source.write_bytes(b"content" * 1000)
    for more in ("--create",), ("--overwrite", target):
        words = ("copy", "--json", source, target, *more, "--state-dir", folder / os.fsdecode(b"state" + name))
        done = command(*words)
        assert (done.code, done.last["type"]) == (0, "result"), done
    assert target.read_bytes()[:7000] == source.read_bytes()


def test_a_pipe_that_is_named_like_an_image_is_not_waited_for(folder: Path) -> None:
    pipe = folder / "f.qcow2"
    os.mkfifo(pipe)
    fails(command("inspect", pipe, "--json"), 4, "is no file")
    fails(command("copy", pipe, folder / "t", "--create", "--state-dir", folder / "s", "--json"), 4, "is no file")


def test_without_a_home_or_where_none_can_be_made_a_state_folder_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("HOME")
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    for name in ("getuid", "geteuid"):
        monkeypatch.setattr(os, name, lambda: 4321987)
    with pytest.raises(StateError) as told:
        prepare(None)
    assert "--state-dir" in told.value.remedy
    with pytest.raises(StateError) as told:
        prepare(Path("/proc/nowhere"))
    assert "--state-dir" in told.value.remedy


@pytest.mark.parametrize("harm", ["format 1", "table"])
def test_state_of_an_older_format_or_with_a_damaged_table_is_rebuilt_for_its_source(
    folder: Path, disk: Path, harm: str
) -> None:
    with receiver(folder, size=7 * MIB) as there:
        near = ("--to", there.to, "--state-dir", folder / "s", "--json")
        assert command("send", disk, *near, "--code", there.code).code == 0
        there.run.end(15)
        ports = (there.listening["control_port"], there.listening["data_port"])
    manifest = there.state / "slots" / "disk" / "manifest"
    raw = bytearray(manifest.read_bytes())
    if harm == "table":
        raw[HEADER_BYTES] ^= 0x55
    else:
        raw[8:12] = (1).to_bytes(4, "little")
        raw[HEADER_BYTES - 4 : HEADER_BYTES] = zlib.crc32(raw[: HEADER_BYTES - 4]).to_bytes(4, "little")
    manifest.write_bytes(raw)
    state = ("--state-dir", there.state, "--json")
    told = fails(
        command("recv", "--target", f"disk={there.target}", *state, "--listen", "127.0.0.1"), 6, "slot disk"
    )
    # What it says to type is typed.
    _, found, typed = told["remedy"].partition("blocksync manifest rebuild ")
    assert found, told
    rebuilt = command("manifest", "rebuild", *shlex.split(typed), *state)
    assert rebuilt.code == 0, rebuilt
    assert rebuilt.last["size"] == 4 * MIB
    with receiver(folder, size=7 * MIB, ports=ports):
        again = command("send", disk, *near)
        assert again.code == 0, again
        assert again.last["changed"] == 0


def test_a_copy_whose_state_is_damaged_says_how_to_begin_anew(folder: Path, disk: Path) -> None:
    words = ("copy", disk, folder / "a copy.img", "--state-dir", folder / "s", "--json")
    assert command(*words, "--create").code == 0
    (manifest,) = (folder / "s" / "local").glob("*/slot/manifest")
    raw = bytearray(manifest.read_bytes())
    raw[HEADER_BYTES] ^= 0x55
    manifest.write_bytes(raw)
    remove, comma, again = fails(command(*words), 6)["remedy"].partition(", ")
    assert comma
    subprocess.run(shlex.split(remove), check=True)
    consent = shlex.split(again.partition("with ")[2].partition(": ")[0])
    assert command(*words, *consent).code == 0
    assert (folder / "a copy.img").read_bytes() == disk.read_bytes()

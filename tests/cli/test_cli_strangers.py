"""How a stranger may call it: streams that are closed, names of any bytes, pipes where files are meant."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from cli_processes import LIMIT_SECONDS, command, environment, fails

from blocksync.engine.statedir import prepare
from blocksync.errors import StateError

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

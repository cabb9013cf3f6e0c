"""The start of the command: what it shows without work, and how little it loads for that."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from cli_processes import command, environment, fails

from blocksync import __version__
from blocksync.cli import main
from blocksync.cli.program import COMMANDS
from blocksync.kernels import IMPLEMENTATION

HEAVY = (
    "aiohttp",
    "asyncio",
    "blake3",
    "blocksync.api",
    "blocksync.engine.sender",
    "cryptography",
    "rich",
    "uvloop",
)


@pytest.mark.parametrize("words", [["--version"], ["--help"], ["send", "--help"], ["recv", "--nonsense"]])
def test_the_start_loads_little(words: list[str]) -> None:
    """Each of these costs more than the whole start may take; a clock would say so less reliably."""
    script = (
        "import sys; from blocksync.cli import main; main(sys.argv[1:]); "
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *words], capture_output=True, text=True, check=True, env=environment()
    )
    loaded = done.stderr.splitlines()[-1]
    if words == ["--version"] and "kernels: python" in done.stdout:
        loaded = loaded.replace("'blake3'", "").replace("[, ", "[")
    assert loaded == "[]"


def test_the_version_names_what_counts() -> None:
    shown = command("--version", env=environment(BLOCKSYNC_KERNELS="python"))
    assert shown.code == 0
    lines = shown.out.splitlines()
    assert lines[0] == f"blocksync {__version__}"
    assert lines[1].startswith(f"Python {sys.version_info.major}.{sys.version_info.minor}.")
    assert lines[2].startswith("kernels: python (")
    assert lines[3].startswith("native kernels: ")


def test_help_lists_commands_and_exit_codes() -> None:
    shown = command("--help")
    assert shown.code == 0
    for name in COMMANDS:
        assert f"  {name} " in shown.out
    assert "130 interrupted" in shown.out


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_help_and_the_common_options(name: str) -> None:
    words = [name, *{"manifest": ["list"], "receipt": ["show"]}.get(name, [])]
    shown = command(*words, "--help")
    assert shown.code == 0
    for option in ("--json", "--quiet", "--verbose"):
        assert option in shown.out
    assert ("--state-dir" in shown.out) == (name not in ("demo", "bench", "inspect", "boot-test"))


def no_native(folder: Path) -> dict[str, str]:
    """An interpreter in which the native kernels cannot be imported."""
    (folder / "sitecustomize.py").write_text("import sys\nsys.modules['blocksync._native'] = None\n")
    return {"PYTHONPATH": str(folder)}


def test_native_kernels_that_are_insisted_on(folder: Path, disk: Path) -> None:
    env = environment(BLOCKSYNC_KERNELS="native", **no_native(folder))
    for words in (["--version"], ["copy", disk, folder / "t", "--create", "--state-dir", folder / "s"]):
        ended = command(*words, env=env)
        assert ended.code == 2
        assert "native kernels cannot be loaded" in ended.err
        assert "  next: " in ended.err
    ended = command("copy", disk, folder / "t", "--create", "--state-dir", folder / "s", "--json", env=env)
    fails(ended, 2, "native")


def test_without_native_kernels_python_does_it(folder: Path, disk: Path) -> None:
    env = environment(**{**no_native(folder), "BLOCKSYNC_KERNELS": "auto"})
    assert "native kernels: not there" in command("--version", env=env).out
    made = command("copy", disk, folder / "t", "--create", "--state-dir", folder / "s", env=env)
    assert made.code == 0
    assert (folder / "t").read_bytes() == disk.read_bytes()


def test_kernels_that_do_not_exist() -> None:
    ended = command("--version", env=environment(BLOCKSYNC_KERNELS="quantum"))
    assert ended.code == 2
    assert "BLOCKSYNC_KERNELS" in ended.err


def test_an_unforeseen_error_is_one_line_without_v(folder: Path) -> None:
    broken = "import blocksync.api\ndef peers(*_):\n    raise KeyError('bug')\nblocksync.api.peers = peers\n"
    script = f"import sys\nfrom blocksync.cli import main\n{broken}sys.exit(main(sys.argv[1:]))"

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", script, "peers", "--state-dir", str(folder), *words],
            capture_output=True,
            text=True,
            check=False,
            env=environment(),
        )

    plain = run()
    assert plain.returncode == 1
    assert plain.stderr.splitlines() == [
        "unexpected: KeyError: 'bug'",
        "  next: report it with the output of the same command and -v",
    ]
    assert "Traceback" in run("-v").stderr
    said = run("--json")
    assert '"exit_code": 1' in said.stdout
    assert said.stderr == ""


def test_it_can_be_called_from_a_thread_and_leaves_no_trace(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hooks = (threading.excepthook, sys.unraisablehook, signal.getsignal(signal.SIGTERM))
    codes: list[int] = []
    words = ["manifest", "--state-dir", str(folder / "s")]
    thread = threading.Thread(target=lambda: codes.append(main(words)))
    thread.start()
    thread.join()
    codes.append(main(words))
    assert codes == [0, 0]
    assert capsys.readouterr().out == "no slot holds anything yet\n" * 2
    assert (threading.excepthook, sys.unraisablehook, signal.getsignal(signal.SIGTERM)) == hooks


def test_a_pass_loads_neither_the_event_loop_nor_what_makes_keys() -> None:
    """They would take longer to import than a small pass takes to run."""
    modules = "blocksync.engine.reach, blocksync.engine.sender, blocksync.sources"
    heavy = tuple(name for name in HEAVY if not name.startswith("blocksync"))
    script = f"import sys, {modules}; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment()
    )
    loaded = done.stdout.strip().replace("'blake3'", "") if IMPLEMENTATION == "python" else done.stdout.strip()
    assert loaded == "[]"

"""The service files: systemd understands them, and the receiver works with no more rights than they leave it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.devices import image, loop_device, need_root, run
from tests.story.story_processes import MIB, World, sample_disk

PACKAGING = Path(__file__).resolve().parents[2] / "packaging"
UNITS = sorted(PACKAGING.glob("*.service"))
RECV = PACKAGING / "blocksync-recv.service"
# Memory that is written and run is refused from here on (PR_SET_MDWE), then the program is started.
DENY_WRITE_EXECUTE = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(65, 1, 0, 0, 0)  # older kernels lack it
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_systemd_understands_it(unit: Path, tmp_path: Path) -> None:
    need_root()
    there = tmp_path / unit.name
    there.write_text(re.sub(r"/usr/(local/)?bin/blocksync", "/bin/true", unit.read_text()))
    done = subprocess.run(["systemd-analyze", "verify", there], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_receiver_is_hardened() -> None:
    need_root()
    said = run("systemd-analyze", "security", "--offline=yes", RECV)
    exposure = re.search(r"exposure level for .*: ([0-9.]+)", said)
    assert exposure is not None
    assert float(exposure[1]) <= 3.0, said


def test_the_receiver_works_with_the_rights_that_are_left() -> None:
    need_root()
    allowed = re.search(r"^CapabilityBoundingSet=(.*)$", RECV.read_text(), re.MULTILINE)
    assert allowed is not None
    names = ",".join(f"+{name.removeprefix('CAP_').lower()}" for name in allowed[1].split())
    bounds = (
        "setpriv", "--bounding-set", f"-all,{names}", "--no-new-privs",
        sys.executable, "-c", DENY_WRITE_EXECUTE,
    )  # fmt: skip
    place = Path(tempfile.mkdtemp(prefix="blocksync-unit-"))
    place.chmod(0o755)
    world = World(place)
    try:
        disk = sample_disk(place / "disk.img", 4 * MIB, seed=5)
        with loop_device(image(place / "below.img", 4 * MIB)) as device:
            _, listening = world.recv(f"a={device}", more=("--user", "nobody"), prefix=bounds)
            to = f"127.0.0.1:{listening['control_port']}"
            world.send(disk, to).result()
            assert world.send(disk, to, command="verify").result()["identical"] is True
            world.close()
    finally:
        world.close()
        shutil.rmtree(place)

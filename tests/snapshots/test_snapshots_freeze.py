"""A source that stands still: real filesystems on loop devices, frozen and thawed whatever happens meanwhile."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from blocksync.errors import QuietError
from blocksync.snapshots.freeze import Quiet, mounts_over, refuse_own_files, standing_still
from blocksync.snapshots.watchdog import FIFREEZE, FITHAW
from tests.devices import image, loop_device, need_root

MIB = 1 << 20
ROOT = Path(__file__).parents[2]


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """A mounted ext4 on a loop device: mount point and device."""
    need_root()
    path = image(tmp_path / "disk.img", 16 * MIB, b"")
    subprocess.run(["mkfs.ext4", "-q", path], check=True)
    place = tmp_path / "mounted"
    place.mkdir()
    with loop_device(path) as device:
        subprocess.run(["mount", device, place], check=True)
        try:
            yield str(place), device
        finally:
            thaw(str(place))
            subprocess.run(["umount", place], check=True)


def thaw(place: str) -> None:
    with contextlib.suppress(OSError):
        descriptor = os.open(place, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, FITHAW, 0)
        finally:
            os.close(descriptor)


def is_frozen(place: str) -> bool:
    """Freezing what is frozen is refused; what was not is left as it was."""
    descriptor = os.open(place, os.O_RDONLY)
    try:
        fcntl.ioctl(descriptor, FIFREEZE, 0)
        fcntl.ioctl(descriptor, FITHAW, 0)
    except OSError as error:
        if error.errno == errno.EBUSY:
            return True
        raise
    finally:
        os.close(descriptor)
    return False


def write_when_thawed(place: str) -> None:
    """A write that waits as long as the filesystem is frozen, a minute at most."""
    subprocess.run(["sh", "-c", f"echo x > {place}/f"], check=True, timeout=60)


def test_a_mount_is_frozen_for_the_block_and_thawed_behind_it(mount: tuple[str, str]) -> None:
    place, device = mount
    assert mounts_over([device, device]) == [place]
    with standing_still(Quiet(mounts=(place,))) as still:
        assert is_frozen(place)
        still.check()
    assert not is_frozen(place)


def test_an_image_file_is_known_by_its_loop_device(mount: tuple[str, str], tmp_path: Path) -> None:
    assert mounts_over([str(tmp_path / "disk.img")]) == [mount[0]]
    assert mounts_over([str(image(tmp_path / "other.img", MIB, b""))]) == []


def test_it_is_thawed_when_the_block_fails(mount: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match="inside"), standing_still(Quiet(mounts=(mount[0],))):
        raise ValueError("inside")
    assert not is_frozen(mount[0])


def test_it_is_thawed_when_the_time_is_over_and_that_is_told(mount: tuple[str, str]) -> None:
    quiet = contextlib.ExitStack()
    still = quiet.enter_context(standing_still(Quiet(mounts=(mount[0],), seconds=0.3)))
    write_when_thawed(mount[0])
    with pytest.raises(QuietError, match="let go after 0 s"):
        still.check()
    with pytest.raises(QuietError, match="let go after 0 s"):
        quiet.close()
    assert not is_frozen(mount[0])


def test_somebody_elses_thaw_is_told(mount: tuple[str, str]) -> None:
    with pytest.raises(QuietError, match="let go"), standing_still(Quiet(mounts=(mount[0],))):
        thaw(mount[0])


def test_what_is_frozen_already_is_refused_and_stays_as_it_was(mount: tuple[str, str]) -> None:
    with (
        standing_still(Quiet(mounts=(mount[0],))),
        pytest.raises(QuietError, match="frozen already"),
        standing_still(Quiet(mounts=(mount[0],))),
    ):
        raise AssertionError("entered")


KILLED = """
import sys, os
from blocksync.snapshots.freeze import Quiet, standing_still
place, mark = sys.argv[1:]
quiet = Quiet(mounts=(place,) if place else (), before="true", after=f"echo after >> {mark}")
with standing_still(quiet):
    print("quiet", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_it_is_thawed_when_the_process_is_killed(mount: tuple[str, str], tmp_path: Path, number: int) -> None:
    mark = tmp_path / "mark"
    os.mkfifo(mark)
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, mount[0], str(mark)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"quiet\n"
        assert is_frozen(mount[0])
        os.kill(process.pid, number)
        write_when_thawed(mount[0])
        with open(mark) as words:  # waits for the command that always runs
            assert words.read() == "after\n"
    assert process.returncode == -number


def test_it_is_thawed_when_the_watchdog_is_killed(mount: tuple[str, str], tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    quiet = contextlib.ExitStack()
    still = quiet.enter_context(standing_still(Quiet(mounts=(mount[0],), after=f"echo after >> {mark}")))
    still._process.kill()
    still._process.wait()
    assert is_frozen(mount[0])
    with pytest.raises(QuietError):
        quiet.close()
    assert not is_frozen(mount[0])
    assert mark.read_text() == "after\n"


def test_hooks_run_in_their_order_and_know_the_transfer(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    quiet = Quiet(
        before=f"echo before $BLOCKSYNC_TRANSFER >> {mark}",
        after=f"echo after >> {mark}",
        environment=(("BLOCKSYNC_TRANSFER", "abc"),),
    )
    with standing_still(quiet):
        assert mark.read_text() == "before abc\n"
    assert mark.read_text() == "before abc\nafter\n"


def test_a_hook_that_fails_stops_the_final_pass_and_the_other_one_still_runs(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    with (
        pytest.raises(QuietError, match="--pre-final ended with 3"),
        standing_still(Quiet(before="exit 3", after=f"echo after >> {mark}")),
    ):
        raise AssertionError("entered")
    assert mark.read_text() == "after\n"
    with pytest.raises(QuietError, match="--post-final ended with 4"), standing_still(Quiet(after="exit 4")):
        pass


def test_files_of_ours_on_a_filesystem_to_be_frozen_are_refused(mount: tuple[str, str], tmp_path: Path) -> None:
    state = Path(mount[0]) / "state"
    state.mkdir()
    refuse_own_files([mount[0]], [tmp_path])
    with pytest.raises(QuietError, match="wait for itself") as told:
        refuse_own_files([mount[0]], [tmp_path, state])
    assert "--state-dir" in told.value.remedy
    assert not is_frozen(mount[0])

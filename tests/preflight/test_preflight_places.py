"""Sources, targets and state folders as they are found; nothing of them is changed."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from blocksync import api
from blocksync.errors import StateError, TargetError
from blocksync.preflight import findings
from blocksync.preflight.findings import as_error, found
from tests.devices import image, loop_device, need_root, run
from tests.serving import receiver

MIB = 1 << 20


def look(tmp_path: Path, **options: object) -> dict[str, api.Finding]:
    wanted = api.CheckOptions(state_dir=tmp_path / "state", **options)  # type: ignore[arg-type]
    return {finding.code: finding for finding in api.check(wanted).findings}


def test_a_source_that_is_missing(tmp_path: Path) -> None:
    result = api.check(api.CheckOptions(sources=(str(tmp_path / "none"),), state_dir=tmp_path / "state"))
    assert [finding.code for finding in result.findings] == ["BS2101"]
    assert result.exit_code == 4


def test_a_damaged_layout_is_told(tmp_path: Path) -> None:
    disk = image(tmp_path / "disk.img", 16 * MIB)
    subprocess.run(["sfdisk", "-q", disk], input="label: gpt\nstart=2048,size=8192\n", text=True, check=True)
    with disk.open("r+b") as file:
        file.seek(512 + 16)  # the primary header's checksum
        file.write(b"XX")
    finding = look(tmp_path, sources=(str(disk),))["BS2103"]
    assert (finding.severity, "primary GPT is damaged" in finding.what) == ("warning", True)


def test_an_image_with_a_system(tmp_path: Path) -> None:
    need_root()
    system = tmp_path / "system"
    (system / "etc").mkdir(parents=True)
    (system / "etc" / "fstab").write_text("/dev/sda1 / ext4 defaults 0 1\n")
    (system / "boot" / "grub" / "i386-pc").mkdir(parents=True)
    (system / "boot" / "grub" / "grub.cfg").write_text("")
    disk = image(tmp_path / "disk.img", 40 * MIB)
    subprocess.run(["sfdisk", "-q", disk], input="start=2048,type=83,bootable\n", text=True, check=True)
    run("mke2fs", "-q", "-t", "ext4", "-d", system, "-E", f"offset={MIB}", disk, "38M")
    before = hashlib.sha256(disk.read_bytes()).hexdigest()
    loops = run("losetup", "--associated", disk)
    said = look(tmp_path, sources=(str(disk),))
    assert {"BS2102", "BS2307", "BS2306"} <= set(said)
    assert "MBR" in said["BS2102"].what
    assert "1 ext4" in said["BS2102"].what
    assert "line 1 /dev/sda1" in said["BS2307"].what
    assert hashlib.sha256(disk.read_bytes()).hexdigest() == before
    assert run("losetup", "--associated", disk) == loops == ""
    assert str(disk) not in Path("/proc/self/mounts").read_text()


def test_a_mounted_source_without_lvm(tmp_path: Path) -> None:
    need_root()
    disk = image(tmp_path / "disk.img", 16 * MIB)
    run("mke2fs", "-q", "-t", "ext4", disk)
    (tmp_path / "at").mkdir()
    with loop_device(disk) as device:
        assert "BS2204" in look(tmp_path, sources=(device,))
        run("mount", device, tmp_path / "at")
        said = look(tmp_path, sources=(device,))
        run("umount", device)
    assert "BS2202" in said
    assert str(tmp_path / "at") in said["BS2202"].what


def test_targets(tmp_path: Path) -> None:
    empty = image(tmp_path / "empty.img", MIB)
    assert set(look(tmp_path, targets=(str(empty),))) == {"BS2402"}
    full = image(tmp_path / "full.img", MIB, b"something")
    content = full.read_bytes()
    said = look(tmp_path, targets=(str(full),))
    assert set(said) == {"BS2404", "BS2402"}
    assert "--overwrite" in said["BS2404"].remedy
    assert full.read_bytes() == content
    assert set(look(tmp_path, targets=(str(tmp_path / "new.img"),))) == {"BS2402"}
    assert not (tmp_path / "new.img").exists()
    assert set(look(tmp_path, targets=(str(tmp_path / "none" / "new.img"),))) == {"BS2401"}
    assert set(look(tmp_path, targets=("/dev/null",))) == {"BS2401"}


def test_a_target_in_use(tmp_path: Path) -> None:
    need_root()
    disk = image(tmp_path / "disk.img", 16 * MIB)
    with loop_device(disk):
        said = look(tmp_path, targets=(str(disk),))
    assert set(said) == {"BS2401"}
    assert "loop" in said["BS2401"].what


def test_room_for_the_target_and_the_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = image(tmp_path / "disk.img", 64 * MIB)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=32 * MIB))
    said = look(tmp_path, targets=(str(disk),))
    assert set(said) == {"BS2402", "BS2405", "BS2502"}
    assert said["BS2502"].exit_code == StateError.exit_code


def test_a_state_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    result = api.check(api.CheckOptions(state_dir=tmp_path / "state"))
    assert [finding.code for finding in result.findings] == ["BS2501"]
    assert result.exit_code == StateError.exit_code


def test_a_target_that_is_smaller_than_the_source(tmp_path: Path) -> None:
    disk = image(tmp_path / "disk.img", 8 * MIB)
    with receiver(tmp_path) as served:
        served.reach(name="state", code=served.listening.code).close()
        said = look(tmp_path, sources=(str(disk),), to=served.to, slot="a")
    assert said["BS2403"].exit_code == TargetError.exit_code
    assert "BS2017" in said


def test_send_refuses_for_an_error_and_tells_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = image(tmp_path / "disk.img", MIB, os.urandom(4096))
    with receiver(tmp_path) as served:
        served.reach(code=served.listening.code).close()
        heard: list[str] = []
        options = api.SendOptions(
            to=served.to,
            slot="a",
            state_dir=tmp_path / "sender",
            progress=lambda progress: heard.append(progress.message) if progress.stage == "checking" else None,
        )
        monkeypatch.setattr("blocksync.preflight.network.__version__", "0.0.9")
        assert api.send(str(disk), options).generation == 1
        assert len(heard) == 1
        assert heard[0].startswith("warning BS2015: ")
        monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=0))
        with pytest.raises(StateError, match="BS2502"):
            api.send(str(disk), options)


def test_a_finding_as_an_error_has_its_class() -> None:
    error = as_error(found(findings.TARGET_SMALL, "too small"))
    assert type(error) is TargetError
    assert error.message == "too small (BS2403)"
    assert error.safe == "nothing was sent"

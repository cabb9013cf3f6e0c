"""What a console means; and a real boot of something that cannot boot."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from blocksync.cli import main
from blocksync.errors import BootTestError
from blocksync.flatten.bootsigns import judge, notices, plain
from blocksync.flatten.boottest import boot_test
from blocksync.flatten.emulator import command
from tests.devices import image

MIB = 1 << 20
CONSOLES = {
    "login": "[  OK  ] Reached target graphical.\n\nDebian GNU/Linux 12 web ttyS0\n\nweb login: ",
    "emergency": (
        "[ TIME ] Timed out waiting for device dev-mapper-vg0\\x2dhome.device.\n"
        'You are in emergency mode. After logging in, type "journalctl -xb"\nGive root password for maintenance\n'
    ),
    "grub-rescue": "GRUB loading.\nerror: disk `lvmid/aaa/bbb' not found.\nEntering rescue mode...\ngrub rescue> ",
    "grub-prompt": "GNU GRUB  version 2.06\n\n  Minimal BASH-like line editing is supported.\n\ngrub> ",
    "initramfs": "Gave up waiting for root.\nALERT!  /dev/mapper/vg0-root does not exist.\n(initramfs) ",
    "dracut": "[ 190.1] dracut-initqueue[300]: Warning: dracut-initqueue: timeout, still waiting for following\n",
    "panic": "[    1.2] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)\n",
    "secure-boot": "ERROR\nVerification failed: (0x1A) Security Violation\nOK\n",
    "no-loader": "SeaBIOS (version 1.16)\nBooting from Hard Disk...\nBoot failed: not a bootable disk\n",
}


@pytest.mark.parametrize("verdict", CONSOLES)
def test_each_end_of_a_boot_is_told_apart_with_a_remedy(verdict: str) -> None:
    found = judge("[    0.0] Linux version 6.1\n" + CONSOLES[verdict])
    assert found is not None
    assert found[0].verdict == verdict
    assert bool(found[0].remedy) == (verdict != "login")


@pytest.mark.parametrize(
    "broken_at", range(len("error: disk `"), len("error: disk `lvmid/aaa/bbb' not found.") + 1)
)
def test_a_line_that_the_console_wrapped_is_read_all_the_same(broken_at: int) -> None:
    line = "error: disk `lvmid/aaa/bbb' not found."
    found = judge(f"GRUB loading.\n{line[:broken_at]}\n{line[broken_at:]}\n")
    assert found is not None
    assert found[0].verdict == "grub-rescue"


@pytest.mark.parametrize(
    "console",
    [
        "",
        "[    0.0] Linux version 6.1 (builder) (gcc) root=UUID=abc\n[    5.0] systemd-logind started\n",
        "Begin: Running /scripts/local-block ... done.\n[   12.0] pam: login: nothing of the kind\n",
    ],
)
def test_a_console_that_says_nothing_yet_gives_no_verdict(console: str) -> None:
    assert judge(console) is None


def test_what_comes_first_counts_and_escapes_are_no_text() -> None:
    both = CONSOLES["initramfs"] + CONSOLES["login"]
    found = judge(both)
    assert found is not None
    assert found[0].verdict == "initramfs"
    assert plain(b"\x1b[0;1;31mFailed\x1b[0m to start x.service\r\n") == "Failed to start x.service\n"


def test_what_spoils_a_boot_that_comes_up_is_noticed() -> None:
    text = "Gave up waiting for suspend/resume device\n[DEPEND] Dependency failed for /home.\n"
    assert notices(text) == [
        "the initramfs waited for the old swap: suspend/resume device",
        "something did not come up: /home.",
    ]


def test_what_a_guest_writes_cannot_speak_to_a_terminal() -> None:
    hostile = "\x1b]0;owned\x07\x9b31m\u202e"
    text = plain(f"Failed to start {hostile}.\nroot{hostile} login: \ngrub rescue>{hostile}\n".encode())
    told = [*notices(text), (judge(text) or pytest.fail("no sign"))[1]]
    assert len(told) == 2
    assert all(line.isprintable() and "]0;owned" in line for line in told)


def test_a_shims_box_is_told_by_its_words() -> None:
    # As the shim draws it: a box of other characters than ASCII, placed on the screen and not line by line.
    box = "\u2554" + "\u2550" * 90 + "\ufffd" * 40 + "ERROR" + " " * 70
    found = judge(f"BdsDxe: starting\n{box}Verification failed: (0x1A) Security Violation{' ' * 300}OK\n")
    assert found is not None
    assert found[1].endswith("Verification failed: (0x1A) Security Violation")
    assert len(found[1]) < 160


def test_a_firmware_that_refuses_an_unsigned_loader_is_understood() -> None:
    found = judge(
        'BdsDxe: failed to load Boot0001 "UEFI Misc Device" from PciRoot(0x0)/Pci(0x3,0x0): Access Denied\n'
    )
    assert found is not None
    assert found[0].verdict == "secure-boot"


@pytest.mark.parametrize("firmware", ["bios", "uefi", "uefi-secure"])
def test_secure_boot_gets_a_firmware_that_keeps_its_keys_to_itself(firmware: str, tmp_path: Path) -> None:
    disk = image(tmp_path / "disk.img", MIB)
    words = command("qemu", [str(disk)], firmware, tmp_path, tmp_path / "console", 128, accelerator=[])
    assert (any("secboot" in word for word in words), "q35,smm=on" in words) == (firmware == "uefi-secure",) * 2
    assert ("driver=cfi.pflash01,property=secure,value=on" in words) == (firmware == "uefi-secure")
    assert (tmp_path / "vars.fd").exists() == (firmware != "bios")


def test_an_empty_disk_does_not_boot_and_is_not_touched(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    disk = image(tmp_path / "disk.img", 4 * MIB)
    before = disk.stat()
    code = main(["boot-test", str(disk), "--firmware", "bios", "--timeout", "120", "--output", "out", "--json"])
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (code, said["verdict"], said["good"]) == (11, "no-loader", False)
    assert said["remedy"]
    assert Path(said["screenshot"]).stat().st_size > 0
    after = disk.stat()
    assert (after.st_mtime_ns, after.st_blocks) == (before.st_mtime_ns, before.st_blocks)


def test_a_machine_without_qemu_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _name: None)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(BootTestError) as caught:
        boot_test(str(image(tmp_path / "disk.img", MIB)), firmware="bios", folder=tmp_path / "out")
    assert "apt-get install" in caught.value.remedy

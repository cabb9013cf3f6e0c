"""How the tests in machines end, and the machine that those of snapshots share: booting one takes long."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from tests.devices import image
from tests.vm.guest import Guest
from tests.vm.machine import Machine
from tests.vm.package import package_disk, unpack


def pytest_configure() -> None:
    """Tests that are told to end put out their machines first, as after Ctrl-C."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


@pytest.fixture(scope="session")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    folder = tmp_path_factory.mktemp("snapshots")
    disks = [image(folder / "disk.img", 3 << 30), package_disk(folder / "package.img")]
    with Machine(disks, memory_mib=1024) as machine:
        machine.run(unpack("/dev/vdc"))
        machine.run("modprobe dm_era; pvcreate -q /dev/vdb && vgcreate -q vg0 /dev/vdb")
        machine.run("lvcreate -q -T -L 384M -c 64k vg0/pool")
        yield Guest(machine)

"""LVM's own udev rule activates a volume group that becomes complete; not one that arrives on a target of ours."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.devices import image
from tests.vm.machine import Machine
from tests.vm.package import COMMAND, package_disk, unpack

MIB = 1 << 20


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    folder: Path = tmp_path_factory.mktemp("activation")
    disks = [
        package_disk(folder / "package"),
        image(folder / "source", 64 * MIB),
        image(folder / "target", 64 * MIB),
    ]
    with Machine(disks) as made:
        made.run(unpack("/dev/vdb"))
        yield made


# What Debian's LVM rule runs for a group that became complete; there is no systemd here to run it apart.
RUNNER = r"""
set -e
cat >/usr/bin/systemd-run <<'END'
#!/bin/bash
while [ "${1#/}" = "$1" ]; do shift; done
setsid "$@" >>/tmp/activated 2>&1 </dev/null &
END
chmod 755 /usr/bin/systemd-run
grep -q 'autoactivation event' /usr/lib/udev/rules.d/69-lvm.rules
# The source is out of sight: LVM must not take one of two copies for the other.
sed -i 's|^devices {|devices {\n filter = [ "r\|/dev/vdc\|" ]|' /etc/lvm/lvm.conf
"""
ACTIVE = "udevadm settle; sleep 5; udevadm settle; ls /dev/mapper"


def test_a_volume_group_that_arrives_is_not_activated_by_lvms_own_rule(machine: Machine) -> None:
    made = "wipefs -qa /dev/vdc /dev/vdd; pvcreate -qq -ff -y /dev/vdc; vgcreate -qq arriving /dev/vdc"
    machine.run(f"{made}; lvcreate -qq -y -l 4 -n root arriving; vgchange -q -an arriving; sync; udevadm settle")
    machine.run(RUNNER)
    machine.run(f"{COMMAND} copy /dev/vdc /dev/vdd --overwrite /dev/vdd", timeout=300)
    assert "arriving-root" not in machine.run(ACTIVE)
    assert machine.run("cat /tmp/activated 2>/dev/null; true") == ""
    # Without our rule LVM's own one activates the group as soon as udev looks.
    machine.run("udevadm trigger --settle --action=add /dev/vdd")
    assert "arriving-root" in machine.run(ACTIVE)

"""Volumes of every type, made and activated by lvm2 in a real kernel: our reader gives what /dev/mapper gives.

Every volume is written through device-mapper, hashed there once it has settled, and hashed again from the disks alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from blocksync.sources import open_source
from tests.devices import image
from tests.vm.machine import Machine

MIB = 1 << 20
DISKS = [Path(f"disk{number}.img") for number in range(6)]
MAKE = r"""
set -e
udevadm settle
for module in dm-raid raid1 raid10 raid456 dm-mirror dm-snapshot dm-thin-pool; do modprobe $module; done
pvcreate -q --metadatacopies 2 /dev/vdb
pvcreate -q --metadatacopies 0 /dev/vdc
pvcreate -q /dev/vdd /dev/vde /dev/vdf /dev/vdg
vgcreate -q -s 1m vg0 /dev/vdb /dev/vdc /dev/vdd /dev/vde /dev/vdf /dev/vdg
make() { lvcreate -q -y -Wn "$@" vg0; }
make -n linear -l 20
make -n between -l 2
lvextend -q -l +7 vg0/linear
make -n striped -i 3 -I 16k -l 18
make -n mirror --type mirror -m 1 --mirrorlog core -l 10
make -n raid0 --type raid0 -i 3 -l 18
make -n raid1 --type raid1 -m 1 -l 12
make -n raid4 --type raid4 -i 3 -l 18
make -n raid5 --type raid5 -i 3 -l 18
make -n raid6 --type raid6 -i 3 -l 18
make -n raid10 --type raid10 -i 2 -m 1 -l 16
lvcreate -q -y --type thin-pool -n pool -l 40 -c 64k vg0
lvcreate -q -n thin -V 64m --thinpool vg0/pool
fill() { dd if=/dev/urandom of=$1 bs=1M count=$2 seek=${3:-0} conv=fsync,notrunc status=none; }
for name in linear striped mirror raid0 raid1 raid4 raid5 raid6 raid10; do
    fill /dev/vg0/$name $(($(blockdev --getsize64 /dev/vg0/$name) / 1048576))
done
fill /dev/vg0/thin 6 3
fill /dev/vg0/thin 4 50
lvcreate -q -s -n thinsnap -kn vg0/thin
fill /dev/vg0/thin 2 4
fill /dev/vg0/thinsnap 1 60
lvcreate -q -y -s -n snap -c 4k -L 12m vg0/linear
fill /dev/vg0/linear 3 2
fill /dev/vg0/linear 2 21
fill /dev/vg0/snap 1 9
for i in $(seq 120); do
    lvs --noheadings -o copy_percent vg0 | grep -v '^ *$' | grep -qv 100.00 || break
    sleep 1
done
sync
echo 3 > /proc/sys/vm/drop_caches
for name in linear striped mirror raid0 raid1 raid4 raid5 raid6 raid10 thin thinsnap snap; do
    echo "$name $(sha256sum < /dev/vg0/$name | cut -d' ' -f1)"
done
vgchange -q -an vg0
sync
"""


@contextmanager
def made(folder: Path) -> Iterator[tuple[list[Path], dict[str, str]]]:
    disks = [image(folder / disk, 160 * MIB) for disk in DISKS]
    with Machine(disks, memory_mib=512) as machine:
        said = machine.run(MAKE, timeout=600)
    yield disks, dict(line.split() for line in said.splitlines() if len(line.split()) == 2)


def digest(place: str) -> str:
    found = hashlib.sha256()
    buffer = memoryview(bytearray(MIB))
    with open_source(place) as source:
        for at in range(0, source.size, MIB):
            view = buffer[: min(MIB, source.size - at)]
            source.read_into(at, view)
            found.update(view)
    return found.hexdigest()


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[list[Path], dict[str, str]]]:
    with ExitStack() as stack:
        yield stack.enter_context(made(tmp_path_factory.mktemp("lvm")))


NAMES = [
    "linear",
    "striped",
    "mirror",
    "raid0",
    "raid1",
    "raid4",
    "raid5",
    "raid6",
    "raid10",
    "thin",
    "thinsnap",
    "snap",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_volume_reads_as_the_kernel_reads_it(group: tuple[list[Path], dict[str, str]], name: str) -> None:
    disks, expected = group
    # In another order than the machine had them: only what the metadata say counts.
    place = ",".join(str(disk) for disk in reversed(disks)) + f"#vg0/{name}"
    assert digest(place) == expected[name]


def test_the_holes_of_a_thin_volume_are_holes(group: tuple[list[Path], dict[str, str]]) -> None:
    disks, _ = group
    with open_source(",".join(map(str, disks)) + "#vg0/thin") as source:
        holes = sum(extent.length for extent in source.extents() if extent.reads_as_zeros)
    assert holes == (64 - 10) * MIB


def test_the_identity_of_a_volume_is_that_of_its_device(group: tuple[list[Path], dict[str, str]]) -> None:
    disks, _ = group
    with open_source(",".join(map(str, disks)) + "#vg0/linear") as source:
        assert source.identity.startswith("device:LVM-")
        assert len(source.identity) == len("device:LVM-") + 64

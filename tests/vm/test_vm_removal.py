"""Names of excluded files are removed from a logical volume that lies in pieces: device-mapper joins them."""

from __future__ import annotations

import json

from tests.vm.guest import Guest
from tests.vm.package import COMMAND

MAKE = """
set -e
truncate -s 128M pieces.img
disk=$(losetup --find --show pieces.img)
pvcreate -q $disk && vgcreate -q pieces $disk
lvcreate -q -y -l 8 -W n -n split pieces && lvcreate -q -y -l 2 -W n -n between pieces
lvextend -q -l +8 pieces/split
mkfs.ext4 -q /dev/pieces/split && mkdir -p /mnt/pieces && mount /dev/pieces/split /mnt/pieces
mkdir /mnt/pieces/folder
for number in 1 2 3; do dd if=/dev/urandom of=/mnt/pieces/folder/$number.iso bs=1M count=4 status=none; done
dd if=/dev/urandom of=/mnt/pieces/kept bs=1M count=12 status=none
sha256sum < /mnt/pieces/kept
umount /mnt/pieces && vgchange -q -an pieces > log && losetup --detach $disk
"""
LOOK = """
set -e
disk=$(losetup --find --show arrived.img)
vgchange -q -ay pieces > log
e2fsck -fn /dev/pieces/split >&2
mount -o ro /dev/pieces/split /mnt/pieces
(cd /mnt/pieces && find . -type f) && sha256sum < /mnt/pieces/kept
umount /mnt/pieces && vgchange -q -an pieces > log && losetup --detach $disk
"""


def test_a_volume_in_pieces_loses_its_names_too(guest: Guest) -> None:
    before = guest.run(MAKE).splitlines()[-1]
    copy = f"{COMMAND} copy pieces.img arrived.img --create --exclude '*.iso' --remove-excluded --json"
    result = json.loads(guest.run(copy).splitlines()[-1])
    assert sorted(result["excluded_names"]) == [f"#pieces/split:/folder/{number}.iso" for number in (1, 2, 3)]
    assert result["removal"] == {"slot": result["slot"], "removed": 3, "remaining": []}
    assert guest.run("dmsetup ls | grep pieces; losetup --all", check=False) == ""
    assert guest.run(LOOK + "rm pieces.img arrived.img").splitlines()[-2:] == ["./kept", before]

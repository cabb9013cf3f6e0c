"""Names of excluded files on logical volumes: in pieces and striped ones, device-mapper joins them; others are told.

A volume of another type, or of a group that has a disk elsewhere, goes over whole, so no name of it is to remove; a
peer that names one all the same is told why it stays. Some types in each run, all with ``BLOCKSYNC_ALL_TYPES=1``.
"""

from __future__ import annotations

import json
import os
from typing import Any

from tests.vm.guest import Guest
from tests.vm.package import COMMAND, PLACE

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


ALL_TYPES = ("striped", "mirror", "raid0", "raid1", "raid5", "raid10", "thin", "origin")
TYPES = ALL_TYPES if os.environ.get("BLOCKSYNC_ALL_TYPES") else ("striped", "raid1", "thin", "origin")
# Four physical volumes on one disk.
MAKE_TYPES = r"""
set -e
truncate -s 240M types.img
printf 'label: gpt\n'"$(printf 'size=56M\n%.0s' 1 2 3 4)"'\n' | sfdisk -q types.img
disk=$(losetup --find --show --partscan types.img)
udevadm settle
pvcreate -q ${disk}p1 ${disk}p2 ${disk}p3 ${disk}p4
vgcreate -q -s 1m types ${disk}p1 ${disk}p2 ${disk}p3 ${disk}p4
make() { lvcreate -q -y -W n "$@" types; }
make -n striped -i 3 -I 16k -l 18
for name in NAMES; do case $name in
    mirror) make -n mirror --type mirror -m 1 --mirrorlog core -l 6;;
    raid0) make -n raid0 --type raid0 -i 2 -l 8;;
    raid1) make -n raid1 --type raid1 -m 1 -l 6;;
    raid5) make -n raid5 --type raid5 -i 2 -l 8;;
    raid10) make -n raid10 --type raid10 -i 2 -m 1 -l 8;;
    thin)
        lvcreate -q -y --type thin-pool -n pool -l 8 -c 64k types
        lvcreate -q -n thin -V 6m --thinpool types/pool;;
    origin) make -n origin -l 6;;
esac; done
mkdir -p /mnt/types
for name in NAMES; do
    mkfs.ext4 -q -O ^has_journal /dev/types/$name && mount /dev/types/$name /mnt/types
    mkdir /mnt/types/folder
    dd if=/dev/urandom of=/mnt/types/folder/$name.iso bs=64k count=32 status=none
    dd if=/dev/urandom of=/mnt/types/kept bs=64k count=16 status=none
    umount /mnt/types
done
lvcreate -q -y -s -n shot -l 2 types/origin
for turn in $(seq 60); do
    lvs --noheadings -o copy_percent types | grep -v '^ *$' | grep -qv 100.00 || break
    sleep 1
done
vgchange -q -an types > log && losetup --detach $disk
"""
# The group gets a disk that is not at hand, and a volume that lies on both.
SPREAD = r"""
set -e
truncate -s 16M far.img
disk=$(losetup --find --show --partscan types.img) && far=$(losetup --find --show far.img)
udevadm settle
pvcreate -q $far && vgextend -q types $far
lvcreate -q -y -W n -n spread -l 4 types $far && lvextend -q -l +4 types/spread ${disk}p4
mkfs.ext4 -q /dev/types/spread && mount /dev/types/spread /mnt/types && touch /mnt/types/kept && umount /mnt/types
vgchange -q -an types > log && losetup --detach $disk && losetup --detach $far
"""
LOOK_TYPES = r"""
set -e
disk=$(losetup --find --show --partscan IMAGE)
udevadm settle
vgchange -q -ay types > log
for name in NAMES; do
    e2fsck -fn /dev/types/$name >&2
    mount -o ro /dev/types/$name /mnt/types
    (cd /mnt/types && find . -type f | sort | xargs sha256sum | sed "s/^/$name /")
    umount /mnt/types
done
vgchange -q -an types > log && losetup --detach $disk
"""
ASK = """
import json
from blocksync.flatten.removal import remove_names
from blocksync.targets import open_target
with open_target("IMAGE", overwrite=True) as target:
    print(json.dumps(remove_names(target, {"names": [f"#types/{name}:/kept" for name in "NAMES".split()]})))
"""
WHOLE = ("a snapshot stands on it", "which is not written to without LVM")


def test_volumes_of_other_types_go_over_whole_and_keep_their_names(guest: Guest) -> None:
    names = " ".join(TYPES)
    guest.run(MAKE_TYPES.replace("NAMES", names))
    before = looked(guest, "types.img", names)
    copy = f"{COMMAND} copy types.img types.new --exclude '*.iso' --remove-excluded --json"
    result = json.loads(guest.run(f"{copy} --create").splitlines()[-1])
    assert result["excluded_names"] == ["#types/striped:/folder/striped.iso"]
    assert result["removal"] == {"slot": result["slot"], "removed": 1, "remaining": []}
    for name in TYPES[1:]:
        assert any(note.startswith(f"types/{name}: ") for note in result["notes"]), (name, result["notes"])
    gone = [line for line in before if line.endswith("/striped.iso")]
    assert len(gone) == 1
    assert looked(guest, "types.new", names) == sorted({*before} - {*gone})
    # A peer that names one of them all the same.
    said = asked(guest, "types.new", " ".join(TYPES[1:]))
    assert said["removed"] == 0
    reasons = dict(line.split(": ", 1) for line in said["remaining"])
    assert set(reasons) == {f"in types/{name}" for name in TYPES[1:]}
    assert all(any(reason.endswith(end) for end in WHOLE) for reason in reasons.values()), reasons
    guest.run(SPREAD + "rm types.new")
    result = json.loads(guest.run(f"{copy} --create").splitlines()[-1])
    assert (result["excluded_names"], result["excluded_bytes"], result["removal"]) == ([], 0, None)
    assert any("physical volumes on other disks" in note for note in result["notes"]), result["notes"]
    (told,) = asked(guest, "types.new", "spread")["remaining"]
    assert "lacks its physical volume" in told
    assert guest.run("dmsetup ls | grep types; losetup --all; rm types.img types.new far.img", check=False) == ""


def looked(guest: Guest, image: str, names: str) -> list[str]:
    """Volume, digest and name of each file."""
    said = guest.run(LOOK_TYPES.replace("IMAGE", image).replace("NAMES", names))
    return sorted(line for line in said.splitlines() if "  ./" in line)


def asked(guest: Guest, image: str, names: str) -> dict[str, Any]:
    program = ASK.replace("IMAGE", image).replace("NAMES", names)
    said: dict[str, Any] = json.loads(
        guest.run(f"PYTHONPATH={PLACE} python3 - <<'END'\n{program}\nEND").splitlines()[-1]
    )
    return said

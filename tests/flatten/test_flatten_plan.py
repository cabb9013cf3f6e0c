"""Plans from layouts written by hand, and the tables they lead to, read by others."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from blocksync.errors import (
    FlattenCacheError,
    FlattenEncryptedError,
    FlattenExportedError,
    FlattenMissingError,
    FlattenMotionError,
    FlattenNothingError,
    FlattenRefusedError,
    FlattenSectorError,
    FlattenSpaceError,
    FlattenTableError,
    FlattenUnsyncedError,
    FlattenVdoError,
    UsageError,
)
from blocksync.flatten.kinds import BIOS_BOOT_TYPE, ESP_TYPE, LINUX_TYPE
from blocksync.flatten.plan import Plan, make_plan
from blocksync.flatten.refusals import Wishes
from blocksync.flatten.table import BOOT_CODE_BYTES, Slice, encode
from blocksync.volumes.layout import Disk, Filesystem, Group, Layout, Partition, Physical, Volume
from blocksync.volumes.partitions import read_partitions
from blocksync.volumes.reader import BytesReader

MIB = 1 << 20
GIB = 1 << 30
GPT_LINUX, GPT_LVM = LINUX_TYPE, "e6d6d379-f507-44c2-a23c-238f2a3df928"
GUID = "01234567-89ab-4cde-8f01-23456789abcd"


def volume(name: str, size: int, kind: str = "ext4", **more: object) -> Volume:
    facts: dict[str, object] = {
        "name": name,
        "group": "vg0",
        "uuid": f"{name[:6]:x<6}-0000-0000-0000-0000-0000-000000",
        "size": size,
        "type": "linear",
        "filesystem": Filesystem(kind=kind, uuid=f"uuid-{name}") if kind else None,
        **more,
    }
    return Volume(**facts)  # type: ignore[arg-type]


def group(*volumes: Volume, exported: bool = False, complete: bool = True) -> Group:
    return Group(
        name="vg0",
        uuid="GGGGGG-0000-0000-0000-0000-0000-GGGGGG",
        extent_bytes=4 * MIB,
        seqno=3,
        exported=exported,
        complete=complete,
        physicals=(Physical(name="pv0", uuid="PV", disk=0 if complete else None, partition=2, size=20 * GIB),),
        volumes=volumes,
    )


def partition(
    number: int, size: int, type_id: str, kind: str = "", physical: str = "", uuid: str = ""
) -> Partition:
    return Partition(
        number=number,
        offset=number * GIB,
        size=size,
        type_id=type_id,
        uuid=uuid or f"00000000-0000-4000-8000-{number:012d}",
        filesystem=Filesystem(kind=kind, uuid=f"uuid-part{number}") if kind else None,
        physical=physical,
    )


def disk(*partitions: Partition, table: str = "gpt", name: str = "sda.img", sector_bytes: int = 512) -> Disk:
    identity = {"gpt": GUID, "mbr": "00c0ffee", "": ""}[table]
    return Disk(
        name=name, size=30 * GIB, table=table, identity=identity, partitions=partitions, sector_bytes=sector_bytes
    )


def bios_mbr(*volumes: Volume) -> Layout:
    parts = (partition(1, 500 * MIB, "0x83", "ext2"), partition(2, 20 * GIB, "0x8e", physical="PV"))
    return Layout(disks=(disk(*parts, table="mbr"),), groups=(group(*volumes),))


def simple(*volumes: Volume) -> Layout:
    parts = (
        partition(1, MIB, BIOS_BOOT_TYPE),
        partition(2, 20 * GIB, GPT_LVM, physical="PV"),
    )
    return Layout(disks=(disk(*parts),), groups=(group(*volumes),))


def shape(plan: Plan) -> list[tuple[int, int, int]]:
    return [(part.number, part.offset // MIB, part.size // MIB) for part in plan.slices]


def test_bios_and_mbr_with_a_separate_boot_partition() -> None:
    plan = make_plan(bios_mbr(volume("root", 4 * GIB), volume("swap", 512 * MIB, "swap")))
    assert (plan.table, plan.identity, plan.firmware) == ("mbr", "00c0ffee", "bios")
    # /boot keeps its number, the physical volume's number is free, and everything is aligned to 1 MiB.
    assert shape(plan) == [(1, 1, 500), (2, 501, 4096), (3, 4597, 512)]
    assert [part.type_id for part in plan.slices] == ["0x83", "0x83", "0x82"]
    assert [(copy.name, copy.to) for copy in plan.copies] == [
        ("disk 1 partition 1", 1),
        ("vg0/root", 2),
        ("vg0/swap", 3),
    ]
    assert plan.size == 5109 * MIB
    assert plan.alias_map().find("/dev/mapper/vg0-root").tag == "UUID=uuid-root"  # type: ignore[union-attr]
    assert plan.alias_map().find("/dev/sda1").number == 1  # type: ignore[union-attr]
    assert not plan.notes


def test_an_mbr_that_cannot_hold_all_becomes_a_gpt_with_a_place_for_grub() -> None:
    names = ("root", "var", "home", "swap")
    plan = make_plan(bios_mbr(*(volume(name, GIB) for name in names)))
    assert plan.table == "gpt"
    # The place for GRUB's core lies first on the disk, and takes the first number that nobody wants.
    assert shape(plan) == [
        (1, 2, 500),
        (2, 502, 1024),
        (3, 1526, 1024),
        (4, 2550, 1024),
        (5, 3574, 1024),
        (6, 1, 1),
    ]
    assert plan.slice(6).type_id == BIOS_BOOT_TYPE
    assert any("5 partitions" in note for note in plan.notes)
    with pytest.raises(FlattenTableError):
        make_plan(bios_mbr(*(volume(name, GIB) for name in names)), Wishes(table="mbr"))


def test_uefi_keeps_esp_and_boot_with_their_identities() -> None:
    parts = (
        partition(1, 200 * MIB, ESP_TYPE, "fat32"),
        partition(2, 700 * MIB + 512, GPT_LINUX, "xfs"),
        partition(3, 20 * GIB, GPT_LVM, physical="PV"),
    )
    layout = Layout(disks=(disk(*parts),), groups=(group(volume("root", 4 * GIB), volume("home", GIB, "xfs")),))
    plan = make_plan(layout)
    assert plan.firmware == "uefi"
    assert plan.identity == GUID
    assert shape(plan) == [(1, 1, 200), (2, 201, 701), (3, 902, 4096), (4, 4998, 1024)]
    assert [plan.slice(number).uuid for number in (1, 2)] == [parts[0].uuid, parts[1].uuid]
    assert plan.copies[1].size == 700 * MIB + 512


def test_the_same_disks_give_the_same_plan_and_others_another_identity() -> None:
    assert make_plan(bios_mbr(volume("root", GIB))) == make_plan(bios_mbr(volume("root", GIB)))
    one, two = make_plan(bios_mbr(*(volume(n, GIB) for n in "abcd"))), None
    layout = bios_mbr(*(volume(n, GIB) for n in "abcd"))
    two = make_plan(Layout(disks=(disk(*layout.disks[0].partitions, table="mbr"),), groups=layout.groups))
    assert one.identity == two.identity
    assert len({part.uuid for part in one.slices}) == len(one.slices)


def test_two_disks_become_one_and_logical_partitions_get_numbers() -> None:
    first = disk(
        partition(1, 500 * MIB, "0x83", "ext2"),
        Partition(number=2, offset=GIB, size=20 * GIB, type_id="0x05", uuid="", container=True),
        partition(5, 19 * GIB, "0x8e", physical="PV"),
        partition(6, 256 * MIB, "0x82", "swap", uuid="00c0ffee-06"),
        table="mbr",
    )
    second = disk(table="", name="sdb.img")
    plan = make_plan(Layout(disks=(first, second), groups=(group(volume("root", GIB)),)))
    assert [(copy.name, copy.to) for copy in plan.copies] == [
        ("disk 1 partition 1", 1),
        ("disk 1 partition 6", 2),
        ("vg0/root", 3),
    ]
    assert plan.alias_map().find("/dev/sda6").number == 2  # type: ignore[union-attr]
    assert plan.alias_map().find("PARTUUID=00c0ffee-06").number == 2  # type: ignore[union-attr]


def test_snapshots_and_hidden_volumes_stay_behind() -> None:
    plan = make_plan(
        simple(
            volume("root", GIB),
            volume("before", GIB, type="snapshot", origin="root"),
            volume("pool", GIB, "", type="thin-pool"),
            volume("pool_tdata", GIB, "", visible=False),
        )
    )
    assert [copy.volume for copy in plan.copies] == ["root"]
    assert len(plan.notes) == 2


def test_a_partition_can_be_larger_than_its_volume() -> None:
    plan = make_plan(simple(volume("root", GIB)), Wishes(grow=(("root", 3 * GIB),)))
    number = plan.copies[-1].to
    assert plan.slice(number).size == 3 * GIB
    assert plan.grown == (number,)
    twice = (("root", 3 * GIB), ("vg0/root", 4 * GIB))
    for wrong in ((("root", MIB),), (("nothing", GIB),), twice, (twice[0], twice[0])):
        with pytest.raises(UsageError):
            make_plan(simple(volume("root", GIB)), Wishes(grow=wrong))


@pytest.mark.parametrize(
    ("layout", "expected"),
    [
        (Layout(disks=(disk(),)), FlattenNothingError),
        (Layout(disks=(disk(),), groups=(group(volume("root", GIB), complete=False),)), FlattenMissingError),
        (Layout(disks=(disk(),), groups=(group(volume("root", GIB), exported=True),)), FlattenExportedError),
        (simple(volume("root", GIB), volume("pvmove0", GIB, "", visible=False)), FlattenMotionError),
        (simple(volume("root", GIB, code="BS1005", refusal="it is in motion (LOCKED)")), FlattenMotionError),
        (simple(volume("root", GIB, type="raid5", code="BS1005", refusal="has been reshaped")), FlattenMotionError),
        (simple(volume("root", GIB, type="raid1", code="BS1005", refusal="no leg in sync")), FlattenUnsyncedError),
        (simple(volume("root", GIB, type="cache")), FlattenCacheError),
        (simple(volume("root", GIB, type="cache+CACHE_USES_CACHEVOL")), FlattenCacheError),
        (simple(volume("root", GIB, type="writecache")), FlattenCacheError),
        (simple(volume("root", GIB, type="vdo")), FlattenVdoError),
        (simple(volume("root", GIB), volume("vpool0", GIB, "", type="vdo-pool")), FlattenVdoError),
        (simple(volume("root", GIB, "luks")), FlattenEncryptedError),
        (simple(volume("root", GIB, "", code="BS1002", refusal="of a type that is not read")), FlattenRefusedError),
        (
            Layout(disks=(disk(sector_bytes=4096),), groups=(group(volume("root", GIB)),)),
            FlattenSectorError,
        ),
    ],
)
def test_what_is_refused_has_a_code_of_its_own(layout: Layout, expected: type[FlattenRefusedError]) -> None:
    with pytest.raises(FlattenRefusedError) as caught:
        make_plan(layout)
    assert type(caught.value) is expected


def test_encrypted_content_moves_when_it_is_named() -> None:
    plan = make_plan(simple(volume("root", GIB, "luks")), Wishes(encrypted=frozenset({"vg0/root"})))
    assert plan.aliases[-1].filesystem == "crypto_LUKS"


def test_a_target_that_is_too_small_is_refused() -> None:
    needed = make_plan(simple(volume("root", GIB))).size
    make_plan(simple(volume("root", GIB)), target_bytes=[needed])
    with pytest.raises(FlattenSpaceError):
        make_plan(simple(volume("root", GIB)), target_bytes=[needed - 512])


def written(plan_table: str, identity: str, slices: tuple[Slice, ...], size: int, path: Path) -> bytes:
    with path.open("wb") as file:
        file.truncate(size)
        for offset, data in encode(plan_table, identity, slices, size, 512):
            assert offset >= BOOT_CODE_BYTES
            file.seek(offset)
            file.write(data)
    return path.read_bytes()


@pytest.mark.parametrize("layout", [bios_mbr(volume("root", 8 * MIB)), simple(volume("root", 8 * MIB))])
def test_tables_are_read_as_meant_by_us_and_by_sfdisk(layout: Layout, tmp_path: Path) -> None:
    plan = make_plan(layout)
    image = tmp_path / "disk.img"
    content = written(plan.table, plan.identity, plan.slices, plan.size, image)
    table = read_partitions(BytesReader(content))
    assert table is not None
    assert (table.kind, table.identity, table.notes) == (plan.table, plan.identity, ())
    assert [(part.number, part.offset, part.size, part.type_id) for part in table.partitions] == [
        (part.number, part.offset, part.size, part.type_id) for part in plan.slices
    ]
    said = subprocess.run(["sfdisk", "--verify", image], capture_output=True, text=True, check=True)
    assert "No errors" in said.stdout + said.stderr
    listed = subprocess.run(["sfdisk", "--dump", image], capture_output=True, text=True, check=True).stdout
    assert listed.count("start=") == len(plan.slices)
    if plan.table == "gpt":
        checked = subprocess.run(["sgdisk", "--verify", image], capture_output=True, text=True, check=True)
        assert "No problems found" in checked.stdout


def test_a_master_boot_record_refuses_what_it_cannot_say() -> None:
    far = Slice(number=1, offset=3 << 40, size=MIB, type_id="0x83")
    with pytest.raises(FlattenTableError):
        encode("mbr", "00c0ffee", (far,), 4 << 40, 512)
    fifth = tuple(Slice(number=n, offset=n * MIB, size=MIB, type_id="0x83") for n in range(1, 6))
    with pytest.raises(FlattenTableError):
        encode("mbr", "00c0ffee", fifth, GIB, 512)
    outside = Slice(number=1, offset=0, size=MIB, type_id=GPT_LINUX, uuid=GUID)
    with pytest.raises(FlattenTableError):
        encode("gpt", GUID, (outside,), GIB, 512)

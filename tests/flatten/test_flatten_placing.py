"""What of several disks goes to which of several targets: the rule, the wishes, and what is refused. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from blocksync.errors import FlattenSpaceError, ProtocolError, UsageError
from blocksync.flatten import record
from blocksync.flatten.aliases import AliasMap
from blocksync.flatten.kinds import BIOS_BOOT_TYPE, ESP_TYPE, LINUX_TYPE
from blocksync.flatten.plan import Plan, make_plan
from blocksync.flatten.refusals import Wishes
from blocksync.flatten.system import Part, matches
from blocksync.volumes.layout import Disk, Filesystem, Group, Layout, Partition, Physical, Volume
from blocksync.volumes.lvm_groups import Group as LvmGroup
from blocksync.volumes.lvm_groups import LogicalVolume, Member, Segment
from blocksync.volumes.lvm_text import Section
from blocksync.volumes.weights import weigh

MIB = 1 << 20
GIB = 1 << 30
GUIDS = [f"01234567-89ab-4cde-8f01-23456789abc{number}" for number in range(4)]


def volume(name: str, **lies: int) -> Volume:
    """A volume with so many GiB on each of ``pv0``, ``pv1``, …"""
    return Volume(
        name=name,
        group="vg0",
        uuid=f"{name[:6]:x<6}-0000-0000-0000-0000-0000-000000",
        size=sum(lies.values()) * GIB,
        type="linear",
        weights=tuple((pv, size * GIB) for pv, size in lies.items()),
        filesystem=Filesystem(kind="ext4", uuid=f"uuid-{name}"),
    )


def part(number: int, type_id: str, kind: str = "", physical: str = "", disk: int = 0) -> Partition:
    return Partition(
        number=number,
        offset=number * GIB,
        size=GIB if not kind else 300 * MIB,
        type_id=type_id,
        uuid=f"0000000{disk}-0000-4000-8000-{number:012d}",
        filesystem=Filesystem(kind=kind, uuid=f"uuid-{disk}-{number}") if kind else None,
        physical=physical,
    )


def disk(index: int, *partitions: Partition, table: str = "gpt", physical: str = "", identity: str = "") -> Disk:
    return Disk(
        name=f"disk{index}.img",
        size=90 * GIB,
        table=table,
        identity=identity or (GUIDS[index] if table == "gpt" else "00c0ffee" if table else ""),
        partitions=partitions,
        physical=physical,
    )


def layout(*volumes: Volume, disks: tuple[Disk, ...]) -> Layout:
    physicals = tuple(
        Physical(name=f"pv{index}", uuid=f"pv{index}", disk=index, partition=0, size=80 * GIB)
        for index in range(len(disks))
    )
    group = Group(
        name="vg0",
        uuid="GGGGGG",
        extent_bytes=4 * MIB,
        seqno=3,
        exported=False,
        complete=True,
        physicals=physicals,
        volumes=volumes,
    )
    return Layout(disks=disks, groups=(group,))


SYSTEM = disk(0, part(1, BIOS_BOOT_TYPE), part(2, LINUX_TYPE, "ext4"), part(3, LINUX_TYPE, physical="pv0"))
DATA = disk(1, table="", physical="pv1")


def two(*volumes: Volume, second: Disk = DATA) -> Layout:
    return layout(*volumes, disks=(SYSTEM, second))


def names(plan: Plan) -> list[list[str]]:
    return [[copy.name for copy in target.copies] for target in plan.targets]


def test_what_is_on_a_disk_stays_together_and_a_volume_goes_where_most_of_it_lies() -> None:
    volumes = (
        volume("root", pv0=4),
        volume("home", pv1=8),
        volume("var", pv0=2, pv1=3),
        volume("striped", pv0=1, pv1=1),
        volume("log", pv1=1, pv0=2),
    )
    plan = make_plan(two(*volumes), Wishes(targets=2))
    assert names(plan) == [["disk 1 partition 2", "vg0/root", "vg0/striped", "vg0/log"], ["vg0/home", "vg0/var"]]
    first, second = plan.targets
    # The second one holds what it is for: no place for a boot loader, its own numbers from 1.
    assert [(each.number, each.offset) for each in second.slices] == [(1, MIB), (2, 8 * GIB + MIB)]
    assert BIOS_BOOT_TYPE in [each.type_id for each in first.slices]
    assert BIOS_BOOT_TYPE not in [each.type_id for each in second.slices]
    assert first.identity == GUIDS[0] != second.identity
    assert len({each.uuid for target in plan.targets for each in target.slices}) == 6 + len(second.slices) - 1
    # For one target all of that is as it was without a second one.
    assert make_plan(two(*volumes)) == make_plan(two(*volumes), Wishes(targets=1))
    assert make_plan(two(*volumes)).identity == first.identity


def test_the_same_disks_give_the_same_plan() -> None:
    wishes = Wishes(targets=2)
    there = two(volume("root", pv0=4), volume("home", pv1=8))
    assert make_plan(there, wishes) == make_plan(there, wishes)


def test_a_volume_goes_where_it_is_placed() -> None:
    volumes = (volume("root", pv0=4), volume("home", pv1=8), volume("db", pv1=1))
    plan = make_plan(two(*volumes), Wishes(targets=2, place={"home": 1, "vg0/root": 2}))
    assert names(plan) == [["disk 1 partition 2", "vg0/home"], ["vg0/root", "vg0/db"]]


@pytest.mark.parametrize(
    ("wishes", "said"),
    [
        (Wishes(targets=2, place={"nothing": 1}), "names no volume"),
        (Wishes(targets=2, place={"home": 3}), "there are 2 targets"),
        (Wishes(targets=2, place={"home": 0}), "there are 2 targets"),
        (Wishes(place={"home": 2}), "there is 1 target"),
        (Wishes(targets=2, place={"home": 1, "vg0/home": 2}), "twice"),
        (Wishes(targets=2, place={"home": 1}), "nothing goes to target 2"),
        (Wishes(targets=3), "nothing goes to target 3"),
        (Wishes(targets=0), "1 to 24"),
        (Wishes(targets=25), "1 to 24"),
    ],
)
def test_wishes_that_cannot_be_met_are_told(wishes: Wishes, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        make_plan(two(volume("root", pv0=4), volume("home", pv1=8)), wishes)


def test_disks_beyond_the_last_target_go_there_and_more_targets_than_disks_are_filled_by_wish() -> None:
    third = disk(2, part(1, LINUX_TYPE, "xfs", disk=2))
    there = layout(volume("root", pv0=4), volume("home", pv1=8), disks=(SYSTEM, DATA, third))
    assert names(make_plan(there, Wishes(targets=2)))[1] == ["disk 3 partition 1", "vg0/home"]
    four = make_plan(there, Wishes(targets=4, place={"home": 4, "root": 2}))
    assert names(four) == [["disk 1 partition 2"], ["vg0/root"], ["disk 3 partition 1"], ["vg0/home"]]


def test_partitions_of_a_further_disk_keep_their_numbers_names_and_identities_on_its_target() -> None:
    second = disk(1, part(1, LINUX_TYPE, "ext4", disk=1), part(2, LINUX_TYPE, physical="pv1", disk=1))
    plan = make_plan(two(volume("root", pv0=4), volume("home", pv1=8), second=second), Wishes(targets=2))
    assert plan.beside[0].identity == GUIDS[1]
    kept = plan.beside[0].slice(1)
    assert (kept.size, kept.uuid) == (300 * MIB, second.partitions[0].uuid)
    found = plan.alias_map().find("/dev/sdb1")
    assert found is not None
    assert (found.target, found.number, found.tag) == (1, 1, "UUID=uuid-1-1")


def test_disks_with_one_signature_get_two() -> None:
    first = disk(0, part(1, "0x83", "ext4"), part(2, "0x8e", physical="pv0"), table="mbr")
    second = disk(1, part(1, "0x8e", physical="pv1", disk=1), table="mbr")
    there = layout(volume("root", pv0=4), volume("home", pv1=8), disks=(first, second))
    plan = make_plan(there, Wishes(targets=2))
    assert [target.table for target in plan.targets] == ["mbr", "mbr"]
    assert plan.identity == "00c0ffee" != plan.beside[0].identity


def test_an_mbr_is_left_by_the_target_that_needs_it_alone() -> None:
    first = disk(0, part(1, "0x83", "ext4"), part(2, "0x8e", physical="pv0"), table="mbr")
    second = disk(1, part(1, "0x8e", physical="pv1", disk=1), table="mbr", identity="00c0ffef")
    data = [volume(name, pv1=1) for name in "abcde"]
    plan = make_plan(layout(volume("root", pv0=4), *data, disks=(first, second)), Wishes(targets=2))
    assert [target.table for target in plan.targets] == ["mbr", "gpt"]
    assert any(note.startswith("target 2 gets a GUID") for note in plan.notes)
    assert not plan.beside[0].notes
    assert all(each.type_id != BIOS_BOOT_TYPE for each in plan.beside[0].slices)


def test_an_esp_keeps_the_firmware_of_the_first_disk() -> None:
    first = disk(0, part(1, ESP_TYPE, "fat32"), part(2, LINUX_TYPE, physical="pv0"))
    plan = make_plan(layout(volume("root", pv0=4), volume("home", pv1=8), disks=(first, DATA)), Wishes(targets=2))
    assert plan.firmware == "uefi"
    assert not [each for target in plan.targets for each in target.slices if each.type_id == BIOS_BOOT_TYPE]


def test_the_target_that_is_too_small_is_named() -> None:
    there = two(volume("root", pv0=4), volume("home", pv1=8))
    needed = [target.size for target in make_plan(there, Wishes(targets=2)).targets]
    make_plan(there, Wishes(targets=2), target_bytes=needed)
    with pytest.raises(FlattenSpaceError, match="target 2 has"):
        make_plan(there, Wishes(targets=2), target_bytes=[needed[0], needed[1] - 512])
    with pytest.raises(FlattenSpaceError, match="target 1 has"):
        make_plan(there, Wishes(targets=2), target_bytes=[needed[0] - 512, needed[1]])


def test_growth_makes_the_target_of_its_volume_larger() -> None:
    there = two(volume("root", pv0=4), volume("home", pv1=8))
    before = make_plan(there, Wishes(targets=2))
    after = make_plan(there, Wishes(targets=2, grow=(("home", 12 * GIB),)))
    assert after.size == before.size
    assert after.beside[0].size == before.beside[0].size + 4 * GIB
    assert (after.grown, after.beside[0].grown) == ((), (1,))


def test_names_of_volumes_lead_to_their_own_target() -> None:
    plan = make_plan(two(volume("root", pv0=4), volume("home", pv1=8)), Wishes(targets=2))
    aliases = plan.alias_map()
    home = aliases.find("/dev/vg0/home")
    assert home is not None
    assert aliases.grub_device(home) == "hd1,gpt1"

    def there(target: int, number: int) -> Part:
        return Part(number=number, offset=0, size=1, type_id="", partuuid="", target=target)

    assert matches("/dev/vg0/home", there(1, 1), aliases)
    assert not matches("/dev/vg0/home", there(0, 1), aliases)
    assert isinstance(AliasMap((), "gpt", "mbr"), AliasMap)


def test_a_plan_of_several_targets_survives_the_way_and_hostile_ones_do_not() -> None:
    plan = make_plan(two(volume("root", pv0=4), volume("home", pv1=8)), Wishes(targets=2))
    said = json.loads(json.dumps(record.to_json(plan)))
    assert record.from_json(said) == plan
    del said["beside"]
    for alias in said["aliases"]:
        del alias["target"]
    assert record.from_json(said) == plan.targets[0]


def _nested(said: dict[str, object]) -> None:
    said["beside"] = [{**said, "beside": [said]}]


def _many(said: dict[str, object]) -> None:
    said["beside"] = [{**said, "beside": []}] * 40


def _none(said: dict[str, object]) -> None:
    said["beside"] = [{}]


def _text(said: dict[str, object]) -> None:
    said["beside"] = "beside"


@pytest.mark.parametrize("spoil", [_many, _none, _text])
def test_hostile_plans_are_refused(spoil: Callable[[dict[str, object]], None]) -> None:
    said = record.to_json(make_plan(two(volume("root", pv0=4), volume("home", pv1=8)), Wishes(targets=2)))
    spoil(said)
    with pytest.raises(ProtocolError):
        record.from_json(said)


def test_what_stands_beside_a_further_target_is_not_looked_at() -> None:
    said = record.to_json(make_plan(two(volume("root", pv0=4), volume("home", pv1=8)), Wishes(targets=2)))
    _nested(said)
    assert len(record.from_json(said).targets) == 2


# -- how much of a volume lies where -------------------------------------------------------------------------------


def segment(kind: str, extents: int, **values: object) -> Segment:
    section = Section("segment1")
    section.values.update(values)  # type: ignore[arg-type]
    return Segment(start_extent=0, extent_count=extents, type=kind, section=section)


def lvm_group(**volumes: tuple[Segment, ...]) -> LvmGroup:
    members = {
        name: Member(name=name, uuid=f"U{name}", pe_start=0, pe_count=99, device=None, missing_flag=False)
        for name in ("pv0", "pv1")
    }
    made = {
        name: LogicalVolume(name=name, uuid=name, size=0, visible=True, status=frozenset(), segments=segments)
        for name, segments in volumes.items()
    }
    return LvmGroup(
        name="vg", uuid="VG", seqno=1, extent_bytes=4, status=frozenset(), members=members, volumes=made,
        snapshots={}, notes=(),
    )  # fmt: skip


def test_the_weight_of_a_volume_is_found_through_all_that_it_stands_on() -> None:
    group = lvm_group(
        root=(segment("striped", 30, stripes=["pv0", 0]), segment("striped", 10, stripes=["pv1", 5])),
        striped=(segment("striped", 20, stripes=["pv0", 30, "pv1", 15]),),
        mirrored=(segment("raid1", 8, raids=["meta", "image"]),),
        meta=(segment("striped", 1, stripes=["pv1", 40]),),
        image=(segment("striped", 8, stripes=["pv1", 41]),),
        thin=(segment("thin", 50, thin_pool="pool"),),
        pool=(segment("thin-pool", 16, pool="data", metadata="pmeta"),),
        data=(segment("striped", 16, stripes=["pv1", 60]),),
    )
    found = weigh(group)
    assert found["root"] == {"Upv0": 120, "Upv1": 40}
    assert found["striped"] == {"Upv0": 40, "Upv1": 40}
    assert set(found["mirrored"]) == set(found["thin"]) == {"Upv1"}


def test_circles_depths_and_nonsense_end() -> None:
    chain = {f"v{n}": (segment("thin", 1, pool=f"v{n + 1}"),) for n in range(3000)}
    group = lvm_group(
        a=(segment("thin", 1, pool="b"),),
        b=(segment("thin", 1, pool="a"), segment("striped", 2, stripes=["pv0", 0])),
        odd=(segment("striped", 1, stripes=["pv0"]), segment("striped", 1, stripes=["gone", 0])),
        **chain,
    )
    found = weigh(group)
    assert found["a"] == {"Upv0": 8}
    assert found["odd"] == {}

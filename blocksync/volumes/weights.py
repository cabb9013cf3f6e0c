"""How much of each volume of a group lies on which physical volume, through all that it stands on.

A thin volume stands on its pool, a RAID on its images: whoever asks on which disk a volume lies means those too.
"""

from __future__ import annotations

from blocksync.errors import LayoutError
from blocksync.volumes.lvm_groups import Group
from blocksync.volumes.lvm_text import Section

_MOST_DEPTH = 8  # thin volume, pool, its data, a mirror or RAID, its images: LVM stacks no higher


def weigh(group: Group) -> dict[str, dict[str, int]]:
    """Bytes by the UUID of a physical volume, for each volume by name; none where the text does not say."""
    known: dict[str, dict[str, int]] = {}
    for name in group.volumes:
        _weigh(group, name, known, 0)
    return known


def _weigh(group: Group, name: str, known: dict[str, dict[str, int]], depth: int) -> dict[str, int]:
    if name in known:
        return known[name]
    found = known.setdefault(name, {})  # from here on: a circle ends at what is known so far
    volume = group.volumes.get(name)
    for segment in volume.segments if volume is not None else ():
        try:
            below = _below(segment.section)
        except LayoutError:
            continue  # told where the volume is opened
        share = segment.extent_count * group.extent_bytes // max(1, len(below))
        for each in below:
            member = group.members.get(each)
            if member is not None:
                _add(found, {member.uuid: share})
            elif depth < _MOST_DEPTH:
                _add(found, _weigh(group, each, known, depth + 1))
    return found


def _add(found: dict[str, int], more: dict[str, int]) -> None:
    for uuid, size in tuple(more.items()):
        found[uuid] = found.get(uuid, 0) + size


def _below(section: Section) -> list[str]:
    """What a segment stands on: physical volumes, or other volumes of the group."""
    names = [name for key in ("stripes", "mirrors") for name, _ in section.pairs(key)]
    names += [name for key in ("raids", "raid0_lvs") for name in section.texts(key)]
    return names + [name for key in ("thin_pool", "pool", "origin") if (name := section.text(key, ""))]

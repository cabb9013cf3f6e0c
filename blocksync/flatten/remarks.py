"""What whoever reads a plan should know of the disks, and what of them must not be taken at its word. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from blocksync.flatten.placing import flattened_volumes, kept_partitions
from blocksync.flatten.refusals import called_closed, closed, is_flattened
from blocksync.volumes.layout import Layout


def remarks(layout: Layout) -> Iterator[str]:
    """What concerns no single target."""
    for group in layout.groups:
        for volume in group.volumes:
            if volume.visible and not is_flattened(volume):
                yield f"{volume.path} is a snapshot or a pool: it is left behind"
    for each in closed(layout):
        yield f"{called_closed(*each)}: it is copied as it is, and what is inside is not flattened"
    twice = sorted(shared_uuids(layout))
    if twice:
        yield (
            f"several filesystems have the UUID {', '.join(twice)}: they are named by PARTUUID instead; what named "
            "them by UUID before cannot tell them apart"
        )


def shared_uuids(layout: Layout) -> frozenset[str]:
    """UUIDs that more than one filesystem of the targets will bear."""
    contents = [part.filesystem for _, part in kept_partitions(layout)]
    contents += [volume.filesystem for volume in flattened_volumes(layout)]
    uuids = [content.uuid for content in contents if content and content.uuid]
    return frozenset(found for found in uuids if uuids.count(found) > 1)


def printable(label: str) -> str:
    """A label as it may be shown and told; nothing is found by it."""
    return "".join(character if character.isprintable() else "?" for character in label)

"""Readers that put volumes together from parts: stripes, and the RAID levels as the kernel lays them out.

Formulae after ``raid5_compute_sector`` in ``drivers/md/raid5.c`` and ``__raid10_find_phys`` in ``raid10.c``; which name
means which is in ``raid_types`` of ``drivers/md/dm-raid.c``. Only data is read, parity never: an array with a part
out of sync is refused before it comes to this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

from blocksync.errors import LayoutDamagedError
from blocksync.volumes.reader import Composite, Reader, Run

Place: TypeAlias = "Callable[[int], tuple[int, int]]"
"""From the number of a piece to ``(part, row)``."""


class Striped(Composite):
    """Parts joined piece by piece.

    Args:
        parts: all of them, parity included, in their order.
        piece_bytes: the stripe size.
        place: where a piece lies.
    """

    kind = "a striped volume"

    def __init__(self, parts: list[Reader], piece_bytes: int, size: int, place: Place) -> None:
        if piece_bytes <= 0:
            raise LayoutDamagedError(f"a stripe size of {piece_bytes} bytes")
        self._parts = parts
        self._piece_bytes = piece_bytes
        self._place = place
        self.size = size

    def runs(self, offset: int, length: int) -> Iterator[Run]:
        end = offset + length
        while offset < end:
            piece, within = divmod(offset, self._piece_bytes)
            count = min(self._piece_bytes - within, end - offset)
            part, row = self._place(piece)
            yield self._parts[part], row * self._piece_bytes + within, count
            offset += count


def stripes(count: int) -> Place:
    """Plain striping, as RAID 0 with parts of one size."""
    return lambda piece: (piece % count, piece // count)


def near_copies(count: int, copies: int, best: Callable[[list[int]], int]) -> Place:
    """RAID 10, near layout: ``copies`` neighbours hold each piece; ``best`` picks one of those parts.

    Copies of one piece may lie in two rows where the number of parts is no multiple of the number of copies.
    """

    def place(piece: int) -> tuple[int, int]:
        first = piece * copies
        part = best([(first + copy) % count for copy in range(copies)])
        ahead = (part - first) % count
        return part, (first + ahead) // count

    return place


def parity(kind: str, count: int) -> Place:
    """RAID 4, 5 and 6 by LVM's names; ``count`` parts in all.

    Raises:
        KeyError: the name is not one of these; see :data:`PARITY_LAYOUTS`.
    """
    parities, part_of = PARITY_LAYOUTS[kind]
    data = count - parities

    def place(piece: int) -> tuple[int, int]:
        row, index = divmod(piece, data)
        return part_of(row, index, count), row

    return place


def _skip(index: int, parity_at: int, width: int = 1) -> int:
    return index if index < parity_at else index + width


def _rotating_6(index: int, parity_at: int, count: int) -> int:
    # P and Q are neighbours; where P is the last part, Q is the first.
    return index + 1 if parity_at == count - 1 else _skip(index, parity_at, 2)


PARITY_LAYOUTS: dict[str, tuple[int, Callable[[int, int, int], int]]] = {
    "raid4": (1, lambda _row, i, _n: i + 1),
    "raid5": (1, lambda row, i, n: (n - row % n + i) % n),
    "raid5_ls": (1, lambda row, i, n: (n - row % n + i) % n),
    "raid5_rs": (1, lambda row, i, n: (row % n + 1 + i) % n),
    "raid5_la": (1, lambda row, i, n: _skip(i, n - 1 - row % n)),
    "raid5_ra": (1, lambda row, i, n: _skip(i, row % n)),
    "raid5_n": (1, lambda _row, i, _n: i),
    "raid6": (2, lambda row, i, n: _rotating_6(i, row % n, n)),
    "raid6_zr": (2, lambda row, i, n: _rotating_6(i, row % n, n)),
    "raid6_nr": (2, lambda row, i, n: _rotating_6(i, n - 1 - (row + 1) % n, n)),
    "raid6_nc": (2, lambda row, i, n: (n - row % n + i) % n),
    "raid6_n_6": (2, lambda _row, i, _n: i),
    "raid6_ls_6": (2, lambda row, i, n: (n - 1 - row % (n - 1) + i) % (n - 1)),
    "raid6_rs_6": (2, lambda row, i, n: (row % (n - 1) + 1 + i) % (n - 1)),
    "raid6_la_6": (2, lambda row, i, n: _skip(i, n - 2 - row % (n - 1))),
    "raid6_ra_6": (2, lambda row, i, n: _skip(i, row % (n - 1))),
}

"""What a planted bug is, and the words for gates."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Bug:
    """A patch and who must notice it.

    Args:
        name: what is wrong, for people; unique.
        file: below ``blocksync/``.
        old, new: ``old`` must stand in the file exactly once, or the catalogue has to be mended.
        gate: a pytest node or file below ``tests/``, ``runs`` (random runs of both ends), ``flips``, or
            ``scopes NAME`` (the small scopes whose name contains NAME).
        kernels: which implementation the gate runs on, where that matters.
    """

    name: str
    file: str
    old: str
    new: str
    gate: str
    kernels: str = ""

    @property
    def room(self) -> str:
        """The folder, or the module at the top."""
        return self.file.partition("/")[0].removesuffix(".py")

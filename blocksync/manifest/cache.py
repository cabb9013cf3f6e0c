"""The sender's copy of a manifest: a hint that saves fetching it, never an authority."""

from __future__ import annotations

import contextlib

from blocksync.errors import BlocksyncError, StateError
from blocksync.geometry import Geometry
from blocksync.kernels import DigestKind
from blocksync.manifest.base import ManifestFile, write_manifest
from blocksync.manifest.folder import Folder
from blocksync.manifest.format import Header
from blocksync.manifest.working import BlockMap

COPY_FILE = "manifest"


class ManifestCopy:
    """A copy in a folder of its own.

    Args:
        folder: held by the caller for as long as this is used.
    """

    def __init__(self, folder: Folder) -> None:
        self._folder = folder

    def load(self, manifest_id: bytes, geometry: Geometry, kind: DigestKind, key: bytes) -> BlockMap:
        """A map that begins with the copy where it is of this manifest and sound, else with nothing known."""
        base: ManifestFile | None = None
        if self._folder.exists(COPY_FILE):
            try:
                base = ManifestFile(self._folder.open(COPY_FILE))
            except BlocksyncError:
                base = None  # damaged or of another version: the receiver's is fetched instead
        if base is not None:
            header = base.header
            if (header.manifest_id, header.geometry, header.kind, header.key) != (manifest_id, geometry, kind, key):
                base.close()
                base = None
        return BlockMap(geometry, kind, key, base=base, folder=self._folder)

    def save(self, known: BlockMap, generation: int, manifest_id: bytes) -> None:
        """Keep the map as the copy of a committed generation.

        Raises:
            StateError: it cannot be written; the pass is committed all the same.
        """
        header = Header(
            manifest_id=manifest_id,
            generation=generation,
            complete=True,
            covered=0,
            epoch=0,
            geometry=known.geometry,
            kind=known.kind,
            key=known.key,
            root=known.root(),
            table_checksum=0,
            source_identity="",
            write_mark="",
        )
        write_manifest(self._folder, COPY_FILE, header, known)

    def drop(self) -> None:
        """Forget the copy, because it proved damaged."""
        with contextlib.suppress(StateError):
            self._folder.remove(COPY_FILE)

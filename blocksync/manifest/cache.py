"""The sender's copy of a manifest: a hint that saves fetching it, never an authority."""

from __future__ import annotations

import contextlib
import json
import struct
import zlib
from typing import Any

from blocksync.errors import BlocksyncError, StateError
from blocksync.geometry import Geometry
from blocksync.kernels import DigestKind
from blocksync.manifest.base import ManifestFile, write_manifest
from blocksync.manifest.folder import Folder
from blocksync.manifest.format import Header
from blocksync.manifest.working import BlockMap

COPY_FILE = "manifest"
CHANGES_FILE = "changes"
# What was left unread may be millions of runs; a file that is longer than what is written here is none of ours.
MOST_TOKEN_BYTES = 64 << 20
_CHECKSUM = struct.Struct("<I")


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

    def save_token(self, manifest_id: bytes, generation: int, root: bytes, token: dict[str, str]) -> None:
        """Keep a tracker's token beside the copy, bound to the generation that it belongs to.

        Raises:
            StateError: it cannot be written.
        """
        body = {"manifest": manifest_id.hex(), "generation": generation, "root": root.hex(), "token": token}
        raw = json.dumps(body).encode()
        temporary = f"{CHANGES_FILE}.new"
        file = self._folder.open(temporary, create=True)
        try:
            file.pwrite(0, _CHECKSUM.pack(zlib.crc32(raw)) + raw)
            file.sync()
        finally:
            file.close()
        self._folder.replace(temporary, CHANGES_FILE)
        self._folder.sync()

    def load_token(self, manifest_id: bytes, generation: int, root: bytes | None) -> dict[str, str] | None:
        """The token of exactly this generation; None where there is none that is sound.

        Args:
            root: of the digest tree that was committed then; None where that is not known.
        """
        body = self._kept()
        if body is None or (body["manifest"], body["generation"]) != (manifest_id.hex(), generation):
            return None
        return _token(body) if root is None or body["root"] == root.hex() else None

    def any_token(self) -> dict[str, str] | None:
        """The token of whatever generation, for whoever removes what it names."""
        body = self._kept()
        return None if body is None else _token(body)

    def _kept(self) -> dict[str, Any] | None:
        try:
            if not self._folder.exists(CHANGES_FILE):
                return None
            file = self._folder.open(CHANGES_FILE)
            try:
                raw = file.pread(0, MOST_TOKEN_BYTES)
            finally:
                file.close()
            if len(raw) < _CHECKSUM.size or _CHECKSUM.unpack_from(raw)[0] != zlib.crc32(raw[_CHECKSUM.size :]):
                return None
            body = json.loads(raw[_CHECKSUM.size :])
        except (StateError, ValueError, RecursionError):
            return None
        sound = isinstance(body, dict) and {"manifest", "generation", "root", "token"} <= body.keys()
        return body if sound and isinstance(body["token"], dict) else None

    def drop(self) -> None:
        """Forget the copy, because it proved damaged."""
        with contextlib.suppress(StateError):
            self._folder.remove(COPY_FILE)


def _token(body: dict[str, Any]) -> dict[str, str]:
    return {str(name): str(value) for name, value in body["token"].items()}

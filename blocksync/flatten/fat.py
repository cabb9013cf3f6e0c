"""An EFI system partition as a tree, by mtools: kernels of small machines often cannot mount FAT.

mtools reads and writes ``image@@offset`` itself; no root is needed. FAT has no symlinks, owners or modes.
"""

from __future__ import annotations

import os
import subprocess
import tempfile

from blocksync.errors import GuestFileError, GuestMountError
from blocksync.flatten.tree import MOST_NAMES, Parts, Tree, check_size

_SECONDS = 120
_MOST_LISTING_BYTES = 8 << 20


class FatTree(Tree):
    """Args: path of the target, offset of the partition in bytes."""

    def __init__(self, path: str, offset: int) -> None:
        self._image = f"{os.path.abspath(path)}@@{offset}"
        self._listings: dict[Parts, dict[str, str]] = {}

    def kind(self, path: Parts) -> str:
        if not path:
            return "folder"
        return self._listing(path[:-1]).get(path[-1].lower(), "") if self.kind(path[:-1]) == "folder" else ""

    def names(self, path: Parts) -> list[str]:
        return sorted(self._names(path))

    def link(self, path: Parts) -> str:
        raise GuestFileError(f"/{'/'.join(path)}: FAT has no symlinks")

    def read(self, path: Parts, most: int) -> bytes:
        data = self._run("mtype", self._at(path), most=most + 1)
        check_size(len(data), most, f"ESP: /{'/'.join(path)}")
        return data

    def write(self, path: Parts, data: bytes, *, mode: int = 0o644) -> None:
        del mode
        with tempfile.NamedTemporaryFile(prefix="blocksync-") as file:
            file.write(data)
            file.flush()
            self._run("mcopy", "-o", file.name, self._at(path))
        self._listings.clear()

    def make_folder(self, path: Parts) -> None:
        if self.kind(path) != "folder":
            self._run("mmd", self._at(path))
            self._listings.clear()

    def make_link(self, path: Parts, target: str) -> None:
        raise GuestFileError(f"/{'/'.join(path)} -> {target}: FAT has no symlinks")

    def remove(self, path: Parts) -> None:
        self._run("mdel", self._at(path))
        self._listings.clear()

    def sync(self) -> None:
        """mtools has written when it ends; the target is synced by whoever holds it."""

    def close(self) -> None:
        """Nothing is held."""

    # -- inside -----------------------------------------------------------------------------------------------

    def _names(self, path: Parts) -> list[str]:
        listed = self._run("mdir", "-b", "-a", self._at(path), most=_MOST_LISTING_BYTES).decode(
            "utf-8", "surrogateescape"
        )
        found = [line.rstrip("/").rpartition("/")[2] for line in listed.splitlines() if line.strip()]
        if len(found) > MOST_NAMES:
            raise GuestFileError(f"ESP: /{'/'.join(path)} holds more than {MOST_NAMES} names")
        return [name for name in found if name not in (".", "..", "")]

    def _listing(self, path: Parts) -> dict[str, str]:
        if path not in self._listings:
            listed = self._run("mdir", "-b", "-a", self._at(path), most=_MOST_LISTING_BYTES)
            found: dict[str, str] = {}
            for line in listed.decode("utf-8", "surrogateescape").splitlines():
                name = line.rstrip("/").rpartition("/")[2].lower()
                found[name] = "folder" if line.endswith("/") else "file"
            self._listings[path] = found
        return self._listings[path]

    def _at(self, path: Parts) -> str:
        return "::/" + "/".join(path)

    def _run(self, tool: str, *words: str, most: int = _MOST_LISTING_BYTES) -> bytes:
        command = [tool, "-i", self._image, *words]
        environment = {**os.environ, "MTOOLS_SKIP_CHECK": "1", "LC_ALL": "C.UTF-8"}
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
            )
        except FileNotFoundError as error:
            raise GuestMountError(
                "the EFI system partition cannot be mounted by this kernel, and mtools is missing",
                remedy="install mtools; then blocksync flatten --repair TARGET",
            ) from error
        with process:
            assert process.stdout is not None
            assert process.stderr is not None
            try:
                data = process.stdout.read(most)
                if len(data) == most:
                    process.kill()
                said = process.stderr.read(4096)
                code = process.wait(_SECONDS)
            except BaseException:
                process.kill()
                raise
        if code and len(data) < most:
            raise GuestFileError(f"{tool} {words[-1]}: {said.decode('utf-8', 'replace').strip()[:200]}")
        return data

"""An ext2, ext3 or ext4 as a tree, by debugfs: without root rights, without the kernel's filesystem code.

``image?offset=N`` is understood by e2fsprogs' own IO layer. debugfs follows no symlinks in the paths it is given
for the requests used here beyond the last folder, and :class:`~blocksync.flatten.tree.Guest` gives it resolved
paths only. Names with quotes or line ends cannot be said to it and are refused.
"""

from __future__ import annotations

import os
import re
import stat
import subprocess
import tempfile

from blocksync.errors import GuestFileError, GuestMountError
from blocksync.flatten.tree import MOST_NAMES, Parts, Tree, check_size

_SECONDS = 300
_ENTRY = re.compile(r"^/(\d+)/(\d+)/(\d+)/(\d+)/(.*)/(\d*)/$", re.DOTALL)


class ExtTree(Tree):
    """A filesystem inside an image.

    Args:
        path: of the target.
        offset: of the partition, bytes.
        write: a journal is replayed first, by e2fsck.
    """

    def __init__(self, path: str, offset: int, *, write: bool) -> None:
        self._image = f"{os.path.abspath(path)}?offset={offset}"
        if "?" in path or " " in path:
            raise GuestMountError(
                f"debugfs cannot be told the path {path}", remedy="rename the target, or run as root"
            )
        self._listings: dict[Parts, dict[str, int]] = {}
        if write:
            code, said = self._run(["e2fsck", "-p", self._image])
            if code > 2:
                raise GuestMountError(
                    f"e2fsck finds the filesystem damaged: {said.decode('utf-8', 'replace')[:200]}"
                )

    def kind(self, path: Parts) -> str:
        if not path:
            return "folder"
        mode = self._mode(path)
        if not mode:
            return ""
        if stat.S_ISDIR(mode):
            return "folder"
        return "file" if stat.S_ISREG(mode) else "link" if stat.S_ISLNK(mode) else "other"

    def names(self, path: Parts) -> list[str]:
        return sorted(self._listing(path))

    def link(self, path: Parts) -> str:
        said = self._ask(f"stat {self._quoted(path)}").decode("utf-8", "surrogateescape")
        found = re.search(r'^Fast link dest: "(.*)"$', said, re.MULTILINE)
        if found:
            return found[1]
        return self._ask(f"cat {self._quoted(path)}").decode("utf-8", "surrogateescape")

    def read(self, path: Parts, most: int) -> bytes:
        said = self._ask(f"stat {self._quoted(path)}").decode("utf-8", "surrogateescape")
        size = re.search(r"\bSize: (\d+)", said)
        check_size(int(size[1]) if size else 0, most, f"/{'/'.join(path)}")
        with tempfile.TemporaryDirectory(prefix="blocksync-") as folder:
            out = os.path.join(folder, "content")
            self._ask(f"dump {self._quoted(path)} {out}")
            with open(out, "rb") as file:
                return file.read(most + 1)

    def write(self, path: Parts, data: bytes, *, mode: int = 0o644) -> None:
        where = self._quoted(path)
        old = self._mode(path)
        owner = self._ask(f"stat {where}").decode("utf-8", "replace") if old else ""
        with tempfile.NamedTemporaryFile(prefix="blocksync-") as file:
            file.write(data)
            file.flush()
            if old:
                self._change(f"rm {where}")
            self._change(f"write {file.name} {where}")
        self._listings.clear()
        self._change(f"sif {where} mode 0{stat.S_IFREG | (stat.S_IMODE(old) if old else mode):o}")
        ids = re.search(r"User:\s*(\d+)\s+Group:\s*(\d+)", owner)
        for name, value in (("uid", ids[1] if ids else "0"), ("gid", ids[2] if ids else "0")):
            self._change(f"sif {where} {name} {value}")
        if self.read(path, len(data) + 1) != data:
            raise GuestFileError(f"/{'/'.join(path)} was not written as it should: is the filesystem full?")

    def make_folder(self, path: Parts) -> None:
        if self.kind(path) != "folder":
            self._change(f"mkdir {self._quoted(path)}")
            self._listings.clear()
            self._change(f"sif {self._quoted(path)} mode 040700")

    def make_link(self, path: Parts, target: str) -> None:
        if '"' in target or "\n" in target:
            raise GuestFileError(f"debugfs cannot be told the link {target[:100]!r}", remedy="run as root")
        self._change(f'symlink {self._quoted(path)} "{target}"')
        self._listings.clear()

    def remove(self, path: Parts) -> None:
        self._change(f"rm {self._quoted(path)}")
        self._listings.clear()

    def sync(self) -> None:
        """debugfs has written when it ends; the target is synced by whoever holds it."""

    def close(self) -> None:
        """Nothing is held."""

    # -- inside -----------------------------------------------------------------------------------------------

    def _mode(self, path: Parts) -> int:
        for length in range(1, len(path)):
            if not stat.S_ISDIR(self._listing(path[: length - 1]).get(path[length - 1], 0)):
                return 0
        return self._listing(path[:-1]).get(path[-1], 0)

    def _listing(self, path: Parts) -> dict[str, int]:
        if path not in self._listings:
            found: dict[str, int] = {}
            said = self._ask(f"ls -p {self._quoted(path)}").decode("utf-8", "surrogateescape")
            for line in said.splitlines():
                entry = _ENTRY.match(line)
                if entry and int(entry[1]) and entry[5] not in (".", ".."):
                    found[entry[5]] = int(entry[2], 8)
                if len(found) > MOST_NAMES:
                    raise GuestFileError(f"/{'/'.join(path)} holds more than {MOST_NAMES} names")
            self._listings[path] = found
        return self._listings[path]

    def _quoted(self, path: Parts) -> str:
        text = "/" + "/".join(path)
        if '"' in text or "\n" in text:
            raise GuestFileError(f"debugfs cannot be told the path {text[:100]!r}", remedy="run as root")
        return f'"{text}"'

    def _ask(self, request: str) -> bytes:
        _, said = self._run(["debugfs", "-R", request, self._image])
        return said

    def _change(self, request: str) -> None:
        self._run(["debugfs", "-w", "-R", request, self._image])

    def _run(self, words: list[str]) -> tuple[int, bytes]:
        try:
            done = subprocess.run(
                words,
                check=False,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_SECONDS,
                env={**os.environ, "LC_ALL": "C", "DEBUGFS_PAGER": "cat", "PAGER": "cat"},
            )
        except FileNotFoundError as error:
            raise GuestMountError(
                f"{words[0]} is missing on this machine", remedy="install e2fsprogs, or run as root"
            ) from error
        except subprocess.TimeoutExpired as error:
            raise GuestMountError(f"{words[0]} took more than {_SECONDS} s") from error
        if done.returncode and words[0] == "debugfs":
            raise GuestMountError(f"debugfs failed: {done.stderr.decode('utf-8', 'replace').strip()[:200]}")
        return done.returncode, done.stdout
